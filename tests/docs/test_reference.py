"""The generated pages name everything that there is."""

from __future__ import annotations

import dataclasses

import pytest
import reference
import rir_convert

import rir_mlx
from rir_mlx.evaluation.schema import Comparison, EntryResult, Metrics
from rir_mlx.recipe.schema import Recipe
from rir_mlx.statistics.metrics import Interval
from rir_mlx.statistics.paired_tests import PairedComparison


def test_every_generated_page_is_in_the_list_that_links_are_checked_by() -> None:
    assert set(reference.generated_pages()) == set(reference.GENERATED)


def test_every_recipe_key_has_its_entry() -> None:
    page = reference.recipe_page()
    for name, field in Recipe.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {}) if field.description is None else {}
        for key in inner or [name]:
            plain, full = f"### `{key}`\n", f"### `{name}.{key}`\n"
            assert plain in page or full in page, f"{name}.{key}"


def test_every_field_of_the_comparison_has_its_entry() -> None:
    page = reference.comparison_page()
    for part in (Comparison, EntryResult, Metrics, Interval, PairedComparison):
        section = page.split(f"## {part.__name__}\n")[1].split("\n## ")[0]
        for name in getattr(part, "model_fields", None) or [field.name for field in dataclasses.fields(part)]:
            assert f"| `{name}` |" in section, f"{part.__name__}.{name}"


def test_every_command_and_option_has_its_entry() -> None:
    import typer.main
    from rir_cli.app import app

    page = reference.commands_page()
    commands = dict(typer.main.get_command(app).commands)
    for name in list(commands):
        for inner, command in getattr(commands[name], "commands", {}).items():
            commands[f"{name} {inner}"] = command
    for name, command in commands.items():
        if hasattr(command, "commands"):
            continue
        section = page.split(f"## rir-mlx {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
            assert shown in section, f"rir-mlx {name}: {shown}"


def test_every_public_name_has_its_entry() -> None:
    page = reference.python_page()
    for package in (rir_mlx, rir_convert):
        for name in set(getattr(package, "__all__", ())) - {"__version__"}:
            assert f"## `{name}`\n" in page


@pytest.mark.parametrize(
    "page", ["<script src=https://example.org/x.js></script>", '<link rel="stylesheet" href="//example.org/x.css">']
)
def test_a_page_that_loads_from_another_server_fails_the_build(page: str) -> None:
    pytest.importorskip("mkdocs")
    import hooks
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match="another server"):
        hooks.on_post_page(page, "a page", None)  # type: ignore[arg-type]
    assert hooks.on_post_page('<a href="https://example.org">', "a page", None)  # type: ignore[arg-type]
