"""Pages show only what exists: commands that parse, keys that a recipe has, messages that the code prints."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pages
import pytest
import typer.main
import yaml
from families import FAMILIES, IGNORED_BY_MLX, TITLES
from pages import ROOT, Place
from pydantic import BaseModel, ValidationError
from reference import GENERATED
from rir_cli.app import app

from rir_mlx.recipe.builtin import EMBEDDED
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import Recipe
from rir_mlx.types import SHIPPED

_SOURCES = ("rir_mlx", "cli", "convert")
_FOREIGN_OPTIONS = {"--hosts", "--adapter-path", "--strict"}
_RECIPE_COMMANDS = ("run", "recipe", "train-rgen", "augment", "train-classifier", "evaluate")
_BAR_LINE = re.compile(r"^\S+ +\d+\.\d%( +█*)?$")
_VALUES = {"delivery", "refund", "praise", "why"}
"""Labels and columns of the tutorial's table."""
_MODEL_OUTPUT = {"The writer waits for the lamp, which is not here."}
_DEMO_REASONING = re.compile(r"(q[ar]+: )?(Being|The) .+\. The cue .+ shows \w+\.")


def _id(value: object) -> str:
    return str(value)[:70] if isinstance(value, Place) else ""


@cache
def _source_text() -> str:
    files = [
        file for folder in _SOURCES for file in sorted((ROOT / folder).rglob("*")) if file.suffix in (".py", ".j2")
    ]
    files += [ROOT / "pyproject.toml", ROOT / "Makefile", *(ROOT / "recipes").glob("*.yaml")]
    files += [*(ROOT / "benchmarks").rglob("*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@cache
def _source_words() -> frozenset[str]:
    return frozenset(re.findall(r"\w+", _source_text()))


def _recipe_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in _models(field.annotation):
            yield from _recipe_keys(inner, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


KEYS = frozenset(_recipe_keys(Recipe))
SECTIONS = {key.split(".")[0] for key in KEYS if "." in key}


@cache
def _root() -> Any:
    return typer.main.get_command(app)


@pytest.mark.parametrize(("place", "words"), list(pages.product_commands()), ids=_id)
def test_every_command_line_parses(place: Place, words: list[str]) -> None:
    command, path = _root(), []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{place}: there is no command {words[0]!r}"
        command = command.commands[words[0]]
        path.append(words.pop(0))
    if not words and path[:1] != ["demo"]:
        return  # a command that is named, not called
    try:
        context = command.make_context(" ".join(path), [word.replace("…", "x") for word in words])
    except (SystemExit, typer.Exit):
        return  # --version, --help
    except Exception as error:
        raise AssertionError(f"{place}: {error}") from error
    overrides = [text for text in context.params.get("set_") or () if text != "KEY=VALUE"]
    recipe = context.params.get("recipe")
    if path[0] in _RECIPE_COMMANDS and recipe and re.fullmatch(r"[a-z-]+", recipe):
        assert recipe in SHIPPED, f"{place}: there is no shipped recipe {recipe!r}"
    load_recipe(None, overrides)


@pytest.mark.parametrize("place", [block for block in pages.blocks() if block.language == "yaml"], ids=_id)
def test_every_yaml_block_is_a_recipe(place: Place) -> None:
    try:
        Recipe.model_validate(yaml.safe_load(place.text))
    except ValidationError as error:
        raise AssertionError(f"{place.file}:{place.line}: {error}") from error


def test_every_recipe_key_in_a_sentence_exists() -> None:
    faults = []
    for place in pages.inline_code():
        if found := re.match(r"([a-z_]+(?:\.[a-z_]+)+)\b(?!\()", place.text):
            if found[1].split(".")[0] in SECTIONS and not found[1].endswith("_") and found[1] not in KEYS:
                faults.append(str(place))
        elif (found := re.match(r"([a-z_]+): \S", place.text)) and not any(
            key.rsplit(".", 1)[-1] == found[1] for key in KEYS
        ):
            faults.append(str(place))
    assert not faults


def test_every_option_in_a_sentence_exists() -> None:
    known = set(re.findall(r"--[a-z][a-z-]+", _source_text())) | _FOREIGN_OPTIONS | _typer_options()
    faults = [
        str(place)
        for place in pages.inline_code()
        if not place.text.startswith(("rir-mlx", "pip"))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", place.text)
        if option not in known
    ]
    assert not faults


def _typer_options() -> set[str]:
    from reference import commands_page

    return set(re.findall(r"--[a-z][a-z-]+", commands_page()))


def test_every_name_in_a_sentence_stands_in_the_code() -> None:
    """Single words in code type are names of keys, labels, filters, files or functions: each occurs in the code."""
    faults = [
        str(place)
        for place in pages.inline_code()
        if re.fullmatch(r"[A-Za-z]\w*_\w+|[a-z]\w*\.(?:jsonl?|html|yaml|safetensors)", place.text)
        and not set(re.findall(r"\w+", place.text)) <= _source_words()
    ]
    assert not faults


@pytest.mark.parametrize("place", [block for block in pages.blocks() if block.language == "python"], ids=_id)
def test_every_python_block_compiles_and_imports_what_is_there(place: Place) -> None:
    tree = ast.parse(place.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rir_"):
            for name in node.names:
                assert hasattr(import_module(node.module or ""), name.name), f"{place.file}: {name.name} is not there"
    from rir_mlx import RirClassifier

    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "classifier"
    }
    assert used <= set(dir(RirClassifier)), f"{place.file}:{place.line}"


@cache
def _texts() -> frozenset[tuple[str, ...]]:
    """Every text of the code as its fixed parts, with an empty one where a value goes."""
    found: set[tuple[str, ...]] = set()
    for folder in _SOURCES:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "" for part in node.values)
                    found.add(tuple(str(part).strip("\n") for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(tuple(re.split(r"\{[^{}]*\}", node.value.strip("\n"))))
    return frozenset(found)


@cache
def _phrases() -> tuple[tuple[str, ...], ...]:
    """The texts that are phrases: single words and short scraps would fit into any sentence."""
    phrases = (tuple(part for part in parts if part) for parts in _texts())
    return tuple(
        parts
        for parts in phrases
        if sum(map(str.isalpha, "".join(parts))) >= 4
        and any(" " in part for part in parts)
        and not any("\n" in part for part in parts)
    )


def share_that_the_code_prints(line: str) -> float:
    """How many of a line's words stand in phrases of the code that fit into it. Words that may be values do not count:
    numbers, paths, and names that stand in the code on their own."""
    covered: set[int] = set()
    for parts in _phrases():
        if all(part in line for part in parts):
            found = re.search(".*?".join(f"({re.escape(part)})" for part in parts), line)
            for group in range(1, len(parts) + 1) if found else ():
                covered.update(range(*found.span(group)))  # type: ignore[union-attr]
    words = [word for word in re.finditer(r"[^\s()%;,]+", line) if re.fullmatch(r"[A-Za-z]{3,}[.:]?", word[0])]
    words = [word for word in words if (name := word[0].strip(".:")) not in _VALUES and (name,) not in _texts()]
    return sum(word.start() in covered for word in words) / len(words) if words else 1.0


def _transcript_lines() -> list[Place]:
    return [
        Place(block.file, block.line + offset, text)
        for block in pages.blocks()
        if block.language == "console"
        for offset, text in enumerate(block.text.splitlines())
        if text.strip(" …") and not text.startswith("$ ")
    ]


@cache
def _demo_texts() -> frozenset[str]:
    """The rows that the demo may show."""
    with (EMBEDDED / "feelings-test.csv").open(encoding="utf-8", newline="") as file:
        return frozenset(row["text"] for row in csv.DictReader(file))


def test_every_line_of_a_transcript_is_one_that_the_code_prints() -> None:
    """A sentence that the terminal broke is read together with up to two lines before and after."""
    faults, places = [], _transcript_lines()
    for number, place in enumerate(places):
        text = place.text
        if (
            text in _MODEL_OUTPUT | _demo_texts()
            or _DEMO_REASONING.fullmatch(text)
            or text[0] in "┏┡└├│"
            or _BAR_LINE.match(text)
            or re.fullmatch(r"runs/\S+", text)
        ):
            continue
        if text[0] == "┃":
            cells = [cell.strip() for cell in text.split("┃")[1:-1]]
            faults += [f"{place}: {cell}" for cell in cells if (cell,) not in _texts()]
            continue
        wider = (places[max(0, number - lines) : number + lines + 1] for lines in range(3))
        together = (" ".join(near.text.strip() for near in around) for around in wider)
        if all(share_that_the_code_prints(text) < 0.75 for text in together):
            faults.append(f"{share_that_the_code_prints(place.text):.2f} {place}")
    assert not faults, "nothing in the code prints these lines any more: run the command again and paste its output"


def test_a_line_that_the_code_does_not_print_is_noticed() -> None:
    assert share_that_the_code_prints("Saved 238 explanations of the rows to the folder") < 0.75
    assert share_that_the_code_prints("Saved the best model to disk after an epoch of training.") < 0.75


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())
        for heading in headings
    }


@pytest.mark.parametrize("place", list(pages.links()), ids=_id)
def test_every_link_leads_somewhere(place: Place) -> None:
    path, _, anchor = place.text.partition("#")
    if re.match(r"[a-z]+:", place.text):
        assert re.match(r"https://", place.text), f"{place}: links to other servers are https"
        return
    target = (ROOT / place.file).parent / path if path else ROOT / place.file
    name = str(target.resolve().relative_to(ROOT))
    if name.removeprefix("docs/") in GENERATED:
        return
    assert target.exists(), f"{place}: there is no such file"
    if anchor:
        assert anchor in _anchors(target.read_text(encoding="utf-8")), f"{place}: there is no such heading"


@pytest.mark.parametrize(("place", "words"), [found for found in pages.commands() if found[1][0] == "make"], ids=_id)
def test_every_make_target_exists(place: Place, words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (word for word in words[1:] if "=" not in word):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{place}: make has no target {target}"


def test_every_extra_that_is_installed_exists() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    faults = [
        f"{file}: {extra}"
        for file, text in pages.pages().items()
        for names in re.findall(r"(?:rir-mlx|\.)\[([\w,-]+)\]'", text)
        for extra in names.split(",")
        if extra not in extras
    ]
    assert not faults


def test_the_readme_can_be_read_in_five_minutes_and_shows_a_small_picture() -> None:
    readme = pages.pages()["README.md"]
    assert len(readme.splitlines()) <= 130
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert pictures
    for picture in pictures:
        assert Path(ROOT / picture).stat().st_size < 300_000


def test_the_table_of_families_says_what_the_tests_of_each_family_hold() -> None:
    """`tests/contract/test_families.py` runs every family on both backends; beyond a window that mlx-lm ignores, MLX
    must refuse."""
    lines = (ROOT / "docs/concepts/models.md").read_text(encoding="utf-8").splitlines()
    begin = lines.index("| family | PyTorch | MLX |") + 2
    end = next(number for number in range(begin, len(lines)) if not lines[number].startswith("|"))
    table = {title: said for title, *said in (line.strip("| ").split(" | ") for line in lines[begin:end])}
    assert set(TITLES) == set(FAMILIES)
    for name, title in TITLES.items():
        limited = "right up to the window, then refused: mlx-lm ignores it"
        assert table.pop(title) == ["right", limited if name in IGNORED_BY_MLX else "right"], name
    assert all("refused: " in said[1] for said in table.values()), "a family that no test runs is said to be right"
