"""What `init` asks at a terminal. Enter takes the guess that stands in brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from rir_cli.context import tell, wrapped
from rir_mlx.progress import counted, shortened

if TYPE_CHECKING:
    from rir_mlx.guide.first_recipe import ModelChoice, TableLook
    from rir_mlx.guide.table.labels import LabelFacts

_MANY_LABELS = 20


def ask(question: str, default: str = "") -> str:
    """An answer on one line; Enter is the default."""
    shown = wrapped(f"{question} [{default}]:" if default else f"{question}:")
    return str(typer.prompt(shown, default=default, show_default=False, prompt_suffix=" ", err=True)).strip()


def agrees(question: str, *, default: bool) -> bool:
    """Yes or no; Enter is the default."""
    shown = wrapped(f"{question} [{'Y/n' if default else 'y/N'}]:")
    return typer.confirm(shown, default=default, show_default=False, prompt_suffix=" ", err=True)


def ask_columns(look: TableLook) -> tuple[Sequence[str], Sequence[str]]:
    """The names of the text columns and of the label's; none where they are the guesses."""
    from rir_mlx.guide.table.columns import shown_values

    sure = look.text is not None and len(look.labels) == 1
    if sure and agrees("Are these the columns?", default=True):
        above = f"Put {look.headline} above the text? What is classified later then needs it, too."
        both = look.headline and agrees(above, default=False)
        return ((look.headline, *look.text.columns) if both and look.headline and look.text else ()), ()
    for column in look.table.columns:
        tell(f"  {column.name}: {shown_values(column)}", err=True)
    names = look.table.names
    text = _some_of("Which columns hold the text?", names, look.text.columns if look.text else ())
    left = [name for name in names if name not in text]
    label = _some_of("Which column holds the label?", left, look.labels[0].columns if look.labels else ())
    return () if look.text and text == look.text.columns else text, label


def ask_descriptions(facts: LabelFacts) -> dict[str, str]:
    """What each label means, from rows of it. None is asked for if there are many labels, unless the user wants to."""
    count = len(facts.counts)
    if count > _MANY_LABELS and not agrees(
        f"Describe the {count} labels now? The recipe has a place for it, too.", default=False
    ):
        return {}
    tell("The model reads what the labels mean. Say it in a few words, or press Enter to leave it out.", err=True)
    found = {}
    for label, rows in facts.counts.items():
        tell(f"\n{label}, {counted(rows, 'row')}, such as:", err=True)
        for text in facts.examples[label]:
            tell(f"    {shortened(text, 100)}", err=True)
        found[label] = ask(f"What does {label} mean?")
    return found


def ask_model(choices: Sequence[ModelChoice]) -> ModelChoice:
    """One of the models, by its number."""
    if len(choices) == 1:
        return choices[0]
    for number, choice in enumerate(choices, 1):
        tell(f"  {number}. {choice.model.name}: {choice.reason}", err=True)
    numbers: Mapping[str, ModelChoice] = {str(number): choice for number, choice in enumerate(choices, 1)}
    return numbers[_one_of("Which model?", list(numbers), "1")]


def ask_time(default: str) -> float:
    """How long training may take, in seconds."""
    from rir_mlx.errors import UserError
    from rir_mlx.guide.planning import seconds_of

    while True:
        try:
            return seconds_of(ask("How long may training take? (30m, 2h, 1d)", default))
        except UserError as error:
            tell(str(error), err=True)


def _some_of(question: str, known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Several, with commas between them; a name may hold commas itself."""
    while (answer := ask(question, ", ".join(default))) not in known:
        found = tuple(name.strip() for name in answer.split(","))
        if answer == ", ".join(default) and default:
            return tuple(default)
        if found[0] and set(found) <= set(known) and len(set(found)) == len(found):
            return found
        tell(f"Name one or several of these, with commas between: {', '.join(known)}.", err=True)
    return (answer,)


def _one_of(question: str, known: Sequence[str], default: str) -> str:
    while (answer := ask(question, default)) not in known:
        tell(f"That is none of: {', '.join(known)}.", err=True)
    return answer
