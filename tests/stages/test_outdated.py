"""Stages that are called one by one on a recipe that was changed in between: what is out of date is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import Finished, Run
from tiny import make_tiny_llama

pytestmark = pytest.mark.slow


def warnings(folder: Path) -> list[str]:
    found = json.loads((folder / "runs/small/evaluation/comparison.json").read_text(encoding="utf-8"))["warnings"]
    return [text for text in found if "trained otherwise" in text or "were written before" in text]


def recipe_model(recipe: Path) -> Path:
    return Path(recipe.read_text(encoding="utf-8").splitlines()[0].removeprefix("model: "))


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


@pytest.mark.parametrize(
    ("edit", "what"),
    [("rgen.epochs=2", "rgen.epochs was 1, is 2"), ("reasoning.max_samples=40", "the reasoning triples have changed")],
)
def test_an_augmentation_says_that_rgen_would_be_trained_otherwise_now(
    rir: Run, finished: Finished, edit: str, what: str
) -> None:
    """`augment` with an edited `rgen` or other triples wrote with the R-Gen before, in silence, and so did all that
    came after it."""
    sentence = f"R-Gen was trained otherwise than the recipe says now ({what}"
    for arguments in (["augment"], ["augment", "--force"], ["train-classifier", "--force"], ["evaluate"]):
        said = rir(arguments[0], "runs/small", "-q", "-s", edit, *arguments[1:])
        assert said.code == 0
        assert " ".join((said.err + said.out).split()).count(sentence) == 1, arguments
    assert [text.startswith(sentence) for text in warnings(finished.folder)] == [True]
    rir("run", "runs/small", "-q")
    assert warnings(finished.folder) == []


def test_an_augmentation_goes_without_the_triples(rir: Run, finished: Finished) -> None:
    """R-Gen has learned from them already: nothing else needs their file."""
    (finished.folder / "triples.jsonl").unlink()
    said = rir("augment", "runs/small", "--force")
    assert said.code == 0
    assert "trained otherwise" not in said.err


def test_no_triples_of_the_hub_are_fetched_to_compare_them(
    rir: Run, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = list[str]()
    monkeypatch.setattr("rir_mlx.data.tables.sources.read_data_set", lambda source, *_: fetched.append(source.path))
    for command in ("augment", "train-classifier", "evaluate"):
        assert rir(command, "runs/small", "-q", "-s", "reasoning.source.path=somebody/triples").code == 0
    assert fetched == []


def test_a_training_says_that_the_reasonings_are_of_another_base_model(rir: Run, finished: Finished) -> None:
    """The folder of the base model got other weights: arms were trained from these on reasonings that an R-Gen of the
    old ones wrote, in silence."""
    model = finished.folder / "base"
    recipe = finished.folder / "small.yaml"
    shutil.copytree(recipe_model(recipe), model)
    recipe.write_text(
        recipe.read_text(encoding="utf-8").replace(str(recipe_model(recipe)), str(model)), encoding="utf-8"
    )
    assert rir("run", "small.yaml", "-q").code == 0
    make_tiny_llama(model, seed=5)
    said = " ".join(rir("train-classifier", "runs/small", "-q").err.split())
    assert said.count("R-Gen was trained otherwise than the recipe says now (the base model has changed)") == 1
    assert said.count("The reasonings were written before this changed: the base model has changed.") == 1
