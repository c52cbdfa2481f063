"""Stages that are called one by one on a recipe that was changed in between: what is out of date is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Finished, Run

pytestmark = pytest.mark.slow


def warnings(folder: Path) -> list[str]:
    found = json.loads((folder / "runs/small/evaluation/comparison.json").read_text(encoding="utf-8"))["warnings"]
    return [text for text in found if "trained otherwise" in text or "were written before" in text]


def test_an_evaluation_says_that_the_recipe_would_train_otherwise_now(rir: Run, finished: Finished) -> None:
    """The report showed the edited recipe beside the figures of the training before, and nothing told them apart."""
    assert warnings(finished.folder) == []
    assert rir("evaluate", "runs/small", "-q", "-s", "evaluate.max_reasoning_tokens=20").code == 0
    assert warnings(finished.folder) == [], "that says how the same weights are measured"
    said = rir("evaluate", "runs/small", "-q", "-s", "data.instruction=Which colour?")
    arms, reasonings = warnings(finished.folder)
    assert arms.startswith("qa, qra and qar were trained otherwise than the recipe says now (instruction was ")
    assert "is Which colour?" in reasonings
    assert "trained otherwise" in " ".join(said.out.split())
    rir("run", "runs/small", "-q")
    assert warnings(finished.folder) == []


def test_a_training_says_that_rgen_would_write_other_reasonings_now(rir: Run, finished: Finished) -> None:
    """`train-rgen` and then `train-classifier`: the arms learned reasonings of the R-Gen before, in silence."""
    weights = finished.folder / "runs/small/rgen/adapter/adapters.safetensors"
    before = weights.read_bytes()
    assert rir("train-rgen", "runs/small", "-q", "-s", "rgen.epochs=3").code == 0
    assert weights.read_bytes() != before
    said = " ".join(rir("train-classifier", "runs/small", "-q", "--force").err.split())
    assert said.count("The reasonings were written before this changed: R-Gen's adapter has changed.") == 1
    rir("evaluate", "runs/small", "-q")
    assert ["R-Gen's adapter" in text for text in warnings(finished.folder)] == [True]
    rir("augment", "runs/small", "-q")
    assert "were written before" not in rir("train-classifier", "runs/small", "-q").err
    rir("evaluate", "runs/small", "-q")
    assert warnings(finished.folder) == []
