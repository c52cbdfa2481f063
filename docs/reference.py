"""The generated pages, made from the recipe's docstrings, the command line's own help and the library's docstrings.

Nothing here knows MkDocs: a page is a path and its Markdown.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

ROOT = Path(__file__).resolve().parents[1]

GENERATED = (
    "reference/recipe.md",
    "reference/commands.md",
    "reference/python.md",
    "benchmarks.md",
    "changelog.md",
)


def generated_pages() -> dict[str, str]:
    """Every generated page by its path in the site."""
    return {
        "reference/recipe.md": recipe_page(),
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "benchmarks.md": (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }


def recipe_page() -> str:
    """Every recipe key with its type, default and meaning."""
    from rir_mlx.recipe.schema import Recipe, TrainingSection

    lines = [
        "# Recipe keys",
        "",
        "A recipe is one YAML file. A key that it leaves out has the default below; together the defaults are the",
        "shipped recipe `emotion`. `rir-mlx recipe` prints a recipe with every key. `--set section.key=value`",
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
        lines += [f"## {name}", "", _sentence(model.__doc__), ""]
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
            _sentence(field.description),
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


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


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
        "mistake, 130 interrupted. `RIR_DEBUG=1` shows the traceback behind an error.",
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
    return [part for paragraph in inspect.cleandoc(text or "").split("\n\n") for part in (_sentence(paragraph), "")]


def _parameters(function: Any) -> Iterator[tuple[str, str, str]]:
    """How each parameter of a command is written, whether it is an argument or an option, and what it does."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = hints[name]
        info = next(item for item in annotation.__metadata__ if isinstance(item, (ArgumentInfo, OptionInfo)))
        if info.hidden:
            continue
        required = parameter.default is inspect.Parameter.empty
        kinds = [kind for kind in _plain_types(annotation) if kind is not type(None)]
        choices = [value.value for kind in kinds if issubclass(kind, Enum) for value in kind]
        default = getattr(parameter.default, "value", parameter.default)
        text = _sentence(info.help)
        text += f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        text += " Required." if required and isinstance(info, OptionInfo) else ""
        text += "" if required or default in (None, False) else f" Default: `{default}`."
        if isinstance(info, ArgumentInfo):
            yield (name.upper() if required else f"[{name.upper()}]"), "argument", text
            continue
        named = (*([info.default] if isinstance(info.default, str) else []), *(info.param_decls or ()))
        names = [text for text in named if text.startswith("-")] or [f"--{name.rstrip('_').replace('_', '-')}"]
        value = "" if kinds == [bool] else f" {info.metavar or kinds[-1].__name__.removesuffix('Choice').upper()}"
        yield ", ".join(names) + value.replace("STR", "TEXT"), "option", text


def _plain_types(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is made of, without containers."""
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
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
