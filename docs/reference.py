"""The generated pages, made from the recipe's docstrings, the command line's own help and the library's docstrings.

Nothing here knows MkDocs: a page is a path and its Markdown.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from schema_pages import comparison_page, one_line, recipe_page
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

ROOT = Path(__file__).resolve().parents[1]

MEASUREMENTS = {
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/reasoning.md": "benchmarks-reasoning.md",
    "benchmarks/exactness.md": "benchmarks-exactness.md",
}
"""The repository's pages of measurements, and their pages in the site."""
GENERATED = (
    "reference/recipe.md",
    "reference/comparison.md",
    "reference/commands.md",
    "reference/python.md",
    *MEASUREMENTS.values(),
    "changelog.md",
)


def generated_pages() -> dict[str, str]:
    """Every generated page by its path in the site."""
    return {
        "reference/recipe.md": recipe_page(),
        "reference/comparison.md": comparison_page(),
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    } | {page: _measurements(file) for file, page in MEASUREMENTS.items()}


def _measurements(file: str) -> str:
    """A page of measurements with the links of the site."""
    text = (ROOT / file).read_text(encoding="utf-8").replace("](../docs/", "](")
    for other, page in MEASUREMENTS.items():
        text = text.replace(f"]({Path(other).name}", f"]({page}")
    return text


def commands(app: typer.Typer | None = None, path: str = "rir-mlx") -> Iterator[tuple[str, CommandInfo]]:
    """Every command with its full name, in the order of `--help`; groups are taken apart."""
    if app is None:
        from rir_cli.app import app
    for command in app.registered_commands:
        assert command.callback is not None
        yield f"{path} {command.name or command.callback.__name__.replace('_', '-')}", command
    for group in app.registered_groups:
        yield from commands(group.typer_instance, f"{path} {group.name}")


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "Data goes to stdout; progress and messages go to stderr. Exit codes: 0 done, 1 the work failed, 2 your",
        "mistake, 130 interrupted, 141 nobody reads its output any more (`| head -1`), as of other programs in a pipe.",
        "`RIR_DEBUG=1` shows the traceback behind an error.",
        "",
    ]
    for name, command in commands():
        parameters = list(_parameters(command.callback))
        arguments = "".join(f" {shown}" for shown, kind, _ in parameters if kind == "argument")
        lines += [f"## {name}", "", *_paragraphs(command.help or inspect.getdoc(command.callback))]
        lines += ["```", f"{name} [OPTIONS]{arguments}", "```", "", "| | |", "|---|---|"]
        lines += [f"| `{shown}` | {text} |" for shown, _, text in parameters]
        lines += [""]
    return "\n".join(lines)


def _paragraphs(text: str | None) -> list[str]:
    return [part for paragraph in inspect.cleandoc(text or "").split("\n\n") for part in (one_line(paragraph), "")]


def _parameters(function: Any) -> Iterator[tuple[str, str, str]]:
    """How each parameter of a command is written, whether it is an argument or an option, and what it does."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = hints[name]
        info = next(item for item in annotation.__metadata__ if isinstance(item, (ArgumentInfo, OptionInfo)))
        if info.hidden:
            continue
        required = parameter.default is inspect.Parameter.empty
        parts = [part for part in _plain_types(annotation) if part is not type(None)]
        kinds = [part for part in parts if isinstance(part, type)]
        choices = [part for part in parts if not isinstance(part, type)]  # of a Literal
        choices += [value.value for kind in kinds if issubclass(kind, Enum) for value in kind]
        default = getattr(parameter.default, "value", parameter.default)
        text = one_line(info.help)
        text += f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        text += " Required." if required and isinstance(info, OptionInfo) else ""
        text += "" if required or default in (None, False) else f" Default: `{default}`."
        if isinstance(info, ArgumentInfo):
            yield (name.upper() if required else f"[{name.upper()}]"), "argument", text
            continue
        named = (*([info.default] if isinstance(info.default, str) else []), *(info.param_decls or ()))
        names = [text for text in named if text.startswith("-")] or [f"--{name.rstrip('_').replace('_', '-')}"]
        value = "" if kinds == [bool] else f" {info.metavar or _value_name(names[0], kinds, choices)}"
        yield ", ".join(names) + value.replace("STR", "TEXT"), "option", text


def _value_name(option: str, kinds: list[type], choices: list[Any]) -> str:
    """What stands for an option's value: the option's own name if it has choices, else the type."""
    return option.lstrip("-").replace("-", "_").upper() if choices else kinds[-1].__name__.upper()


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The classes that an annotation is made of, without containers, and the values of a Literal."""
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif arguments := get_args(annotation):
        for argument in arguments:
            yield from _plain_types(argument)
    else:
        yield annotation


def python_page() -> str:
    """What `import rir_mlx` and `import rir_convert` give: functions, then classes, then errors."""
    import rir_convert

    import rir_mlx
    from rir_mlx.stages.opening import OpenOptions

    lines = ["# Python", "", "What the packages themselves give. Other modules may change with any version.", ""]
    for package in (rir_mlx, rir_convert):
        names = [name for name in getattr(package, "__all__", ()) if name != "__version__"]
        members = sorted(((name, getattr(package, name)) for name in names), key=lambda member: _rank(member[1]))
        if members:
            lines += [f"`from {package.__name__} import {', '.join(name for name, _ in members)}`", ""]
        for name, value in members:
            lines += _member(name, value)
        if package is rir_mlx:
            lines += ["## Options of the stages", "", *_docstring_as_text(OpenOptions)]
    return "\n".join(lines)


def _rank(value: Any) -> int:
    """Functions first, then classes, then errors."""
    return (1 + issubclass(value, BaseException)) if inspect.isclass(value) else 0


def _member(name: str, value: Any) -> list[str]:
    lines = [f"## `{name}`", ""]
    if inspect.isclass(value) and issubclass(value, BaseException):
        return [*lines, f"An error, a kind of `{value.__base__.__name__}`.", "", *_docstring(value)]
    if inspect.isclass(value) and issubclass(value, BaseModel):
        return [*lines, *_docstring(value), "Its keys: [recipe keys](recipe.md).", ""]
    if callable(value):
        lines += ["```python", f"{name}{_signature(value)}", "```", ""]
    lines += _docstring(value)
    if inspect.isclass(value):
        for method, function in inspect.getmembers(value, callable):
            if not method.startswith("_") and method in _own_members(value):
                lines += [f"### `{name}.{method}`", "", "```python", f"{method}{_signature(function)}", "```", ""]
                lines += _docstring(function)
    return lines


def _own_members(value: type) -> set[str]:
    return {member for base in value.__mro__ if base.__module__.startswith("rir_") for member in vars(base)}


def _signature(function: Any) -> str:
    """The signature as the source spells it."""
    signature = inspect.signature(function)
    shown, star = [], False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        shown.append(f"{mark}{parameter.name}{_annotated(': ', parameter.annotation)}{default}")
    return f"({', '.join(shown)}){_annotated(' -> ', signature.return_annotation)}"


def _annotated(before: str, annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return before + re.sub(r"Unpack\[(\w+)\]", r"\1", text)


def _docstring(value: Any) -> list[str]:
    return [inspect.getdoc(value) or "", ""]


def _docstring_as_text(value: Any) -> list[str]:
    """A docstring whose columns are aligned by hand."""
    return ["```text", inspect.getdoc(value) or "", "```", ""]
