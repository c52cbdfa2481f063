"""What a request wants of the model, as rows that go through it one by one, and what has become of each.

Knows no thread and no HTTP. A row alternates between two kinds of work: its label is scored, or its reasoning is
generated. Which comes first, and whether the other follows, is what `Classifier.predict` does with a whole list.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

from rir_mlx.backends.base import Request, Tokens
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import Prediction
from rir_mlx.classification.scoring import TextWatcher, seed_of
from rir_mlx.errors import Failure
from rir_mlx.prompting.codec import EncodedPrompt
from rir_mlx.types import ReasonMode, Way

Work = Literal["score", "generate"]


class Listener(Protocol):
    """Is told on the worker's thread what happens to a job. It must return at once, and raise nothing."""

    def piece(self, place: int, text: str) -> None:
        """A piece of the reasoning of the item at that place has been generated."""
        ...

    def answer(self, place: int, prediction: Prediction) -> None:
        """The item at that place is answered."""
        ...


class Busy(Failure):
    """More waits than the server takes. `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("The server is busy.", hint=f"Try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Question:
    """Labels with their descriptions, and what is asked: of any text, without training."""

    instruction: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Item:
    """A text to classify: by the trained classifier, or by a question that it was not trained for. `reason` is
    `auto` for the trained classifier alone."""

    text: str
    reason: ReasonMode = "never"
    question: Question | None = None


class Job:
    """The items of one request. They are answered together, and fail together."""

    def __init__(self, items: Sequence[Item], listener: Listener | None = None) -> None:
        self.items, self.listener = items, listener
        self.predictions: list[Prediction | None] = [None] * len(items)
        self.missing = len(items)
        self.error: Exception | None = None
        self.gone = False
        """Nobody wants the answer any more. A thread that still waits for it gets a Failure."""
        self.since = time.monotonic()
        self.prompt_tokens = self.generated_tokens = 0
        self._ended = threading.Event()
        self._when_ended: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        return self.gone or self._ended.is_set()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call it once the job has ended, on the worker's thread; at once if it has."""
        with self._lock:
            if not self._ended.is_set():
                self._when_ended.append(call)
                return
        call()

    def answer(self, place: int, prediction: Prediction) -> None:
        self.predictions[place] = prediction
        self.generated_tokens += prediction.tokens
        self.missing -= 1
        if self.listener is not None:
            self.listener.answer(place, prediction)
        if not self.missing:
            self._end()

    def fail(self, error: Exception) -> None:
        if not self._ended.is_set():
            self.error = error
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._ended.set()
            calls, self._when_ended = self._when_ended, []
        for call in calls:
            call()

    def result(self, timeout: float | None = None) -> list[Prediction]:
        """The predictions in the order of the items, once there are all. Raises what the job failed with."""
        if not self._ended.wait(timeout):
            raise TimeoutError
        if self.error is not None:
            raise self.error
        return [prediction for prediction in self.predictions if prediction is not None]


@dataclass(eq=False)
class Row:
    """An item of a job on its way through the model."""

    job: Job
    place: int
    classifier: Classifier | None = None
    prompt: EncodedPrompt | None = None
    prediction: Prediction | None = None
    reasoning: str | None = None
    tokens: int = 0
    watcher: TextWatcher | None = None

    @property
    def item(self) -> Item:
        return self.job.items[self.place]

    @property
    def way(self) -> Way:
        return "direct" if self.reasoning is None else "reasoned"

    def is_scored_like(self, other: Row) -> bool:
        """Whether both can be scored in one batch: by the same classifier, with the same label tokens."""
        if self.classifier is None or self.classifier is not other.classifier:
            return False
        return self.classifier.options_of(self.way) is self.classifier.options_of(other.way)

    def begin(self, classifier: Classifier) -> None:
        """Encode the text for the first work. Raises UserError if it has no room."""
        self.classifier = classifier
        reasons = self.item.reason == "always" and classifier.reasons_first and not classifier.answers_twice
        prompts = classifier.reasoning_prompts if reasons else classifier.direct_prompts
        self._ask(prompts([self.item.text])[0])

    def request(self, key: int, prefix: Tokens, limit: int) -> Request:
        """The request for its reasoning, among rows that share `prefix`."""
        classifier, prompt = self._begun()
        if self.job.listener is not None:
            show = partial(self.job.listener.piece, self.place)
            self.watcher = TextWatcher(classifier.codec, classifier.stops[0], show)
        whole = prompt.prefix != prefix
        tokens = prompt.prefix + prompt.row if whole else prompt.row
        return Request(key, tokens, seed_of(self.item.text) if classifier.reasons_first else 0, limit, whole)

    def scored(self, prediction: Prediction) -> Work | None:
        """Take the label's probabilities; returns what is next."""
        classifier, _ = self._begun()
        first = self.prediction if classifier.answers_twice else None
        self.prediction = replace(prediction, reasoning=self.reasoning, tokens=self.tokens, first=first)
        reason, text = self.item.reason, self.item.text
        if self.reasoning is not None or reason == "never" or not classifier.writes_reasoning:
            return None
        if not classifier.reasons_first:
            if reason == "always":
                self._ask(classifier.explanation_prompts([text], [prediction.label])[0])
                return "generate"
        elif reason == "always" or prediction.probability < classifier.reason_below:
            self._ask(classifier.reasoning_prompts([text], [prediction.label])[0])
            return "generate"
        return None

    def generated(self, tokens: Tokens) -> Work | None:
        """Take the reasoning; returns what is next."""
        classifier, prompt = self._begun()
        self.reasoning, self.tokens = classifier.reasoning_of(tokens), len(tokens)
        if self.watcher is not None:
            self.watcher.finish(tokens)
        if classifier.reasons_first:
            self.prompt = classifier.after_reasoning(prompt, tokens)
            return "score"
        assert self.prediction is not None
        self.prediction = replace(self.prediction, reasoning=self.reasoning, tokens=self.tokens)
        return None

    def _ask(self, prompt: EncodedPrompt) -> None:
        self.prompt = prompt
        self.job.prompt_tokens += len(prompt.prefix) + len(prompt.row)

    def _begun(self) -> tuple[Classifier, EncodedPrompt]:
        assert self.classifier is not None
        assert self.prompt is not None
        return self.classifier, self.prompt


class Turns:
    """Rows that wait, one of each job in turn: a request with many texts does not hold up one with a single text."""

    def __init__(self) -> None:
        self._ahead: deque[Row] = deque()
        self._jobs: deque[deque[Row]] = deque()

    def __bool__(self) -> bool:
        return bool(self._ahead or self._jobs)

    def add(self, rows: Iterable[Row]) -> None:
        self._jobs.append(deque(rows))

    def add_ahead(self, row: Row) -> None:
        """A row that has had its turn, and goes on."""
        self._ahead.append(row)

    def put_back(self, rows: Sequence[Row]) -> None:
        self._ahead.extendleft(reversed(rows))

    def take(self) -> Row | None:
        if self._ahead:
            return self._ahead.popleft()
        if not self._jobs:
            return None
        rows = self._jobs.popleft()
        row = rows.popleft()
        if rows:
            self._jobs.append(rows)
        return row
