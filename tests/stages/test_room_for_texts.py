"""The length of rows that `check` names, beside what the stages of a run need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rir_mlx.backends import open_backend
from rir_mlx.data.audit.findings import Audit
from rir_mlx.errors import UserError
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import Silent
from rir_mlx.prompting.room import check_room, rgen_room
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.stages import Context, check
from rir_mlx.storage.layout import RunDir
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import Arm


@pytest.mark.parametrize("arm", ["qar", "multitask", "curriculum", "qra"])
def test_the_max_seq_length_that_a_check_names_is_enough_for_every_stage(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, arm: Arm
) -> None:
    """Of arms that answer at once, the check left no room for the reasoning that they learn, and none of R-Gen's: it
    found no problem, or named a number, with which the run stopped at R-Gen's prompt or at the arm's training."""
    monkeypatch.chdir(recipe.parent)

    def found_with(length: int) -> Audit:
        settings = [f"max_seq_length={length}", f"classifier.arms=[qa, {arm}]"]
        return check(load_recipe(recipe, settings))

    def begins(length: int) -> bool:
        loaded = load_recipe(recipe, (f"max_seq_length={length}", f"classifier.arms=[qa, {arm}]"))
        model = RecipeModel(loaded, open_backend("fake"), resolve_model(loaded.model))
        context = Context(RunDir(recipe.parent / "run"), model, Silent())
        room = rgen_room(length, context.recipe.augment.max_tokens)
        try:
            check_room(context.model.codec, context.task, arm)
            return not any(
                context.model.codec.encode(context.question.of_row(row.text, row.label), room).trimmed
                for row in context.data.train
            )
        except UserError:
            return False

    short = found_with(96)
    assert not begins(96)
    hint = {finding.hint for finding in short.findings if "max_seq_length" in finding.hint}
    [named] = {int(re.findall(r"max_seq_length(?: to|:) ([0-9]+)", text)[0]) for text in hint}
    assert begins(named)
    assert not any("room" in finding.name or "trimmed" in finding.name for finding in found_with(named).findings)
    assert not begins(named - 64)
