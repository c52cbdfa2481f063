"""How a text gets its probabilities and its reasoning, on a tiny model in both frameworks, and by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import LABELS

from rir_mlx.backends.base import (
    Backend,
    Completion,
    Model,
    OnToken,
    Request,
    Sampling,
    Tokens,
    stop_length,
    unstopped,
)
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import LabelScores, Prediction
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.errors import Failure, UserError
from rir_mlx.prompting.arms import ClassificationTask, label_tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER, classifier_prompt
from rir_mlx.statistics.calibration import AnswerThreshold, Calibration
from rir_mlx.types import Arm

TASK = ClassificationTask(dict.fromkeys(LABELS, ""), "Which label fits the text?", 320, 12)
TEXTS = ["i feel happy today because my friend came home", "i was sad", "angry at the rain", "a friend", "happy, sad"]
SAMPLED = PredictOptions(samples=3, temperature=1.0)

Make = Callable[..., Classifier]


@pytest.fixture
def made(framework: Backend, tiny: Path, codec: Codec) -> Make:
    model = framework.load(tiny, dtype="float32")

    def make(arm: Arm = "qra", calibration: Calibration | None = None, task: ClassificationTask = TASK) -> Classifier:
        return Classifier(model, codec, task, arm, calibration)

    return make


def probabilities_of(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([list(prediction.probabilities.values()) for prediction in predictions])


class Scripted(FakeModel):
    """Writes the given tokens, whatever the prompt, and scores as the fake model does."""

    def __init__(self, tokens: Sequence[int] = (), *, nan: bool = False) -> None:
        super().__init__(400)
        self.tokens, self.nan = tokens, nan

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, *, prefix: Tokens = (), on_token: OnToken | None = None
    ) -> Iterator[Completion]:
        for request in requests:
            written: list[int] = []
            for token in self.tokens[: request.limit(sampling)]:
                written.append(token)
                if on_token is not None:
                    on_token(request.key, token)
                if stop_length(written, sampling.stop):
                    break
            yield Completion(request.key, *unstopped(written, sampling.stop))

    def score(self, *args: Any, **more: Any) -> Any:
        scores = super().score(*args, **more)
        return scores * np.nan if self.nan else scores


def scripted(codec: Codec, tokens: Sequence[int], arm: Arm = "qra") -> Classifier:
    return Classifier(Scripted(tokens), codec, TASK, arm)


# what a label's probability is


@pytest.mark.parametrize("arm", ["qa", "qar", "qarqa", "multitask", "qra"])
def test_probabilities_sum_to_one_and_the_mass_is_that_of_the_labels(made: Make, codec: Codec, arm: Arm) -> None:
    for prediction in made(arm).predict(TEXTS, PredictOptions("never")):
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert 0 < prediction.mass < 1
        assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)
        assert list(prediction.probabilities) == list(LABELS)


def naive(model: Model, prompt: Tokens, option: Tokens) -> float:
    """log p of an option, from the logits of the whole sequence."""
    logits = model.logits((*prompt, *option)).astype(np.float64)
    logits -= np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) + logits.max(
        -1, keepdims=True
    )
    return float(sum(logits[len(prompt) + place - 1, token] for place, token in enumerate(option)))


def test_never_scores_the_labels_after_an_empty_reasoning(made: Make, codec: Codec) -> None:
    classifier = made()
    direct, empty = classifier.direct(TEXTS), classifier.given(TEXTS, [""] * len(TEXTS))
    assert np.abs(direct.scores - empty.scores).max() < 1e-4
    never = classifier.predict(TEXTS, PredictOptions("never"))
    assert all(prediction.reasoning is None and prediction.tokens == 0 for prediction in never)
    for row, (text, prediction) in enumerate(zip(TEXTS[:2], never, strict=False)):
        encoded = codec.encode(classifier_prompt(text, TASK.labels, TASK.instruction, "reasoning, label"), 280)
        prompt = (*encoded.prefix, *encoded.row, *codec.constant(DELIMITER))
        scores = np.array([naive(classifier.model, prompt, label_tokens(codec, label)) for label in LABELS])
        assert np.abs(direct.scores[row] - scores).max() < 1e-4
        assert prediction.mass == pytest.approx(np.exp(scores).sum(), rel=1e-3)
        assert probabilities_of([prediction])[0] == pytest.approx(np.exp(scores) / np.exp(scores).sum(), abs=1e-4)


@pytest.mark.parametrize("arm", ["qar", "multitask"])
def test_an_explanation_written_or_not_changes_no_probability(made: Make, arm: Arm) -> None:
    classifier = made(arm)
    with_, without = classifier.predict(TEXTS), classifier.predict(TEXTS, PredictOptions("never"))
    assert [replace(prediction, reasoning=None) for prediction in with_] == without
    assert all(prediction.reasoning is None and prediction.tokens == 0 for prediction in without)
    assert all(isinstance(prediction.reasoning, str) and 0 < prediction.tokens <= 12 for prediction in with_)
    assert classifier.predict(TEXTS, PredictOptions("auto")) == without


def test_label_only_writes_nothing_however_it_is_asked(made: Make) -> None:
    classifier = made("qa")
    found = [
        classifier.predict(TEXTS, how) for how in (PredictOptions(), PredictOptions("never"), PredictOptions("auto", 3))
    ]
    assert found[0] == found[1] == found[2]
    assert {prediction.reasoning for prediction in found[0]} == {None}


@pytest.mark.slow
def test_both_frameworks_read_alike_in_every_way(
    tiny: Path, codec: Codec, open_named: Callable[[str], Backend]
) -> None:
    models = [open_named(name).load(tiny, dtype="float32") for name in ("torch", "mlx")]
    arms: tuple[Arm, ...] = ("qa", "qra", "qar", "qarqa", "multitask")
    for arm in arms:
        first, second = (Classifier(model, codec, TASK, arm) for model in models)
        pairs = [(first.direct(TEXTS), second.direct(TEXTS))]
        if arm in ("qra", "qarqa"):
            pairs += [(first.reasoned(TEXTS), second.reasoned(TEXTS))]
            pairs += [(first.given(TEXTS, TEXTS[::-1]), second.given(TEXTS, TEXTS[::-1]))]
            pairs += zip(first.sampled(TEXTS, SAMPLED), second.sampled(TEXTS, SAMPLED), strict=True)
        for ours, other in pairs:
            assert np.abs(ours.scores - other.scores).max() < 1e-4
            assert (ours.reasonings, ours.tokens) == (other.reasonings, other.tokens)
        if arm in ("qar", "multitask"):
            labels = [LABELS[0]] * len(TEXTS)
            assert first.explanations(TEXTS, labels) == second.explanations(TEXTS, labels)


# when a reasoning is written


def test_auto_reasons_about_the_doubtful_texts_and_answers_each_as_it_would_otherwise(made: Make) -> None:
    temperatures: Any = {"direct": 0.5, "reasoned": 2.0, "sampled": 1.0}
    plain = made("qra", Calibration(temperatures))
    never, always = plain.predict(TEXTS, PredictOptions("never")), plain.predict(TEXTS)
    threshold = sorted(prediction.probability for prediction in never)[2]
    auto = made("qra", Calibration(temperatures, reason_below=threshold)).predict(TEXTS, PredictOptions("auto"))
    doubtful = [prediction.probability < threshold for prediction in never]
    assert sum(doubtful) == 2
    for prediction, doubted, without, with_ in zip(auto, doubtful, never, always, strict=True):
        wanted = with_ if doubted else without
        assert (prediction.reasoning, prediction.label) == (wanted.reasoning, wanted.label)
        assert probabilities_of([prediction]) == pytest.approx(probabilities_of([wanted]), abs=1e-4)


@pytest.mark.parametrize(("below", "share"), [(0.0, 0), (2.0, 5)])
def test_auto_knows_never_and_always(tiny: Path, codec: Codec, below: float, share: int) -> None:
    found = Classifier(Scripted([5]), codec, TASK, "qra", Calibration(reason_below=below)).predict(
        TEXTS, PredictOptions("auto")
    )
    assert sum(prediction.reasoning is not None for prediction in found) == share


def test_auto_without_a_measured_threshold_says_what_to_do(codec: Codec) -> None:
    with pytest.raises(UserError, match="has not been measured") as raised:
        scripted(codec, [5]).predict(TEXTS, PredictOptions("auto"))
    assert raised.value.hint == "Run `rir-mlx evaluate`, or choose always or never."


def test_calibration_changes_how_sure_an_answer_is_and_never_the_answer(codec: Codec) -> None:
    sharp: Any = {"direct": 0.5, "reasoned": 1.0, "sampled": 1.0}
    before, after = (
        Classifier(Scripted(), codec, TASK, "qa", calibration).predict(TEXTS)
        for calibration in (None, Calibration(sharp))
    )
    assert [prediction.label for prediction in before] == [prediction.label for prediction in after]
    assert [prediction.mass for prediction in before] == [prediction.mass for prediction in after]
    squared = probabilities_of(before) ** 2
    assert probabilities_of(after) == pytest.approx(squared / squared.sum(1, keepdims=True))


# several reasonings


def test_samples_are_averaged_as_by_hand(made: Make) -> None:
    classifier = made()
    chains = classifier.sampled(TEXTS, SAMPLED)
    assert len({chain.reasonings[0] for chain in chains}) > 1
    each = [np.exp(chain.scores) for chain in chains]
    wanted = np.mean([row_scores / row_scores.sum(1, keepdims=True) for row_scores in each], axis=0)
    found = classifier.predict(TEXTS, SAMPLED)
    assert probabilities_of(found) == pytest.approx(wanted, abs=1e-9)
    assert [row_scores.mass for row_scores in found] == pytest.approx(
        np.mean([row_scores.sum(1) for row_scores in each], axis=0)
    )
    assert [prediction.tokens for prediction in found] == np.sum([chain.tokens for chain in chains], axis=0).tolist()
    for row, prediction in enumerate(found):
        agreeing = [chain for chain in chains if chain.scores[row].argmax() == LABELS.index(prediction.label)]
        assert prediction.reasoning == (agreeing or chains)[0].reasonings[row]


def test_draws_are_decided_by_the_text_and_the_number_of_the_chain(made: Make) -> None:
    classifier = made()
    together, later = classifier.sampled(TEXTS, SAMPLED), classifier.sampled(TEXTS, SAMPLED, after=1)
    alone = [classifier.sampled([text], replace(SAMPLED, batch_size=1)) for text in TEXTS[:2]]
    for chain in range(3):
        assert [sampled[chain].reasonings[0] for sampled in alone] == together[chain].reasonings[:2]
        scores = np.concatenate([sampled[chain].scores for sampled in alone])
        assert np.abs(scores - together[chain].scores[:2]).max() < 1e-4
    for drawn, other in zip(together[1:], later, strict=True):
        assert drawn.reasonings == other.reasonings
        assert np.abs(drawn.scores - other.scores).max() < 1e-4


def test_a_mean_of_readings_keeps_the_first_reasoning_that_agrees() -> None:
    scores = [np.log(np.array([[0.6, 0.2], [0.1, 0.3]])), np.log(np.array([[0.1, 0.4], [0.3, 0.1]]))]
    chains = [
        LabelScores(chain_scores, [f"{name}0", f"{name}1"], [2, 3], [0, 1])
        for chain_scores, name in zip(scores, ("a", "b"), strict=True)
    ]
    found = LabelScores.averaged(chains)
    assert np.exp(found.log_probabilities) == pytest.approx(np.array([[0.475, 0.525], [0.5, 0.5]]))
    assert found.mass == pytest.approx([0.65, 0.4])
    assert (found.reasonings[0], found.tokens, found.trimmed) == ("b0", [4, 6], [0, 1])
    alone = LabelScores.averaged(chains[:1])
    assert alone.scores == pytest.approx(scores[0])


def test_a_reading_takes_chosen_rows_from_another() -> None:
    first = LabelScores(np.zeros((3, 2)), [None, None, None], [0, 0, 0], [1, 2, 3])
    second = LabelScores(np.ones((2, 2)), ["x", "y"], [4, 5], [6, 7])
    found = first.where(np.array([True, False, True]), second)
    assert found.scores.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert (found.reasonings, found.tokens, found.trimmed) == (["x", None, "y"], [4, 0, 5], [6, 2, 7])
    assert first.scores.sum() == 0
    assert first.reasonings == [None, None, None]


# what is written


def test_a_model_that_never_stops_still_gives_a_label_after_the_limit(codec: Codec) -> None:
    word = codec.given(" rain")
    classifier = scripted(codec, word * 100)
    [prediction] = classifier.predict(["a day"])
    kept = (word * 100)[:12]
    assert prediction.tokens == 12
    assert prediction.reasoning == codec.decode(kept).strip()
    encoded = codec.encode(classifier_prompt("a day", TASK.labels, TASK.instruction, "reasoning, label"), 280)
    prompt = (*encoded.row, *kept, *codec.constant(DELIMITER))
    assert classifier.reasoned(["a day"]).scores == pytest.approx(
        classifier.model.score([prompt], classifier.label_tokens, prefix=encoded.prefix)
    )


@pytest.mark.parametrize("arm", ["qra", "qar", "qarqa", "multitask"])
def test_what_is_written_stops_at_the_terminator_and_does_not_hold_it(codec: Codec, arm: Arm) -> None:
    words = codec.given(" my friend came")
    [prediction] = scripted(codec, [*words, codec.terminator, *words], arm).predict(["a day"])
    assert (prediction.reasoning, prediction.tokens) == ("my friend came", len(words))


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("arm", ["qra", "qar", "qarqa", "multitask"])
def test_text_is_passed_on_as_it_is_written_and_is_the_text_that_is_returned(
    codec: Codec, arm: Arm, samples: int
) -> None:
    written = [*codec.given(" because\nmy friend came"), *codec.constant(DELIMITER)[:1], *codec.given("\nhome ")]
    pieces: list[str] = []
    classifier = scripted(codec, [*written, *codec.constant(DELIMITER), *written][:60], arm)
    classifier.task = replace(TASK, max_reasoning_tokens=60)
    [prediction] = classifier.predict(["a day"], PredictOptions(samples=samples), on_text=pieces.append)
    assert "".join(pieces) == prediction.reasoning
    assert prediction.reasoning is not None
    assert prediction.reasoning.startswith("because\nmy friend came")
    if arm in ("qra", "qarqa"):
        assert not prediction.reasoning.endswith("Label:")
    if samples == 1 or arm not in ("qra", "qarqa"):
        assert len(pieces) > 5
    assert all(pieces)


def test_half_a_character_at_the_limit_is_shown_as_it_is_returned(codec: Codec) -> None:
    pieces: list[str] = []
    cut = codec.given("a 😀")[:-1]
    [prediction] = scripted(codec, [*cut, codec.terminator]).predict(["a day"], on_text=pieces.append)
    assert prediction.reasoning is not None
    assert prediction.reasoning.endswith("\ufffd")
    assert "".join(pieces) == prediction.reasoning


def test_auto_that_does_not_reason_passes_nothing_on(codec: Codec) -> None:
    pieces: list[str] = []
    classifier = Classifier(Scripted([5]), codec, TASK, "qra", Calibration(reason_below=0.0))
    assert classifier.predict(["a day"], PredictOptions("auto"), on_text=pieces.append)[0].reasoning is None
    assert pieces == []


# edges


@pytest.mark.parametrize("arm", ["qa", "qra", "qar", "qarqa", "multitask"])
def test_no_texts_give_no_predictions(codec: Codec, arm: Arm) -> None:
    classifier = scripted(codec, [5], arm)
    assert all(classifier.predict([], PredictOptions(reason)) == [] for reason in ("never", "always", "auto"))  # type: ignore[arg-type]


@pytest.mark.parametrize("arm", ["qa", "qra", "qar", "qarqa", "multitask"])
def test_a_text_that_is_too_long_is_cut_and_counted(codec: Codec, arm: Arm) -> None:
    classifier = scripted(codec, [5], arm)
    long, short = classifier.predict(["rain " * 400, "rain"])
    assert short.trimmed == 0
    assert long.trimmed > 100
    [less] = classifier.predict(["rain " * 399])
    assert long.trimmed - less.trimmed == codec.lengths(["rain " * 400])[0] - codec.lengths(["rain " * 399])[0]


def test_a_given_reasoning_shows_as_much_of_the_text_as_ones_own(codec: Codec) -> None:
    """Else a text that is cut would be cut elsewhere, and the label could change for that."""
    classifier, text = scripted(codec, codec.given("rain")), "rain " * 400
    own, short = classifier.reasoned([text]), classifier.given([text], ["rain"])
    assert list(own.trimmed) == list(short.trimmed) == list(classifier.direct([text]).trimmed)
    assert np.array_equal(own.scores, short.scores)
    assert classifier.given([text], ["rain " * 40]).trimmed[0] > own.trimmed[0]


def test_probabilities_that_are_no_numbers_are_a_failure_with_its_mend(codec: Codec) -> None:
    with pytest.raises(Failure, match="not numbers") as raised:
        Classifier(Scripted(nan=True), codec, TASK, "qa").predict(["a day"])
    assert raised.value.hint == "Set dtype to float32 or bfloat16."


def test_no_room_for_a_text_is_said_before_anything_is_read(codec: Codec) -> None:
    with pytest.raises(UserError, match="leaves no room for a text") as raised:
        Classifier(Scripted(), codec, replace(TASK, max_seq_length=14), "qra")
    assert "max_reasoning_tokens" in (raised.value.hint or "")


def test_a_way_of_classifying_that_was_not_measured_has_no_threshold(tiny: Path, codec: Codec) -> None:
    thresholds = {"direct": AnswerThreshold(0.5, 90), "reasoned": AnswerThreshold(0.25, 90)}
    found = Classifier(FakeModel(400), codec, TASK, "qra", Calibration(answer_from=thresholds))  # type: ignore[arg-type]
    assert found.answer_from(PredictOptions()) == 0.25
    assert found.answer_from(PredictOptions("never")) == 0.5
    for unknown in (PredictOptions("auto"), PredictOptions(samples=3)):
        with pytest.raises(UserError, match="not measured for this way of classifying"):
            found.answer_from(unknown)
    assert Classifier(FakeModel(400), codec, TASK, "qra").answer_from(PredictOptions("auto")) is None


@pytest.mark.parametrize("arm", ["qa", "qra"])
@pytest.mark.parametrize("options", [PredictOptions(), PredictOptions(samples=2), PredictOptions("never")])
def test_without_the_mass_probabilities_are_the_same(made: Make, arm: Arm, options: PredictOptions) -> None:
    classifier = made(arm)
    told, untold = (classifier.predict(["i am glad"], replace(options, mass=mass))[0] for mass in (True, False))
    assert told.mass is not None
    assert (untold.mass, untold.fits_no_label, untold.reasoning) == (None, False, told.reasoning)
    assert untold.probabilities == pytest.approx(told.probabilities)
