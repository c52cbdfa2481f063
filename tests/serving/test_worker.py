"""The thread that has the model: the same answers as one by one, whoever asks at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from served_models import TASK, TEXTS, described, fake_classifier, served_run

from rir_mlx.backends.base import Backend, Completion, OnToken, Request, Sampling, Tokens
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import Prediction
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.errors import Failure, UserError
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.serving.jobs import Busy, Item, Job, Question
from rir_mlx.serving.wire import Served
from rir_mlx.serving.workbench.arms import Arms, Loaded
from rir_mlx.serving.worker import Limits, Worker
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import Arm, ReasonMode

WEATHER = Question("Is the weather good?", (("yes", "sun"), ("no", "rain")))


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[type[Worker]]:
    """Workers that are stopped at the end of the test."""
    made: list[Worker] = []

    class Started(Worker):
        def __init__(self, classifier: Classifier, limits: Limits | None = None) -> None:
            super().__init__(lambda: classifier, limits)
            self.start()
            made.append(self)

    yield Started
    for worker in made:
        worker.stop(10)
        assert worker.rows == 0


def close(found: Prediction, expected: Prediction) -> None:
    assert (found.label, found.reasoning, found.trimmed) == (expected.label, expected.reasoning, expected.trimmed)
    assert (found.first is None) == (expected.first is None)
    if found.first and expected.first:
        close(found.first, expected.first)
    assert list(found.probabilities.values()) == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    assert (found.mass, found.tokens) == (pytest.approx(expected.mass, rel=1e-3), expected.tokens)


@pytest.mark.parametrize("reason", get_args(ReasonMode))
@pytest.mark.parametrize("arm", ["qa", "qra", "qar", "qarqa", "multitask", "curriculum"])
def test_a_job_is_answered_as_predict_does(started: type[Worker], codec: Codec, arm: Arm, reason: ReasonMode) -> None:
    classifier = fake_classifier(codec, arm)
    expected = classifier.predict(TEXTS, PredictOptions(reason))
    worker = started(classifier)
    jobs = [worker.submit(Job([Item(text, reason) for text in TEXTS[start:]])) for start in range(4)]
    for start, job in enumerate(jobs):
        for found, wanted in zip(job.result(10), expected[start:], strict=True):
            close(found, wanted)
    if arm == "qra" and reason == "auto":
        assert len({prediction.reasoning is None for prediction in expected}) == 2
    if classifier.writes_reasoning and reason == "always":
        assert all(prediction.reasoning for prediction in expected)
    assert jobs[0].generated_tokens == sum(prediction.tokens for prediction in expected)


def test_requests_of_many_kinds_at_once_are_answered_as_one_by_one(
    started: type[Worker], framework: Backend, tiny: object, codec: Codec
) -> None:
    """Streams, labels, other questions, and texts of very different lengths, on a real model, from several threads."""
    model = framework.load(tiny, dtype="float32")  # type: ignore[arg-type]
    classifier = Classifier(model, codec, TASK, "qra", fake_classifier(codec).calibration)
    other = Classifier(
        model,
        codec,
        TASK.__class__(dict(WEATHER.labels), WEATHER.instruction, 2048, TASK.max_reasoning_tokens),
        "qra",
    )
    texts = [f"{text} {'rain ' * (7 * place % 23)}" for place, text in enumerate(TEXTS)]
    kinds: list[tuple[Classifier, Question | None, ReasonMode]] = [
        *((classifier, None, mode) for mode in get_args(ReasonMode)),
        *((other, WEATHER, mode) for mode in ("never", "always")),
    ]
    asked = [(text, *kinds[place % len(kinds)]) for place, text in enumerate(texts)]
    expected = [one.predict([text], PredictOptions(mode))[0] for text, one, _, mode in asked]
    worker = Worker(lambda: classifier, Limits(together=4))
    heard = [Heard() for _ in asked]
    jobs: dict[int, Job] = {}

    def ask(place: int) -> None:
        text, _, question, mode = asked[place]
        jobs[place] = worker.submit(Job([Item(text, mode, question)], heard[place]))

    worker.start()
    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, wanted in enumerate(expected):
        [found] = jobs[place].result(60)
        close(found, wanted)
        assert (heard[place].text, heard[place].labels) == (wanted.reasoning or "", [wanted.label])
    worker.stop(10)


class Heard:
    """What a job's listener was told."""

    def __init__(self) -> None:
        self.text, self.labels, self.begun = "", list[str](), threading.Event()

    def piece(self, place: int, text: str) -> None:
        self.text += text
        self.begun.set()

    def answer(self, place: int, prediction: Prediction) -> None:
        self.labels.append(prediction.label)


class Waiting(FakeModel):
    """Generates a token each time that it is let, in a batch that requests may join."""

    def __init__(self) -> None:
        super().__init__(400)
        self.go = threading.Semaphore(0)
        self.scored: list[int] = []

    def generate(
        self,
        requests: Iterable[Request | None],
        sampling: Sampling,
        *,
        prefix: Tokens = (),
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        rows: dict[int, list[int]] = {}
        source = iter(requests)
        while True:
            while (request := next(source, None)) is not None:
                rows[request.key] = []
            if not rows:
                return
            self.go.acquire()
            for key, written in list(rows.items()):
                written.append(20 + len(written))
                assert on_token is not None
                on_token(key, written[-1])
                if len(written) == sampling.max_tokens:
                    del rows[key]
                    yield Completion(key, tuple(written), "length")

    def score(self, prompts: object, *rest: object, **more: object) -> np.ndarray:
        self.scored.append(len(prompts))  # type: ignore[arg-type]
        return super().score(prompts, *rest, **more)  # type: ignore[arg-type]


def test_labels_are_scored_together_while_a_reasoning_is_generated(started: type[Worker], codec: Codec) -> None:
    model = Waiting()
    worker = started(fake_classifier(codec, model=model))
    stream = Heard()
    slow = worker.submit(Job([Item("i was sad", "always")], stream))
    model.go.release()
    assert stream.begun.wait(10)
    quick = [worker.submit(Job([Item(text)])) for text in TEXTS]
    model.go.release()
    for job in quick:
        assert job.result(10)[0].reasoning is None
    assert model.scored == [len(TEXTS)]
    model.go.release(2 * TASK.max_reasoning_tokens)
    assert slow.result(10)[0].reasoning


def test_a_request_of_many_texts_does_not_hold_up_a_single_one(started: type[Worker], codec: Codec) -> None:
    model, order = Waiting(), list[str]()
    worker = started(fake_classifier(codec, model=model), Limits(together=2))
    first = worker.submit(Job([Item("x", "always")]))
    model.go.release()
    many, one = Job([Item(text) for text in TEXTS]), Job([Item("i was sad")])
    many.when_ended(lambda: order.append("many"))
    one.when_ended(lambda: order.append("one"))
    worker.submit(many)
    worker.submit(one)
    model.go.release(2 * TASK.max_reasoning_tokens)
    many.result(10), one.result(10), first.result(10)
    assert order == ["one", "many"]


def test_more_than_the_limit_is_refused_and_says_when_to_come_again(started: type[Worker], codec: Codec) -> None:
    model = Waiting()
    worker = started(fake_classifier(codec, model=model), Limits(rows=3))
    held = worker.submit(Job([Item("x", "always"), Item("y", "always")]))
    with pytest.raises(Busy) as refused:
        worker.submit(Job([Item("a"), Item("b")]))
    assert 1 <= refused.value.retry_after <= 60
    worker.submit(Job([Item("a")]))
    model.go.release(4 * TASK.max_reasoning_tokens)
    held.result(10)


def test_who_waits_too_long_is_told_so(started: type[Worker], codec: Codec) -> None:
    model = Waiting()
    worker = started(fake_classifier(codec, model=model), Limits(seconds=0.0))
    with pytest.raises(Busy):
        worker.submit(Job([Item("a")])).result(10)


def test_the_reasoning_of_a_client_that_hung_up_is_dropped_and_others_go_on(
    started: type[Worker], codec: Codec
) -> None:
    model, heard = Waiting(), Heard()
    worker = started(fake_classifier(codec, model=model))
    hung = worker.submit(Job([Item("x", "always")], heard))
    model.go.release()
    assert heard.begun.wait(10)
    hung.gone = True
    stays = worker.submit(Job([Item("y", "always")]))
    model.go.release(3 * TASK.max_reasoning_tokens)
    assert stays.result(10)[0].reasoning
    with pytest.raises(Failure, match="has left"):
        hung.result(0)


@pytest.mark.parametrize("reason", ["never", "always"])
def test_a_thread_that_waits_for_a_job_whose_client_left_is_let_go(
    started: type[Worker], codec: Codec, reason: ReasonMode
) -> None:
    """The rows were dropped and their job never ended: `rir-mlx mcp` waited for it at its exit, for ever."""
    model = Waiting()
    worker = started(fake_classifier(codec, model=model), Limits(together=2))
    busy = worker.submit(Job([Item("x", "always")]))
    left = worker.submit(Job([Item(text, reason) for text in TEXTS]))
    left.gone = True
    model.go.release(3 * TASK.max_reasoning_tokens)
    assert busy.result(10)[0].reasoning
    with pytest.raises(Failure, match="has left"):
        left.result(10)


def test_a_text_that_cannot_be_asked_fails_alone(started: type[Worker], codec: Codec) -> None:
    worker = started(fake_classifier(codec), Limits(tokens=64))
    long = Question("Which?", (("a", "word " * 400), ("b", "")))
    failing = worker.submit(Job([Item("x", question=long)]))
    fine = worker.submit(Job([Item("x", question=WEATHER)]))
    with pytest.raises(UserError):
        failing.result(10)
    assert set(fine.result(10)[0].probabilities) == {"yes", "no"}


def test_a_failure_of_the_model_reaches_who_asked_and_the_next_is_answered(
    started: type[Worker], codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel(400)
    worker = started(fake_classifier(codec, model=model))
    for name, reason in (("score", "never"), ("generate", "always")):
        with monkeypatch.context() as patch:
            patch.setattr(model, name, lambda *_, **__: 1 / 0)
            job = worker.submit(Job([Item("x", reason)]))  # type: ignore[arg-type]
            with pytest.raises(ZeroDivisionError):
                job.result(10)
    assert worker.submit(Job([Item("x", "always")])).result(10)


def test_what_was_submitted_is_answered_before_the_worker_stops(codec: Codec) -> None:
    worker = Worker(lambda: fake_classifier(codec))
    worker.start()
    jobs = [worker.submit(Job([Item(text, "always") for text in TEXTS])) for _ in range(5)]
    worker.stop(10)
    assert all(len(job.result(0)) == len(TEXTS) for job in jobs)
    with pytest.raises(Failure, match="stopping"):
        worker.submit(Job([Item("x")]))


def test_a_model_that_cannot_be_loaded_is_the_caller_s_error() -> None:
    def load() -> Classifier:
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        Worker(load).start()


def test_an_arm_that_cannot_be_described_is_not_kept_in_memory(small: tuple[RunDir, Recipe], codec: Codec) -> None:
    """Each request for an arm without the threshold that was wanted loaded one more model."""
    main = fake_classifier(codec)
    worker = Worker(lambda: main)
    source = served_run(*small, main, lambda arm: fake_classifier(codec, arm))

    def describe(classifier: Classifier) -> Served:
        raise UserError("no threshold is known")

    arms = Arms(replace(source, describe=describe), Loaded(worker, described(main)), Limits())
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(UserError, match="no threshold"):
            arms.get("qa")
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
