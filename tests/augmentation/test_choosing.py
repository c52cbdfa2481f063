"""Of several reasonings the one is kept that makes the label the likeliest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from job_runs import IDENTITY, LABELS, QUESTION, ROWS, Writer, results_in

from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import (
    AugmentationJob,
    AugmentationSettings,
    AugmentedRow,
    ResultFlags,
)
from rir_mlx.backends.base import Sampling
from rir_mlx.backends.fake import FakeBackend
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import LabelScores
from rir_mlx.progress import Silent
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.storage.journal import Journal


def choosing(codec: Codec, tmp_path: Path, name: str = "journal", n: int = 4) -> tuple[list[AugmentedRow], Path]:
    from rir_mlx.models.hub import resolve_model

    journal = tmp_path / name
    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    job = AugmentationSettings("prompt", Sampling(max_tokens=16, temperature=1.0), 0, n=n)
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction))
    task = ClassificationTask(dict.fromkeys(LABELS, ""), QUESTION.instruction, 400, 64)
    with Journal(journal, flags) as opened:
        augmentation = AugmentationJob(ROWS, job, IDENTITY, flags, opened)
        says = Writer(lambda order: " " if order.seed % 5 == 0 else f"Number {order.seed % 1000}, {order.label}.")
        augmentation.write(says, Silent())
        scorer = Classifier(model, codec, task, "qra")
        augmentation.choose(scorer, Silent(), batch_size=4, stopped=lambda: False)
        assert augmentation.choices_due() == 0
        return list(augmentation.outcomes()), journal


def test_the_kept_reasoning_makes_the_label_likeliest(codec: Codec, tmp_path: Path) -> None:
    from rir_mlx.models.hub import resolve_model

    outcomes, journal = choosing(codec, tmp_path)
    written = [entry for entry in results_in(journal) if "reasoning" in entry]
    assert len(written) == 4 * len(ROWS)
    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    scorer = Classifier(
        model, codec, ClassificationTask(dict.fromkeys(LABELS, ""), QUESTION.instruction, 400, 64), "qra"
    )
    for outcome in outcomes:
        assert outcome.kept
        choice = outcome.kept["choice"]
        masked = outcome.kept["reasoning"].replace(outcome.row.label, "___")
        [prediction] = scorer.predictions(scorer.given([outcome.row.text], [masked]), "reasoned")
        assert choice["probability"] == pytest.approx(prediction.probabilities[outcome.row.label], abs=1e-9)
        assert choice["of"] + len(outcome.rejected) == 4
        assert choice["margin"] >= 0
    assert len({outcome.kept["provenance"]["k"] for outcome in outcomes if outcome.kept}) > 1


def test_a_journal_with_the_old_key_of_probabilities_is_still_read(codec: Codec, tmp_path: Path) -> None:
    outcomes, journal = choosing(codec, tmp_path)
    lines = journal.read_text()
    assert '"probabilities": ' in lines
    journal.write_text(lines.replace('"probabilities": ', '"chances": '))
    assert choosing(codec, tmp_path) == (outcomes, journal)
    assert '"probabilities": ' not in journal.read_text()


def test_a_choice_is_made_once(codec: Codec, tmp_path: Path) -> None:
    first, journal = choosing(codec, tmp_path)
    before = journal.read_bytes()
    assert choosing(codec, tmp_path)[0] == first
    assert journal.read_bytes() == before


def test_a_tie_is_recorded_and_the_first_is_kept(codec: Codec, tmp_path: Path) -> None:
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction))
    with Journal(tmp_path / "journal", flags) as opened:
        job = AugmentationSettings("prompt", Sampling(max_tokens=16, temperature=1.0), 0, n=3)
        augmentation = AugmentationJob(ROWS[:1], job, IDENTITY, flags, opened)
        augmentation.write(Writer(lambda order: "Their friend came home."), Silent())

        class Even:
            task = ClassificationTask({"joy": "", "sadness": ""}, "", 400, 64)

            def given(self, texts: list[str], reasonings: list[str], batch_size: int) -> LabelScores:
                rows = len(texts)
                return LabelScores(np.log([[0.75, 0.25]] * rows), reasonings, [0] * rows, [0] * rows)

        augmentation.choose(Even(), Silent(), batch_size=4, stopped=lambda: False)  # type: ignore[arg-type]
        [outcome] = augmentation.outcomes()
    assert outcome.kept
    assert outcome.kept["choice"] == {"of": 3, "probability": pytest.approx(0.75), "margin": 0.0, "tied": True}
    assert outcome.kept["provenance"]["k"] == 0
