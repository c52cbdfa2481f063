"""`rir-mlx models`: base models on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rir_cli.context import tell
from rir_cli.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from rir_mlx.guide.models import BaseModel

_BESIDE_NAMES = 50
"""Columns that the table needs beside the models' names. A narrower terminal gets each model in lines of its own."""


def models(json: JsonOption = False) -> None:
    """List the base models on this machine: the embedded one and those in the hub's cache.

    Memory is what training takes with the default settings, by the estimate that a training prints.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding

    from rir_cli.console import print_json
    from rir_mlx.guide.machine import physical_memory
    from rir_mlx.guide.models import default_model, models_here
    from rir_mlx.training.cost import memory_size

    memory = physical_memory()
    found = models_here(memory)
    usual = default_model(memory, found)
    if json:
        print_json({"memory": memory, "models": [asdict(model) for model in found]})
        return
    console = Console(highlight=False, emoji=False)
    console.width = console.width if console.is_terminal else max(console.width, 100)
    title = f"Base models; this machine has {memory_size(memory)}"
    if console.width < max(len(model.name) for model in found) + _BESIDE_NAMES:
        console.print(title)
        for model in found:
            console.print(f"\n{escape(model.name)}", soft_wrap=True)
            about = f"{memory_size(model.size)}; {_needs(model)} to train; {_licence(model)}; {_verified(model)}"
            console.print(Padding(escape(about), (0, 0, 0, 4)))
    else:
        console.print(_table(title, found))
    if not usual.here:
        fits = "fits" if usual.fits else "is too large for this machine"
        tell(f"The default model is not here, and {fits}: hf download {usual.name}", err=True)


def _table(title: str, found: Sequence[BaseModel]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from rir_mlx.training.cost import memory_size

    table = Table(title=title)
    for name, right in (("model", False), ("size", True), ("to train", True), ("known to work", False)):
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "model")
    for model in found:
        about = f"{escape(model.name)}\n[dim]{escape(_licence(model))}[/dim]"
        table.add_row(about, memory_size(model.size), _needs(model), escape(_verified(model)))
    return table


def _needs(model: BaseModel) -> str:
    from rir_mlx.training.cost import memory_size

    return "?" if model.memory is None else memory_size(model.memory) + ("" if model.fits else " (too much)")


def _licence(model: BaseModel) -> str:
    return model.licence or "no licence in its card"


def _verified(model: BaseModel) -> str:
    """What the tests hold of the model's family."""
    if not model.verified:
        return f"{model.family}: not tested; it is checked when it is loaded"
    limit = f"; in MLX up to {model.limit:,} tokens" if model.limit else ""
    return f"{model.verified}: equals transformers{limit}"
