"""The one thread that uses the model.

Rows that wait at the same time go through the model together. A reasoning joins those that are being generated, at the
next token; labels are scored in between, a batch after each token. So a stream goes on while other requests are
answered, slower by their batches. Nothing waits for a batch to fill.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rir_mlx.backends.base import Request
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import LabelScores
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.errors import Failure
from rir_mlx.serving.jobs import Busy, Item, Job, Question, Row, Turns, Work
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.types import Way

_QUESTIONS = 64
"""Questions whose encoded labels are kept."""
_RECENT = 20.0
"""Seconds over which the speed is measured."""


@dataclass(frozen=True)
class Limits:
    """What a worker takes.

    rows       texts of all requests together that wait or are worked on
    seconds    how long a text may wait before its turn
    together   rows that go through the model at once
    tokens     of a prompt for a question that the classifier was not trained for
    prefixes   instructions and labels whose keys and values the model keeps
    """

    rows: int = 1024
    seconds: float = 30.0
    together: int = 32
    tokens: int = 2048
    prefixes: int = 8


class Worker:
    """A classifier on a thread of its own, which also loads it: MLX keeps arrays to the thread that made them."""

    def __init__(self, load: Callable[[], Classifier], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._load = load
        self._loaded = threading.Event()
        self._load_error: BaseException | None = None
        self._classifier: Classifier | None = None
        self._changed = threading.Condition()
        self._arrived: deque[Job] = deque()
        self._rows = 0
        self._stopping = False
        self._finished: deque[float] = deque(maxlen=4096)
        self._turns: dict[Work, Turns] = {"score": Turns(), "generate": Turns()}
        self._running: dict[int, Row] = {}
        self._keys = 0
        self._drawn: set[int] = set()
        self._questions: OrderedDict[Question, Classifier] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="rir-mlx-model", daemon=True)

    # of other threads

    def start(self) -> Classifier:
        """Load the classifier, and wait for it. Raises what loading raises. Its model is the worker's to use."""
        self._thread.start()
        self._loaded.wait()
        if self._load_error is not None:
            raise self._load_error
        assert self._classifier is not None
        return self._classifier

    def submit(self, job: Job) -> Job:
        """Let a job wait for its turn. Raises Busy if too many texts wait, Failure if the worker has stopped."""
        if not job.items:
            raise ValueError("a job has one item or more")
        with self._changed:
            if self._stopping or not self._thread.is_alive():
                raise Failure("The server is stopping.")
            if self._rows + len(job.items) > self.limits.rows:
                raise Busy(self._seconds_to_wait())
            self._rows += len(job.items)
            self._arrived.append(job)
            self._changed.notify()
        return job

    def stop(self, timeout: float | None = None) -> None:
        """Answer what was submitted, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    @property
    def rows(self) -> int:
        """Texts that wait or are worked on."""
        return self._rows

    def _seconds_to_wait(self) -> int:
        """For how long the rows ahead will take, as fast as the latest ones went."""
        now = time.monotonic()
        recent = sum(1 for finished in self._finished if finished > now - _RECENT)
        return max(1, min(60, round(self._rows * _RECENT / recent))) if recent else 5

    # of the worker's thread

    def _run(self) -> None:
        try:
            self._classifier = self._load()
            self._classifier.model.keep_prefixes(self.limits.prefixes)
            self._prefix = self._generating_prefix(self._classifier)
        except BaseException as error:
            self._load_error = error
            return
        finally:
            self._loaded.set()
        try:
            while self._wait():
                self._score()
                if self._turns["generate"]:
                    self._generate()
        finally:
            self._fail_all(Failure("The server has stopped working."))

    def _generating_prefix(self, classifier: Classifier) -> tuple[int, ...]:
        """What stands before every reasoning of the trained classifier."""
        if not classifier.writes_reasoning:
            return ()
        label = classifier.task.names[:1]
        if classifier.reasons_first:
            return classifier.reasoning_prompts(["x"], label)[0].prefix
        return classifier.explanation_prompts(["x"], label)[0].prefix

    def _wait(self) -> bool:
        """Wait until there is work. False once the worker is to stop and nothing waits."""
        with self._changed:
            while not (self._arrived or self._stopping or any(self._turns.values())):
                self._changed.wait()
        self._admit()
        return bool(any(self._turns.values()) or not self._stopping)

    def _admit(self) -> None:
        """Give the rows of new jobs their places among those that wait."""
        while True:
            with self._changed:
                if not self._arrived:
                    return
                job = self._arrived.popleft()
            rows: dict[Work, list[Row]] = {"score": [], "generate": []}
            for place, item in enumerate(job.items):
                rows[self._first_work(item)].append(Row(job, place))
            for work, found in rows.items():
                if found:
                    self._turns[work].add(found)

    def _first_work(self, item: Item) -> Work:
        reasons_at_once = self._trained.reasons_first and not self._trained.answers_twice
        return "generate" if item.reason == "always" and reasons_at_once else "score"

    @property
    def _trained(self) -> Classifier:
        assert self._classifier is not None
        return self._classifier

    def _classifier_of(self, question: Question | None) -> Classifier:
        """The trained classifier, or one of the same weights for a question that they were not trained for."""
        if question is None:
            return self._trained
        if question not in self._questions:
            trained = self._trained
            tokens = max(trained.task.max_seq_length, self.limits.tokens)
            task = replace(
                trained.task,
                labels=dict(question.labels),
                combinations=(),
                instruction=question.instruction,
                max_seq_length=min(tokens, trained.model.longest or tokens),
            )
            self._questions[question] = Classifier(trained.model, trained.codec, task, trained.arm, Calibration())
            if len(self._questions) > _QUESTIONS:
                self._questions.popitem(last=False)
        self._questions.move_to_end(question)
        return self._questions[question]

    def _next(self, work: Work) -> Row | None:
        """The next row for that work, ready for it. Rows of jobs that are over are left out, and those that cannot be
        encoded or have waited too long fail."""
        while (row := self._turns[work].take()) is not None:
            if row.job.over:
                self._drop(row)
                continue
            try:
                if row.classifier is None:
                    if time.monotonic() - row.job.since > self.limits.seconds:
                        raise Busy(self._seconds_to_wait())
                    row.begin(self._classifier_of(row.item.question))
                return row
            except Exception as error:
                self._fail([row], error)
        return None

    def _score(self) -> None:
        """Score the labels of the rows that wait for it: one batch, of the first row's question and label tokens."""
        rows: list[Row] = []
        others: list[Row] = []
        while len(rows) + len(others) < self.limits.together and (row := self._next("score")) is not None:
            (rows if not rows or row.is_scored_like(rows[0]) else others).append(row)
        self._turns["score"].put_back(others)
        if not rows:
            return
        try:
            self._take_scores(rows)
        except Exception as error:
            self._fail(rows, error)

    def _take_scores(self, rows: Sequence[Row]) -> None:
        classifier = rows[0].classifier
        assert classifier is not None
        prompts = [row.prompt for row in rows if row.prompt is not None]
        scores = classifier.score(prompts, [row.reasoning for row in rows], self.limits.together, rows[0].way)
        ways: tuple[Way, ...] = ("direct", "reasoned")
        for way in ways:
            places = [place for place, row in enumerate(rows) if row.way == way]
            if places:
                predictions = classifier.predictions(_rows_of(scores, places), way)
                for place, prediction in zip(places, predictions, strict=True):
                    self._go_on(rows[place], partial(rows[place].scored, prediction))

    def _generate(self) -> None:
        """Generate reasonings until none is in progress and none waits."""
        sampling = self._trained.sampling(PredictOptions(batch_size=self.limits.together))
        self._drawn.clear()
        try:
            for completion in self._trained.model.generate(
                self._requests(), sampling, prefix=self._prefix, on_token=self._on_token
            ):
                row = self._running.pop(completion.key)
                self._go_on(row, partial(row.generated, completion.tokens))
        except Exception as error:
            rows = list(self._running.values())
            self._running.clear()
            if not rows and (first := self._turns["generate"].take()) is not None:  # it failed before it took one
                rows = [first]
            self._fail(rows, error)

    def _requests(self) -> Iterator[Request | None]:
        """Requests for the reasonings that wait; None while others are in progress."""
        while True:
            self._admit()
            while (row := self._next("generate")) is not None:
                self._keys += 1
                self._running[self._keys] = row
                yield row.request(self._keys, self._prefix, self._trained.task.max_reasoning_tokens)
            if not self._running:
                return
            yield None

    def _on_token(self, key: int, token: int) -> None:
        """Pass a token on. Where a row gets its next one, all have got theirs, and labels are scored in between."""
        if key in self._drawn:
            self._drawn.clear()
            self._admit()
            self._score()
        self._drawn.add(key)
        if (watcher := self._running[key].watcher) is not None and not self._running[key].job.over:
            watcher(key, token)

    def _go_on(self, row: Row, step: Callable[[], Work | None]) -> None:
        """Let a row take a result, and wait for its next work or be answered."""
        if row.job.over:
            self._drop(row)
            return
        try:
            work = step()
        except Exception as error:
            self._fail([row], error)
            return
        if work is not None:
            self._turns[work].add_ahead(row)
            return
        assert row.prediction is not None
        self._leave(answered=True)
        row.job.answer(row.place, row.prediction)

    def _fail(self, rows: Sequence[Row], error: Exception) -> None:
        for row in rows:
            self._leave()
            row.job.fail(error)

    def _drop(self, row: Row) -> None:
        """Forget a row of a job that is over. Its thread may still wait for the result."""
        self._fail([row], Failure("The client has left."))

    def _fail_all(self, error: Exception) -> None:
        """When the thread ends: nobody may wait for ever."""
        with self._changed:
            self._stopping = True
        self._admit()
        rows = list(self._running.values())
        for turns in self._turns.values():
            while (row := turns.take()) is not None:
                rows.append(row)
        self._fail(rows, error)

    def _leave(self, *, answered: bool = False) -> None:
        with self._changed:
            self._rows -= 1
            if answered:
                self._finished.append(time.monotonic())


def _rows_of(scores: LabelScores, places: Sequence[int]) -> LabelScores:
    chosen = np.array(places)
    return LabelScores(
        scores.scores[chosen],
        [scores.reasonings[place] for place in places],
        [scores.tokens[place] for place in places],
        [scores.trimmed[place] for place in places],
    )
