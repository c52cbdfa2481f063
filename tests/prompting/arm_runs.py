"""A run whose rows have reasonings of their own, so that arms can be trained without R-Gen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from rir_mlx.backends import open_backend
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.stages.context import Context
from rir_mlx.storage.layout import RunDir
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import Arm

ARMS: tuple[Arm, ...] = get_args(Arm)


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


COUNTS = {"joy": 16, "sadness": 10, "anger": 6}


def rows_of_the_run() -> Iterator[tuple[str, str, str]]:
    """Text, label and reasoning. Every fourth reasoning only restates the label, which a filter rejects."""
    for label, count in COUNTS.items():
        for number in range(count):
            told = f"{number} friends came home on day {number}"
            yield f"{label[0]} text {number}", label, label if number % 4 == 3 else f"it says that {told}"


def make_recipe(tmp_path: Path, tiny: Path) -> Path:
    """A recipe whose rows have reasonings of their own, so that augmentation needs no model."""
    lines = [",".join(row) + "\n" for row in rows_of_the_run()]
    (tmp_path / "rows.csv").write_text("text,label,why\n" + "".join(lines), encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        f"model: {tiny}\nbackend: fake\nmax_seq_length: 320\n"
        f"data: {{train: {tmp_path / 'rows.csv'}, val_size: 6, test_size: 3, reasoning_column: why}}\n"
        "reasoning: {source: null}\nrgen: {iters: 1}\nclassifier: {iters: 1, learning_rate: 1e-2}\n"
        "evaluate: {max_reasoning_tokens: 8}\n",
        encoding="utf-8",
    )
    return tmp_path


def context_of(folder: Path, codec: Codec, *changes: str) -> Context:
    recipe = load_recipe(folder / "own.yaml", changes)
    model = RecipeModel(recipe, open_backend("fake"), resolve_model(recipe.model))
    model.codec = codec
    return Context(RunDir(folder / "run"), model, Heard())


def heard(context: Context) -> Heard:
    assert isinstance(context.progress, Heard)
    return context.progress
