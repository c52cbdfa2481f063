"""A base model of one's own is its files: neither how its folder is spelt nor where it lies decides what is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run, write_recipe

from rir_mlx.storage.layout import RunDir

pytestmark = pytest.mark.slow
SKIPPED = "augmentation: already done with these inputs, skipped"


@pytest.fixture
def begun(rir: Run, tmp_path: Path, tiny: Path) -> Path:
    """A run of a recipe that names its model by a path relative to its folder."""
    shutil.copytree(tiny, tmp_path / "base")
    write_recipe(tmp_path, Path("base"))
    assert rir("run", "small.yaml", "-q").code == 0
    return tmp_path / "runs/small"


def test_reasonings_are_not_written_again_for_another_spelling_of_the_models_folder(rir: Run, begun: Path) -> None:
    """The run's recipe holds the absolute path, so `augment runs/small` after `run small.yaml` wrote every reasoning
    again, and others than before: with `model: base`, hours of generation, and the arms were trained again."""
    journal = (begun / "augmented/journal.jsonl").read_bytes()
    for arguments in (["runs/small"], ["small.yaml"], ["small.yaml", "-s", "model=./base"]):
        assert SKIPPED in " ".join(rir("augment", *arguments).err.split()), arguments
    assert (begun / "augmented/journal.jsonl").read_bytes() == journal
    said = rir("run", "runs/small").err
    assert ": runs" not in said.replace("\n", " ")


def test_an_interrupted_augmentation_resumes_under_another_spelling(rir: Run, begun: Path) -> None:
    """The draws of a reasoning depended on the spelling, and what was written already was not found."""
    lines = (begun / "augmented/journal.jsonl").read_text(encoding="utf-8")
    (begun / "augmented/done.json").unlink()
    assert rir("augment", "runs/small", "-q").code == 0
    assert (begun / "augmented/journal.jsonl").read_text(encoding="utf-8") == lines


def test_reasonings_stay_when_the_models_folder_moves(rir: Run, begun: Path) -> None:
    (begun.parent.parent / "base").rename(begun.parent.parent / "elsewhere")
    said = rir("augment", "runs/small", "-s", f"model={begun.parent.parent / 'elsewhere'}")
    assert SKIPPED in " ".join(said.err.split())


@pytest.mark.parametrize("spelt", [str, lambda folder: folder.name])
def test_reasonings_that_name_the_models_path_stay(rir: Run, begun: Path, spelt: Callable[[Path], str]) -> None:
    """As earlier versions wrote it."""
    record = RunDir(begun).augmented.record
    done = json.loads(record.read_text(encoding="utf-8"))
    done["inputs"]["writer"]["model"] = spelt(begun.parent.parent / "base")
    record.write_text(json.dumps(done), encoding="utf-8")
    assert SKIPPED in " ".join(rir("augment", "runs/small").err.split())


def test_an_adapter_names_its_base_by_a_path_that_opens_anywhere(begun: Path) -> None:
    """`base_model_name_or_path: base` is another folder in another place, or a model of the hub."""
    config = json.loads((begun / "rgen/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str((begun.parent.parent / "base").resolve())


def test_a_run_names_the_place_where_its_model_lies_now(rir: Run, begun: Path) -> None:
    """Nothing was to do, and the run's recipe kept the place of before, where `classify` found no model."""
    (begun.parent.parent / "base").rename(begun.parent.parent / "elsewhere")
    assert rir("run", "small.yaml", "-q", "-s", "model=elsewhere").code == 0
    assert RunDir(begun).recipe().model.endswith("elsewhere")
    assert rir("classify", "so glad", "--run", "runs/small").code == 0
