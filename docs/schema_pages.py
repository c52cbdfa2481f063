"""Pages made from schemas: every recipe key, and everything in `comparison.json`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def recipe_page() -> str:
    """Every recipe key with its type, default and meaning."""
    from rir_mlx.recipe.schema import Recipe, TrainingSection

    lines = [
        "# Recipe keys",
        "",
        "A recipe is one YAML file. A key that it leaves out has the default below; together the defaults are the",
        "shipped recipe `emotion`. `rir-mlx recipe --all` prints a recipe with every key. `--set section.key=value`",
        "overrides one.",
        "",
        "## Top level",
        "",
    ]
    sections = {name: field for name, field in Recipe.model_fields.items() if _section(field)}
    lines += _keys("", {name: field for name, field in Recipe.model_fields.items() if name not in sections})
    shared = TrainingSection.model_fields
    for name, field in sections.items():
        model = _section(field)
        assert model is not None
        fields = model.model_fields
        if issubclass(model, TrainingSection):
            if model is TrainingSection:
                lines += [
                    "## rgen and classifier",
                    "",
                    "Both stages train by these keys: `rgen.epochs`, `classifier.epochs` and so on.",
                    "",
                ]
                lines += _keys("", fields)
                continue
            fields = {key: value for key, value in fields.items() if key not in shared}
        lines += [f"## {name}", "", one_line(model.__doc__), ""]
        lines += _keys(f"{name}.", fields)
    lines += [
        "## Where rows come from",
        "",
        "`data.train`, `data.validation`, `data.test` and `reasoning.source` are a path, or:",
        "",
    ]
    source = next(model for model in _models(Recipe) if model.__name__ == "SourceSpec")
    lines += _keys("", source.model_fields)
    return "\n".join(lines)


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models inside a model's fields, at any depth."""
    for field in model.model_fields.values():
        for inner in _inner(field.annotation):
            yield inner
            yield from _models(inner)


def _inner(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _inner(argument)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if inspect.isclass(kind) and issubclass(kind, BaseModel) and field.description is None else None


def _keys(prefix: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    lines = []
    for name, field in fields.items():
        bounds = "".join(_bound(item) for item in field.metadata)
        kind = f"{_type(field.annotation)}{bounds}"
        lines += [
            f"### `{prefix}{name}`",
            "",
            f"{kind} · default {_default(field)}",
            "",
            one_line(field.description),
            "",
        ]
    return lines


def _type(annotation: Any) -> str:
    """An annotation in words."""
    if annotation is None or annotation is type(None):
        return "`null`"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(_type(argument) for argument in arguments)
    if type(annotation).__name__ == "_AnnotatedAlias":
        return _type(arguments[0])
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "map of names to texts"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "source"
    return {"int": "whole number", "float": "number", "str": "text", "bool": "`true` \\| `false`"}[annotation.__name__]


def _bound(item: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least"}
    parts = [f", {sign} {getattr(item, name)}" for name, sign in signs.items() if getattr(item, name, None) is not None]
    return "".join(parts)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "`" + ", ".join(f"{key}: {inner}" for key, inner in value if inner is not None) + "`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def one_line(text: str | None) -> str:
    """A docstring without its line breaks."""
    return " ".join((text or "").split())


def comparison_page() -> str:
    """Every part of `comparison.json` with its fields."""
    from rir_mlx.evaluation.schema import VERSION, Comparison

    lines = [
        "# comparison.json",
        "",
        "`evaluation/comparison.json` holds what an evaluation measured; `rir-mlx evaluate --json` prints it. This is",
        f"version {VERSION} of the format; `rir_mlx.evaluation.schema.read_comparison(path)` reads and checks it.",
        "Shares, accuracies and probabilities go from 0 to 1 unless a field says otherwise.",
        "",
    ]
    for part in _parts(Comparison):
        lines += [f"## {part.__name__}", "", one_line(inspect.getdoc(part)), ""]
        lines += ["| field | type | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {_linked(kind)} | {one_line(text)} |" for name, kind, text in _fields(part)]
        lines += [""]
    return "\n".join(lines)


def _parts(root: type) -> list[type]:
    """The classes that a class is made of, itself first, each once."""
    found = [root]
    for part in found:
        for _, annotation, _ in _fields(part):
            found += [inner for inner in _classes(annotation) if inner not in found]
    return found


def _fields(part: type) -> Iterator[tuple[str, Any, str | None]]:
    if issubclass(part, BaseModel):
        yield from ((name, field.annotation, field.description) for name, field in part.model_fields.items())
    else:
        hints, texts = get_type_hints(part), _attribute_docstrings(part)
        yield from ((field.name, hints[field.name], texts.get(field.name)) for field in dataclasses.fields(part))


def _attribute_docstrings(part: type) -> dict[str, str]:
    """The string below each field of a dataclass, where there is one."""
    body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _classes(annotation: Any) -> Iterator[type]:
    if inspect.isclass(annotation) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        yield annotation
    for argument in get_args(annotation):
        yield from _classes(argument)


def _linked(annotation: Any) -> str:
    """A field's type in words, with a link where another part of the page describes it."""
    if annotation is Any:
        return "anything"
    if classes := list(_classes(annotation)) if get_origin(annotation) is None else []:
        return f"[{classes[0].__name__}](#{classes[0].__name__.lower()})"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_linked(argument) for argument in arguments)
    if origin is dict:
        return f"map of texts to {_linked(arguments[1])}"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"list of {_linked(arguments[0])}"
    return _type(annotation)
