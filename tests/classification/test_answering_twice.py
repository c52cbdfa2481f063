"""The arm that answers, reasons and answers again: what it learns, and that its numbers are the model's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import LABELS

from rir_mlx.backends.base import Backend, Model, Tokens
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.data.rows import Row
from rir_mlx.prompting.arms import ClassificationTask, LearningOptions, training_examples
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.prompting.prompts import classifier_prompt
from rir_mlx.statistics.calibration import Calibration

TASK = ClassificationTask(dict.fromkeys(LABELS, ""), "Which label fits the text?", 320, 12)
TEXTS = ["i feel happy today because my friend came home", "i was sad", "angry at the rain"]
ROWS = [
    Row(text, LABELS[place % len(LABELS)], f"because of {text[-5:]}", id=str(place)) for place, text in enumerate(TEXTS)
]


def learned(codec: Codec, rows: list[Row], share: float, seed: int = 0) -> TrainingExamples:
    return training_examples(codec, TASK, rows, "qarqa", LearningOptions(wrong_first=share, seed=seed))


def log_probability(model: Model, before: Tokens, tokens: Tokens) -> float:
    """Σ log p of tokens, from the logits of the whole sequence."""
    logits = model.logits((*before, *tokens)).astype(np.float64)[len(before) - 1 : -1]
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(logits[range(len(tokens)), tokens].sum())


# what is learned


def test_a_reasoning_also_follows_wrong_first_labels_and_every_row_learns_the_right_one(codec: Codec) -> None:
    """A model that only saw right first labels would repeat its first label, whatever the reasoning says."""
    rows = [Row(f"text {number}", LABELS[number % len(LABELS)], "because so") for number in range(200)]
    examples = learned(codec, rows, 0.5)
    assert examples.second is not None
    wrong = [not example.first for example in examples.rows]
    assert 70 < sum(wrong) < 130
    firsts = dict(zip(TASK.names, Classifier(FakeModel(400), codec, TASK, "qarqa").first_tokens, strict=True))
    drawn = set()
    for row, example, other in zip(rows, examples.rows, examples.second.rows, strict=True):
        assert example.answer
        assert example.reasoning
        taught = other if not example.first else example
        assert taught.first == firsts[row.label]
        if not example.first:
            assert not other.reasoning
            assert not other.answer
            given = next(label for label in LABELS if example.prompt[-len(firsts[label]) :] == firsts[label])
            assert given != row.label
            drawn.add((row.label, given))
        else:
            assert other.learned == ()
    assert len(drawn) == len(LABELS) * (len(LABELS) - 1)
    assert learned(codec, rows, 0.5) == examples != learned(codec, rows, 0.5, seed=1)
    assert all(example.first for example in learned(codec, rows, 0.0).rows)


def test_a_row_without_a_reasoning_teaches_its_first_label(codec: Codec) -> None:
    [example] = learned(codec, [Row("i was sad", LABELS[0], None)], 0.9).rows
    assert example.learned == example.first


def test_both_answers_share_one_mean(codec: Codec) -> None:
    row = TrainingExample((3, 4), (5, 6, 7), (8, 9), first=(2,))
    (batch,) = step_batches(TrainingExamples((1,), (row,)), [[0]], weights=LossWeights(reasoning=0.6))
    np.testing.assert_allclose(batch.weights, [[0, 0, 0, 1 / 3, 0.2, 0.2, 0.2, 1 / 3, 1 / 3]], rtol=1e-6)
    assert batch.tokens.tolist() == [[1, 3, 4, 2, 5, 6, 7, 8, 9]]


# the model's own numbers


def test_the_loss_is_the_models_own_on_the_whole_sequences(framework: Backend, tiny: Path, codec: Codec) -> None:
    """Mean cross-entropy of both labels' tokens + λ · that of the reasonings' tokens, from plain forward passes."""
    model, examples = framework.load(tiny, dtype="float32"), learned(codec, ROWS, 0.5)
    assert examples.second is not None
    assert {bool(example.first) for example in examples.rows} == {True, False}
    sums, counts = {"answer": 0.0, "reasoning": 0.0}, {"answer": 0, "reasoning": 0}
    for example in (*examples.rows, *examples.second.rows):
        before = (*examples.prefix, *example.prompt)
        for kind, part in (("answer", example.first), ("reasoning", example.reasoning), ("answer", example.answer)):
            if part:
                sums[kind] -= log_probability(model, before, part)
                counts[kind] += len(part)
                before += part
    for shared in (True, False):
        batches = step_batches(examples, [[0, 1, 2]], weights=LossWeights(reasoning=0.5), shared_prefix=shared)
        expected = sums["answer"] / counts["answer"] + 0.5 * sums["reasoning"] / counts["reasoning"]
        assert sum(model.loss(batch) for batch in batches) == pytest.approx(expected, rel=1e-5)


def test_both_answers_have_the_models_own_probabilities(framework: Backend, tiny: Path, codec: Codec) -> None:
    model = framework.load(tiny, dtype="float32")
    temperatures = {"direct": 2.0, "reasoned": 0.5, "sampled": 1.0}
    classifier = Classifier(model, codec, TASK, "qarqa", Calibration(temperatures))  # type: ignore[arg-type]
    between, delimiter = codec.constant("\nReasoning:"), codec.constant("\nLabel:")
    never, always = classifier.predict(TEXTS, PredictOptions("never")), classifier.predict(TEXTS)
    for text, first, second in zip(TEXTS, never, always, strict=True):
        prompt = classifier_prompt(text, TASK.labels, TASK.instruction, "label, reasoning, label")
        encoded = codec.encode(prompt, 250)
        before = (*encoded.prefix, *encoded.row)
        direct = [log_probability(model, before, (*codec.given(f" {label}"), between[0])) for label in LABELS]
        _close(list(first.probabilities.values()), direct, 2.0)
        assert second.first == first
        assert first.reasoning is None
        assert first.first is None
        assert second.reasoning is not None
        before += (*codec.given(f" {first.label}"), *between, *_written(model, before, first.label, codec), *delimiter)
        again = [log_probability(model, before, (*codec.given(f" {label}"), codec.terminator)) for label in LABELS]
        _close(list(second.probabilities.values()), again, 0.5)


def _written(model: Model, before: Tokens, label: str, codec: Codec) -> Tokens:
    """The likeliest tokens after the first label, one forward pass each."""
    written: Tokens = ()
    start = (*before, *codec.given(f" {label}"), *codec.constant("\nReasoning:"))
    delimiter = codec.constant("\nLabel:")
    while len(written) < TASK.max_reasoning_tokens:
        token = int(model.logits((*start, *written))[-1].argmax())
        written += (token,)
        if token in codec.stops:
            return written[:-1]
        if written[-len(delimiter) :] == delimiter:
            return written[: -len(delimiter)]
    return written


def _close(found: list[float], scores: list[float], temperature: float) -> None:
    raised = np.exp((np.array(scores) - max(scores)) / temperature)
    assert found == pytest.approx((raised / raised.sum()).tolist(), abs=1e-4)


def test_auto_reasons_about_doubtful_texts_and_keeps_their_first_answers(codec: Codec) -> None:
    model = FakeModel(400)
    never = Classifier(model, codec, TASK, "qarqa").predict(TEXTS, PredictOptions("never"))
    below = sorted(prediction.probability for prediction in never)[1]
    classifier = Classifier(model, codec, TASK, "qarqa", Calibration(reason_below=below))
    auto, always = (classifier.predict(TEXTS, PredictOptions(reason)) for reason in ("auto", "always"))  # type: ignore[arg-type]
    for first, mixed, second in zip(never, auto, always, strict=True):
        assert mixed == (second if first.probability < below else first)
        assert second.first == first
    sampled = classifier.predict(TEXTS, PredictOptions(samples=2))
    assert [replace(prediction.first, first=None) for prediction in sampled if prediction.first] == never
