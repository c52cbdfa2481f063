"""An exported folder answers as the run that it comes from, or is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluated_run import export_of, opened, reopened_export
from rir_cli.answering.serving import served

from rir_mlx.classification.exported import FILE
from rir_mlx.classification.loading import arm_to_use, classifier_identity, load_classifier, read_classifier
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.errors import UserError
from rir_mlx.serving.http import Refused
from rir_mlx.serving.workbench.arms import ServedRun
from rir_mlx.serving.workbench.reviewing import Reviewing
from rir_mlx.stages import Context
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.types import Arm

TEXTS = ["i feel happy 3", "i was sad 5"]
ARM: Arm = "qar"


@pytest.fixture
def run(evaluated_run: Path) -> Context:
    return opened(str(evaluated_run))


@pytest.fixture
def folder(run: Context, tmp_path: Path) -> Path:
    return export_of(run, ARM, tmp_path / "out")


@pytest.mark.slow
def test_an_export_answers_as_its_run_does(run: Context, folder: Path) -> None:
    again = reopened_export(folder)
    assert arm_to_use(again.run)[0] == ARM
    first, second = load_classifier(run.run, run.model, ARM), load_classifier(again.run, again.model, ARM)
    assert second.predict(TEXTS) == first.predict(TEXTS)
    assert second.calibration == first.calibration != Calibration()
    assert served(again, second, None) == served(run, first, None)
    options = PredictOptions()
    identity = classifier_identity(again.run, again.model, ARM, options)
    assert identity == classifier_identity(again.run, again.model, ARM, options)
    for key in ("sample_temperature", "batch_size", "samples", "max_reasoning_tokens"):
        assert getattr(again.recipe.evaluate, key) == getattr(run.recipe.evaluate, key)
    source = ServedRun(again.run, again.recipe, ARM, lambda _: second, lambda _: served(again, second, None))
    with pytest.raises(Refused, match="serve the run that it comes from"):
        Reviewing(source).rows()


@pytest.mark.slow
def test_what_cannot_be_opened_is_refused_in_words(folder: Path, tmp_path: Path) -> None:
    again = reopened_export(folder)
    with pytest.raises(UserError, match="holds the qar classifier, and no qa"):
        load_classifier(again.run, again.model, "qa")
    with pytest.raises(UserError, match="is an export itself"):
        read_classifier(again.run, again.model, ARM)
    values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    for change in ({"version": 9}, {"arm": "qx"}, {"task": {}}, {"calibration": {"temperature": {"direct": -1}}}):
        (folder / FILE).write_text(json.dumps(values | change), encoding="utf-8")
        with pytest.raises(UserError, match=r"cannot be read.*\nExport it again"):
            reopened_export(folder)
    for change in ({"recipe": {"later": 1}}, {"recipe": 5}, {"name": "../x"}, {"base": 7}, {"created": "today"}):
        (folder / FILE).write_text(json.dumps(values | change), encoding="utf-8")
        with pytest.raises(UserError, match=rf"{FILE}.*\nExport it again"):
            reopened_export(folder)
    (folder / FILE).unlink()
    (folder / "verification.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=f"lacks {FILE}, which says what a classifier is asked"):
        reopened_export(folder)
    (folder / "a.gguf").touch()
    with pytest.raises(UserError, match=r"only llama\.cpp's programs run"):
        reopened_export(folder)
    with pytest.raises(UserError, match="holds no trained classifier"):
        reopened_export(tmp_path / "nothing")
