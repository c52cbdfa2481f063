"""The arm whose reasonings are dropped in training: what each step learns, and how it answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from commands import LABELS
from test_answering_twice import ROWS, TASK, TEXTS, log_probability

from rir_mlx.backends.base import Backend
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.data.rows import Row
from rir_mlx.prompting.arms import training_examples
from rir_mlx.prompting.batches import LossWeights
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import ClassifierSection
from rir_mlx.training.job import TrainingJob

STEPS = 21
REASONING = "because my friend came home on a very long day"


def job_of(codec: Codec, rows: list[Row], steps: int = STEPS) -> TrainingJob:
    examples, weights = training_examples(codec, TASK, rows, "curriculum"), LossWeights(1.0, 0.5)
    options = ClassifierSection(curriculum=(0.2, 0.7))
    return TrainingJob(examples, examples, options, 0, steps, weights, curriculum=options.curriculum)


def test_reasonings_lose_their_starts_step_by_step_and_the_label_stays(codec: Codec) -> None:
    job = job_of(codec, [Row(TEXTS[0], "joy", REASONING)])
    [whole], given = job.train.rows, codec.given(REASONING)
    delimiter, label = codec.constant("\nLabel:"), (*codec.given(" joy"), codec.terminator)
    left = []
    for step in range(STEPS):
        [batch] = job.batches(job.train, [[0]], step=step)
        row = batch.tokens[0].tolist()
        start = len(job.train.prefix) + len(whole.prompt)
        learned = tuple(row[start:])
        assert learned[-len(label) :] == label
        assert learned[: -len(label)][-len(delimiter) :] == delimiter
        reasoning = learned[: -len(label) - len(delimiter)]
        assert reasoning == given[len(given) - len(reasoning) :]
        left.append(len(reasoning))
        weights = batch.weights[0, start:]
        np.testing.assert_allclose(weights[-len(label) :], 1 / len(label), rtol=1e-6)
        np.testing.assert_allclose(weights[: -len(label)].sum(), 0.5, rtol=1e-6)
    assert left[:5] == [len(given)] * 5
    assert set(left[14:]) == {0}
    assert all(before >= after for before, after in pairwise(left))
    assert len(set(left)) > 5
    settled = [job.settled(steps) for steps in range(1, STEPS + 1)]
    assert settled == [step >= 14 for step in range(STEPS)]
    end, last = job.batches(job.train, [[0]]), job.batches(job.train, [[0]], step=STEPS - 1)
    assert end[0].tokens.tolist() == last[0].tokens.tolist()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_last_step_has_no_reasoning_however_short_the_training_is(codec: Codec, steps: int) -> None:
    assert job_of(codec, ROWS, steps).dropped(steps - 1) == 1


def test_a_row_without_a_reasoning_is_learned_as_in_the_end(codec: Codec) -> None:
    job = job_of(codec, [Row("i was sad", "sadness", None)])
    first, last = (job.batches(job.train, [[0]], step=step)[0].tokens.tolist() for step in (0, STEPS - 1))
    assert first == last


def test_the_loss_of_a_step_is_the_models_own_on_the_whole_sequences(
    framework: Backend, tiny: Path, codec: Codec
) -> None:
    model, job = framework.load(tiny, dtype="float32"), job_of(codec, ROWS)
    examples, delimiter = job.train, codec.constant("\nLabel:")
    for step in (0, 8, STEPS - 1):
        sums, counts = np.zeros(2), np.zeros(2)
        for row, example in zip(ROWS, examples.rows, strict=True):
            given = codec.given(row.reasoning or "")
            reasoning = (*given[round(job.dropped(step) * len(given)) :], *delimiter)
            before = (*examples.prefix, *example.prompt)
            label = (*codec.given(f" {row.label}"), codec.terminator)
            sums -= log_probability(model, before, reasoning), log_probability(model, (*before, *reasoning), label)
            counts += len(reasoning), len(label)
        found = sum(model.loss(batch) for batch in job.batches(examples, [[0, 1, 2]], step=step))
        assert found == pytest.approx(0.5 * sums[0] / counts[0] + sums[1] / counts[1], rel=1e-5)


def test_it_answers_without_a_reasoning_however_it_is_asked(framework: Backend, tiny: Path, codec: Codec) -> None:
    model = framework.load(tiny, dtype="float32")
    classifier = Classifier(model, codec, TASK, "curriculum")
    asked = [classifier.predict(TEXTS, PredictOptions(reason)) for reason in ("never", "always", "auto")]  # type: ignore[arg-type]
    assert asked[0] == asked[1] == asked[2]
    assert {prediction.reasoning for prediction in asked[0]} == {None}
    for text, scores in zip(TEXTS, classifier.direct(TEXTS).scores, strict=True):
        example = training_examples(codec, TASK, [Row(text, LABELS[0], None)], "curriculum")
        before = (*example.prefix, *example.rows[0].prompt, *codec.constant("\nLabel:"))
        own = [log_probability(model, before, (*codec.given(f" {label}"), codec.terminator)) for label in LABELS]
        assert scores.tolist() == pytest.approx(own, abs=1e-4)
