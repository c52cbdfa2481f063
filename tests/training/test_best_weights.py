"""Which step's weights a training keeps: by accuracy, by loss, and without either."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorder import Hearing, Recorder, job_of, run

from rir_mlx.backends.fake import FakeModel
from rir_mlx.errors import Failure
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.recipe.schema import TrainingSection
from rir_mlx.training.job import TrainingJob, TrainingOutputs
from rir_mlx.training.loop import mean_loss, train


def test_the_best_weights_by_validation_are_kept(tmp_path: Path) -> None:
    model, saved = Recorder(validation=[3.0, 2.0, 2.5, 1.0, 4.0]), []
    job = job_of(8, 10, validation=4, steps_per_eval=2)
    outcome, lines = run(model, job, tmp_path, saved)
    assert saved == [2, 4, 8]
    assert (outcome.best_step, outcome.validation_loss, outcome.steps) == (8, 1.0, 10)
    measured = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert measured == {2: 3.0, 4: 2.0, 6: 2.5, 8: 1.0, 10: 4.0}


def test_equally_good_weights_are_not_saved_again(tmp_path: Path) -> None:
    saved: list[int] = []
    run(Recorder(validation=[1.0]), job_of(8, 6, validation=2, steps_per_eval=2), tmp_path, saved)
    assert saved == [2]


def test_the_last_step_is_measured_too(tmp_path: Path) -> None:
    saved: list[int] = []
    outcome, _ = run(Recorder(validation=[2.0, 1.0]), job_of(8, 5, validation=2, steps_per_eval=4), tmp_path, saved)
    assert saved == [4, 5]
    assert outcome.best_step == 5


def test_without_validation_rows_the_last_weights_are_kept(tmp_path: Path) -> None:
    model, saved = Recorder(), []
    outcome, lines = run(model, job_of(8, 7, steps_per_eval=2), tmp_path, saved)
    assert saved == [7]
    assert (outcome.best_step, outcome.validation_loss, model.measured) == (7, None, 0)
    assert not [line for line in lines if "validation_loss" in line]


def test_a_validation_loss_that_is_never_finite_is_a_failure(tmp_path: Path) -> None:
    """NaN is below nothing: nothing is ever saved, and the stage was called done without an adapter."""
    saved: list[int] = []
    with pytest.raises(Failure):
        run(Recorder(validation=[math.nan]), job_of(8, 4, validation=2, steps_per_eval=2), tmp_path, saved)


def test_validation_is_weighted_over_all_rows_at_once() -> None:
    """Not a mean of the batches' means: a last batch of one row would count as much as a full one."""
    rows = tuple(TrainingExample((10 + i,), (20,) * (1 + i), tuple(range(30, 31 + i % 3))) for i in range(5))
    examples = TrainingExamples((1, 2), rows)
    model = FakeModel(64)
    losses = [
        mean_loss(
            model,
            TrainingJob(examples, examples, TrainingSection(batch_size=size), 0, 1, weights=LossWeights(reasoning=0.5)),
        )
        for size in (1, 2, 5)
    ]
    whole = step_batches(examples, [range(5)], weights=LossWeights(reasoning=0.5))[0]
    np.testing.assert_allclose(losses, model.loss(whole), rtol=1e-6)


class Accurate(Recorder):
    """Its accuracy after each number of steps is given."""

    def __init__(self, accuracies: dict[int, float], validation: Sequence[float] = (1.0,)) -> None:
        super().__init__(validation=validation)
        self.accuracies = accuracies


def accurate(model: Any) -> float:
    return float(model.accuracies[len(model.steps)])


def test_the_best_weights_are_those_with_the_highest_accuracy(tmp_path: Path) -> None:
    """Though the loss says otherwise: it grows where a model is too sure, long before the model is wrong."""
    model = Accurate({2: 0.5, 4: 0.8, 6: 0.7, 8: 0.9, 10: 0.6}, validation=[1.0, 2.0, 0.5, 3.0, 0.1])
    saved: list[int] = []
    job = replace(job_of(8, 10, validation=4, steps_per_eval=2), accuracy=accurate)
    outcome, lines = run(model, job, tmp_path, saved)
    assert saved == [2, 4, 8]
    assert (outcome.best_step, outcome.validation_accuracy, outcome.validation_loss) == (8, 0.9, 3.0)
    measured = {line["step"]: line["validation_accuracy"] for line in lines if "validation_accuracy" in line}
    assert measured == model.accuracies


def test_of_equally_accurate_weights_the_lower_loss_decides(tmp_path: Path) -> None:
    model = Accurate(dict.fromkeys((2, 4, 6, 8), 0.0), validation=[3.0, 2.0, 2.5, 2.0])
    saved: list[int] = []
    job = replace(job_of(8, 8, validation=4, steps_per_eval=2), accuracy=accurate)
    outcome, _ = run(model, job, tmp_path, saved)
    assert saved == [2, 4]
    assert (outcome.best_step, outcome.validation_accuracy, outcome.validation_loss) == (4, 0.0, 2.0)


def test_patience_counts_from_the_most_accurate(tmp_path: Path) -> None:
    falling = [1.0 / n for n in range(1, 20)]
    model = Accurate({2: 0.6, 4: 0.8, 6: 0.7, 8: 0.7, 10: 0.9}, validation=falling)
    job = replace(job_of(8, 30, validation=4, steps_per_eval=2, patience=2), accuracy=accurate)
    heard: list[str] = []
    progress = Hearing()
    progress.say = heard.append  # type: ignore[method-assign]
    outcome = train(model, job, TrainingOutputs(tmp_path / "m", lambda: None), progress=progress)
    assert (outcome.steps, outcome.best_step) == (8, 4)
    assert heard == ["Stopped after step 8: 2 validations without improving on 80.0% correct at step 4."]
