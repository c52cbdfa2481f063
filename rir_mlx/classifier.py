"""The classifier's task: what each arm learns, and how a text gets a reasoning and exact label probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rir_mlx.backends.base import Model, Request, Sampling, Tokens
from rir_mlx.errors import UserError
from rir_mlx.prompts import DELIMITER, Arm, classifier_prompt, label_text
from rir_mlx.tokens import Codec, Encoded, Examples, encode_examples

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """A label set and how it is asked for. Lengths are in tokens."""

    labels: dict[str, str]
    instruction: str
    max_seq_length: int
    max_reasoning_tokens: int

    @property
    def names(self) -> list[str]:
        return list(self.labels)


@dataclass(frozen=True)
class Prediction:
    """A label for a text. `probabilities` sum to 1 over the labels; `mass` is the share of all the model's
    probability that the labels hold, low for a text that fits none. `reasoning` is None in `qa`."""

    label: str
    probabilities: dict[str, float]
    mass: float
    reasoning: str | None = None
    trimmed: int = field(default=0, compare=False)


def label_tokens(codec: Codec, label: str) -> Tokens:
    """A label as it is learned and scored: with its leading space and the terminator."""
    return (*codec.given(label_text(label)), codec.terminator)


def reasoning_tokens(codec: Codec, reasoning: str) -> Tokens:
    """A reasoning as it is learned: the text, then the delimiter."""
    return codec.given(reasoning) + codec.constant(DELIMITER)


def training_examples(codec: Codec, task: Task, rows: Iterable[tuple[str, str, str | None]], arm: Arm) -> Examples:
    """Rows of (text, label, reasoning) as the arm learns them. `qa` ignores the reasoning."""
    return encode_examples(
        codec,
        (
            (
                classifier_prompt(text, task.labels, task.instruction, arm),
                reasoning_tokens(codec, reasoning or "") if arm == "qra" else (),
                label_tokens(codec, label),
            )
            for text, label, reasoning in rows
        ),
        task.max_seq_length,
    )


class Classifier:
    """A model trained for one arm of a task."""

    def __init__(self, model: Model, codec: Codec, task: Task, arm: Arm) -> None:
        self.model = model
        self.codec = codec
        self.task = task
        self.arm: Arm = arm
        self.options = [label_tokens(codec, label) for label in task.labels]
        self.delimiter = codec.constant(DELIMITER)
        longest = max(len(option) for option in self.options)
        reasoning = task.max_reasoning_tokens + len(self.delimiter) if arm == "qra" else 0
        self.room = task.max_seq_length - longest - reasoning
        if self.room < 1:
            raise UserError(
                f"max_seq_length {task.max_seq_length} leaves no room for a text beside "
                f"{task.max_reasoning_tokens} tokens of reasoning.",
                mend="Raise max_seq_length, or lower evaluate.max_reasoning_tokens.",
            )

    def predict(self, texts: Sequence[str], *, batch_size: int = 32, on_text: OnText | None = None) -> list[Prediction]:
        """Labels for texts, in their order. `on_text` gets the reasoning piece by piece as it is written, and makes
        sense for one text at a time."""
        if not texts:
            return []
        encoded = [
            self.codec.encode(classifier_prompt(text, self.task.labels, self.task.instruction, self.arm), self.room)
            for text in texts
        ]
        head, rows = encoded[0].head, [one.row for one in encoded]
        if self.arm == "qa":
            return self._score(head, rows, [None] * len(rows), encoded, batch_size)
        written = self._reason(head, rows, batch_size, on_text)
        prompts = [row + tokens + self.delimiter for row, tokens in zip(rows, written, strict=True)]
        reasonings: list[str | None] = [self.codec.decode(tokens).strip() for tokens in written]
        return self._score(head, prompts, reasonings, encoded, batch_size)

    def predict_given(
        self, texts: Sequence[str], reasonings: Sequence[str], *, batch_size: int = 32
    ) -> list[Prediction]:
        """Labels for texts with the given reasonings in place of one's own (`qra`)."""
        prompts: list[Tokens] = []
        encoded: list[Encoded] = []
        for text, reasoning in zip(texts, reasonings, strict=True):
            tokens = reasoning_tokens(self.codec, reasoning)
            room = self.task.max_seq_length - max(map(len, self.options)) - len(tokens)
            prompt = classifier_prompt(text, self.task.labels, self.task.instruction, self.arm)
            encoded.append(self.codec.encode(prompt, room))
            prompts.append(encoded[-1].row + tokens)
        return self._score(encoded[0].head, prompts, list(reasonings), encoded, batch_size) if texts else []

    def _reason(self, head: Tokens, rows: Sequence[Tokens], batch_size: int, on_text: OnText | None) -> list[Tokens]:
        """The reasonings' tokens, without the delimiter: up to it, to a terminator, or to the limit."""
        stops = (self.delimiter, *((token,) for token in self.codec.stops))
        sampling = Sampling(max_tokens=self.task.max_reasoning_tokens, stop=stops, batch_size=batch_size)
        watcher = _Watcher(self.codec, self.delimiter, on_text) if on_text is not None else None
        written: dict[int, Tokens] = {}
        requests = sorted((Request(index, row) for index, row in enumerate(rows)), key=lambda one: len(one.tokens))
        for completion in self.model.generate(requests, sampling, prefix=head, on_token=watcher):
            written[completion.key] = completion.tokens
        if watcher is not None:
            watcher.finish(written[0])
        return [written[index] for index in range(len(rows))]

    def _score(
        self,
        head: Tokens,
        prompts: Sequence[Tokens],
        reasonings: Sequence[str | None],
        encoded: Sequence[Encoded],
        batch_size: int,
    ) -> list[Prediction]:
        scores = self.model.score(prompts, self.options, prefix=head, batch_size=batch_size)
        highest = scores.max(axis=1, keepdims=True)
        shares = np.exp(scores - highest)
        probabilities = shares / shares.sum(axis=1, keepdims=True)
        masses = np.exp(scores).sum(axis=1)
        names = self.task.names
        return [
            Prediction(
                label=names[int(row.argmax())],
                probabilities=dict(zip(names, row.tolist(), strict=True)),
                mass=float(mass),
                reasoning=reasoning,
                trimmed=one.trimmed,
            )
            for row, mass, reasoning, one in zip(probabilities, masses, reasonings, encoded, strict=True)
        ]


class _Watcher:
    """Passes on text as tokens come, holding back what may turn out to be the delimiter."""

    def __init__(self, codec: Codec, delimiter: Tokens, on_text: OnText) -> None:
        self.codec, self.delimiter, self.on_text = codec, delimiter, on_text
        self.tokens: list[int] = []
        self.shown = ""

    def __call__(self, key: int, token: int) -> None:
        self.tokens.append(token)
        held = max(
            (n for n in range(1, len(self.delimiter) + 1) if tuple(self.tokens[-n:]) == self.delimiter[:n]), default=0
        )
        held = max(held, int(token in self.codec.stops))
        ready = self.tokens[: len(self.tokens) - held]
        self._show(self.codec.decode(ready))

    def finish(self, tokens: Tokens) -> None:
        self._show(self.codec.decode(tokens))

    def _show(self, text: str) -> None:
        if text.startswith(self.shown) and not text.endswith("\ufffd"):
            self.on_text(text[len(self.shown) :])
            self.shown = text
