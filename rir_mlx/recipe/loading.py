"""Recipes from YAML files and overrides, and back to YAML. Every fault is named with its key and a hint."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rir_mlx.errors import RecipeError, did_you_mean
from rir_mlx.recipe.builtin import BUILTIN
from rir_mlx.recipe.problems import explain
from rir_mlx.recipe.schema import Recipe
from rir_mlx.types import SHIPPED, TABLE_SUFFIXES

_TABLES = (*TABLE_SUFFIXES, ".xls", ".ods", ".txt")


def shipped_recipe(name: str) -> Path:
    """The file of a recipe that comes with the package, installed or from a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    if "=" in name:
        raise RecipeError(f"{name} is no recipe.", hint=f"Each override needs a --set of its own: --set {name}")
    raise RecipeError(
        f"There is no recipe called {name!r}.{did_you_mean(name, SHIPPED)}",
        hint=f"Give a YAML file, or one of: {', '.join(SHIPPED)}.",
    )


def load_recipe(source: str | Path | Recipe | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, a shipped recipe by name, a recipe itself, or (None) the defaults; then apply
    `section.key=value` texts.

    Raises RecipeError naming every key that is unknown, missing or of the wrong kind, with its file.
    """
    values: dict[str, Any] = {}
    where = "the default recipe"
    if isinstance(source, Recipe):
        where, values = source.name, source.model_dump(mode="json")
    elif source is not None:
        path = Path(source)
        if path.suffix.lower() in _TABLES:
            raise RecipeError(
                f"{path} is a table, not a recipe.",
                hint=f"Write a recipe for it: rir-mlx {shlex.join(['init', str(path)])}\n"
                f"Or train on it as it is: rir-mlx {command_to_train_on(path)}",
            )
        if not path.is_file():
            if path.suffix in (".yaml", ".yml") or os.sep in str(source):
                raise RecipeError(f"There is no recipe file {path}.", hint=f"Shipped recipes: {', '.join(SHIPPED)}.")
            path = shipped_recipe(str(source))
        where = str(path)
        values = {"name": name_from(path.stem)} | _read_yaml(path)
    replaced = _parts_beside_train(values.get("data"))
    for text in overrides:
        merge_override(values, text)
    if any(text.startswith(("data.train=", "data.train.path=")) for text in overrides):
        for part in replaced:
            if not any(text.startswith(f"data.{part}") for text in overrides):
                values["data"].pop(part, None)
    return validated(values, where)


def _parts_beside_train(data: Any) -> list[str]:
    """The parts that come from where a recipe's training rows do: other splits of a data set, or other embedded files.
    Training rows from elsewhere replace these too. A file of one's own stays."""

    if not isinstance(data, dict):
        return []

    def origin(part: str) -> str:
        source = data.get(part, Recipe().data.train.path)
        path = str(source.get("path") if isinstance(source, dict) else source)
        return BUILTIN if path.startswith(BUILTIN) else path

    return [part for part in ("validation", "test") if origin(part) == origin("train")]


def validated(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe of these keys. Raises RecipeError naming every fault, and `where` the keys are from."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(
            f"{where}: " + "; ".join(explain(error)), hint="`rir-mlx recipe --all` prints every key with its default."
        ) from error


def command_to_train_on(table: Path) -> str:
    """How to train on the rows of a file without a recipe of one's own, behind the program's name."""
    return shlex.join(["run", "custom", "-s", f"name={name_from(table.stem)}", "-s", f"data.train={table}"])


def recipe_text(source: str) -> str:
    """A recipe as its file has it, with its comments. Raises RecipeError if there is no such file."""
    path = Path(source)
    path = path if path.is_file() else shipped_recipe(source)
    load_recipe(path)  # a recipe with faults is an error here too
    return path.read_text(encoding="utf-8")


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key spelt out."""
    return _dumped(json.dumps(recipe.model_dump(mode="json")))


@lru_cache(maxsize=16)
def _dumped(values: str) -> str:
    """A recipe's values in JSON as YAML. Every stage, arm and seed writes the same recipe, which takes PyYAML some
    30 ms."""
    return dump_yaml(json.loads(values), width=120)


def name_from(text: str) -> str:
    """A text as the name of a run: `my recipe (2)` becomes `my-recipe-2`."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "recipe"


class _RecipeYaml(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error: the first value would be lost silently. `1` and `1.0` are one
    key. Numbers are those of YAML 1.2: `12:30` and `007` are texts, which YAML 1.1 reads as 750 and 7."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[Any]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                value = self.construct_object(key)
                if value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} comes twice", key.start_mark
                    )
                seen.add(value)
        return super().construct_mapping(node, deep)


_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)",
    "tag:yaml.org,2002:float": r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
}
_RecipeYaml.yaml_implicit_resolvers = {
    first: [(tag, re.compile(rf"(?:{_NUMBERS[tag]})\Z") if tag in _NUMBERS else pattern) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _RecipeDumper(yaml.SafeDumper):
    """Writes a text in quotes if YAML 1.1 or YAML 1.2 would read it as something else, and Unicode's line separators as
    escapes: PyYAML would fold the line at them."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_RecipeDumper.yaml_implicit_resolvers = {
    first: [*resolvers, *_RecipeYaml.yaml_implicit_resolvers[first]]
    for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_RecipeDumper.add_representer(str, _RecipeDumper.represent_str)


def dump_yaml(value: Any, **style: Any) -> str:
    """A value as YAML that `parse_yaml` reads back as it is. `style` goes to PyYAML's `dump`."""
    text: str = yaml.dump(value, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, **style)
    return text


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError."""
    try:
        return deepcopy(_parsed(text))
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


@lru_cache(maxsize=16)
def _parsed(text: str) -> Any:
    """The value of a text, which nobody may change: a run's recipe is read several times, and takes PyYAML 15 ms."""
    return yaml.load(text, _RecipeYaml)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text: byte {error.start}.", hint="Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}.") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold keys and values, not {type(values).__name__}.")
    return values


def merge_override(values: dict[str, Any], text: str) -> None:
    """Set the key of a `section.key=value` text in a recipe's values, in place. Raises RecipeError if it has none."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text}: not of the form section.key=value.", hint="For example --set rgen.epochs=1")
    *parents, last = key.strip().split(".")
    node = values
    default: Any = Recipe().model_dump(mode="json")
    for parent in parents:
        default = default.get(parent) if isinstance(default, dict) else None
        child = node.get(parent)
        if isinstance(default, dict) and "path" in default:  # a source
            child = {"path": child} if isinstance(child, str) else default if child is None else child
        if parents == ["data", "labels"] and isinstance(child, list):
            with suppress(TypeError):  # something else than names in it
                child = dict.fromkeys(child, "")
        if child is not None and not isinstance(child, dict):
            raise RecipeError(f"--set {text}: {parent} is {child!r}, which has no keys.", hint=f"Set {parent} itself.")
        node[parent] = child = dict(child or {})
        node = child
    try:
        if last == "delimiter":  # `|` and `,` are signs of YAML
            node[last] = value or None
        else:
            node[last] = parse_yaml(value) if value else None
    except yaml.YAMLError as error:
        why = getattr(error, "problem", None) or error
        raise RecipeError(f"--set {text}: {value!r} is not a YAML value: {why}.") from error
