"""The stages as functions: what a library user imports, gives and gets back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import rir_mlx
from rir_mlx import Recipe, RirClassifier, augment, evaluate, load_recipe, run, train_classifier, train_rgen
from rir_mlx.errors import RecipeError, UserError
from rir_mlx.hub_access import without_network


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_public_name_can_be_imported() -> None:
    for name in rir_mlx.__all__:
        assert getattr(rir_mlx, name) is not None
    assert set(rir_mlx.__all__) <= set(dir(rir_mlx))


@pytest.mark.slow
def test_importing_names_imports_no_framework() -> None:
    code = (
        "import sys\nfrom rir_mlx import Recipe, RirClassifier, augment, evaluate, run, train_classifier, train_rgen\n"
        "heavy = {'torch', 'mlx', 'transformers', 'peft', 'datasets'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_example_of_the_package_runs() -> None:
    """The example itself, on the backend that computes nothing."""
    assert rir_mlx.__doc__ is not None
    Path("rows.csv").write_text(
        "text,label\n" + "".join(f"day {n} is {w},{w}\n" for n in range(20) for w in ("good", "bad"))
    )
    lines = [line for line in rir_mlx.__doc__.splitlines() if line.startswith("    ")]
    example = textwrap.dedent("\n".join(lines))
    small = ("data.max_samples=30", "data.val_size=10", "data.test_size=12", "reasoning.max_samples=20")
    brief = ("rgen.epochs=1", "classifier.epochs=1", "classifier.arms=[qa, qra]", "augment.max_tokens=8")
    for real, quick in (
        ('run("demo")', f'run("demo", backend="fake", overrides={[*small, *brief]})'),
        ('load("runs/demo")', 'load("runs/demo", backend="fake")'),
        (
            'Recipe(name="mine", ',
            'Recipe(name="mine", model="builtin:tiny-llama", backend="fake", max_seq_length=256, ',
        ),
    ):
        assert real in example
        example = example.replace(real, quick)
    found: dict[str, object] = {}
    exec(example, found)
    assert isinstance(found["classifier"], RirClassifier)
    assert Path("runs/demo/report.html").is_file()
    assert Path("runs/mine/classifier-qa/done.json").is_file()


@pytest.mark.slow
def test_stages_one_by_one_give_what_they_made(recipe: Path) -> None:
    loaded = load_recipe(recipe, ["rgen.epochs=null", "rgen.iters=3"])
    rgen = train_rgen(loaded)
    assert (rgen.steps, rgen.arm) == (3, None)
    assert rgen.adapter.is_dir()
    partial = augment(loaded, limit=5)
    assert partial is not None
    assert partial.stats["train"]["rows"] == 5
    augmented = augment(loaded)
    assert augmented is not None
    assert augmented.train.is_file()
    assert augmented.stats["train"]["rows"] > 5
    results = train_classifier(loaded, arms=["qa", "qra"])
    assert [(result.arm, result.seed) for result in results] == [("qa", 0), ("qra", 0)]
    assert all(result.rows > 0 and result.adapter.is_dir() for result in results)
    comparison = evaluate(Path("runs/small"))
    assert comparison is not None
    assert {entry.name for entry in comparison.entries} >= {"qa", "qra"}
    assert train_rgen("runs/small") == rgen  # done before, with the same result


def test_a_recipe_can_be_given_as_object_name_file_or_run(recipe: Path) -> None:
    for source in (load_recipe(recipe), str(recipe), recipe, "runs/small", Path("runs/small")):
        (result,) = train_classifier(source, arms=["qa"])
        assert result.adapter == Path("runs/small/classifier-qa/adapter")
    with pytest.raises(RecipeError, match="Did you mean 'demo'"):
        run("dmeo")
    with pytest.raises(UserError, match="R-Gen has not been trained"):
        augment(recipe, runs="elsewhere", backend="fake", overrides=["seed=3"])


def test_options_change_the_recipe_and_the_folder(recipe: Path) -> None:
    (result,) = train_classifier(
        Recipe.model_validate(load_recipe(recipe).model_dump()), arms=["qa"], runs="here", overrides=["seed=3"]
    )
    assert result.adapter == Path("here/small/classifier-qa/adapter")
    assert load_recipe(Path("here/small/recipe.yaml")).seed == 3


def test_offline_ends_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's libraries read the variable once: an offline call must reach them, and must not outlast itself."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with without_network():
        assert constants.HF_HUB_OFFLINE
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert not constants.HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ
    with without_network(wanted=False):
        assert not constants.HF_HUB_OFFLINE
