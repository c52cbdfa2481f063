"""Exact log-probabilities of every label of a text: from the text alone, after a generated reasoning, or after several.

Knows tokens and one arm's prompts (`prompting/arms.py` says what each arm has learned), not calibrations or runs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rir_mlx.backends.base import Model, Request, Sampling, Tokens
from rir_mlx.classification.scores import LabelScores
from rir_mlx.errors import Failure
from rir_mlx.prompting.arms import ClassificationTask, first_label_tokens, label_tokens
from rir_mlx.prompting.codec import Codec, EncodedPrompt
from rir_mlx.prompting.prompts import (
    DELIMITER,
    REASONING,
    answer_format,
    classifier_prompt,
    label_text,
    reasons_first,
)
from rir_mlx.prompting.room import no_room, prompt_room
from rir_mlx.types import AnswerFormat, Arm, ReasonMode

OnText = Callable[[str], None]
"""Gets a reasoning piece by piece while it is generated."""


@dataclass(frozen=True)
class PredictOptions:
    """How texts are classified.

    reason       whether a reasoning is generated. For an arm that reasons first, `never` scores the labels from the
                 text alone, and `auto` reasons only if that leaves doubt, below a confidence chosen on validation rows.
                 For an arm that answers first, `always` generates the reasoning as an explanation after the label.
    samples      how many reasonings are sampled; label probabilities are averaged over them. 1 is the likeliest one
    temperature  of sampled reasonings
    batch_size   texts that go through the model at once
    """

    reason: ReasonMode = "always"
    samples: int = 1
    temperature: float = 0.7
    batch_size: int = 32


class LabelScorer:
    """A model trained for one arm of a task, as it scores labels.

    Raises UserError if `max_seq_length` leaves no room for a text."""

    def __init__(self, model: Model, codec: Codec, task: ClassificationTask, arm: Arm) -> None:
        self.model = model
        self.codec = codec
        self.task = task
        self.arm: Arm = arm
        learned = first_label_tokens if arm == "qar" else label_tokens
        self.label_tokens = [learned(codec, label) for label in task.labels]
        self.delimiter = codec.constant(DELIMITER)
        self.room_beside_label = prompt_room(codec, task, arm, reasoning=False)
        self.room_beside_reasoning = prompt_room(codec, task, arm, reasoning=True)
        self.room = self.room_beside_reasoning if reasons_first(arm) else self.room_beside_label
        if (self.room if arm == "qa" else self.room_beside_reasoning) < 1:
            raise no_room(task)

    @property
    def reasons_first(self) -> bool:
        return reasons_first(self.arm)

    # the ways of scoring a text

    def direct(self, texts: Sequence[str], batch_size: int = 32) -> LabelScores:
        """From the text alone; for an arm that reasons first, after an empty reasoning."""
        encoded = self._encode(texts, answer_format(self.arm), self.room)
        reasoning = self.delimiter if self.reasons_first else ()
        return self._score(encoded, [reasoning] * len(texts), [None] * len(texts), batch_size)

    def reasoned(self, texts: Sequence[str], batch_size: int = 32, on_text: OnText | None = None) -> LabelScores:
        """After the likeliest reasoning."""
        return self._after_generated(texts, PredictOptions(batch_size=batch_size), on_text)[0]

    def sampled(self, texts: Sequence[str], options: PredictOptions, *, after: int = 0) -> list[LabelScores]:
        """After sampled reasonings: scores for each of `options.samples`, except the first `after` of them. A text and
        a sample's number decide its draws."""
        return self._after_generated(texts, options, after=after)

    def given(self, texts: Sequence[str], reasonings: Sequence[str], batch_size: int = 32) -> LabelScores:
        """After the given reasonings instead of the model's own."""
        encoded, tokens = self._encode_with(texts, reasonings)
        return self._score(encoded, tokens, list(reasonings), batch_size)

    # prompts and explanations

    def prompts(self, texts: Sequence[str], reasonings: Sequence[str]) -> tuple[Tokens, list[Tokens]]:
        """What stands before a label, with the given reasonings if the arm reasons first: the prefix that all prompts
        share, and the rest of each."""
        if self.reasons_first:
            encoded, tokens = self._encode_with(texts, reasonings)
        else:
            encoded, tokens = self._encode(texts, answer_format(self.arm), self.room), [()] * len(texts)
        return encoded[0].prefix, [prompt.row + more for prompt, more in zip(encoded, tokens, strict=True)]

    def explanations(
        self, texts: Sequence[str], labels: Sequence[str], batch_size: int = 32, on_text: OnText | None = None
    ) -> list[tuple[str, int]]:
        """A reasoning for each text whose label is known, and its length in tokens: `qar` generates it after the
        label, `multitask` by its prompt for a reasoning."""
        if self.arm == "multitask":
            encoded = self._encode(texts, "reasoning", self.room_beside_reasoning)
            prompts = [prompt.row for prompt in encoded]
        else:
            between = self.codec.constant(REASONING)
            encoded = self._encode(texts, answer_format(self.arm), self.room_beside_reasoning)
            prompts = [
                prompt.row + self.codec.given(label_text(label)) + between
                for prompt, label in zip(encoded, labels, strict=True)
            ]
        requests = [Request(index, prompt) for index, prompt in enumerate(prompts)]
        sampling = self._sampling(PredictOptions(batch_size=batch_size))
        generated = self._generate(encoded[0].prefix, requests, sampling, on_text)
        return [(self.codec.decode(tokens).strip(), len(tokens)) for tokens in generated]

    # encoding, generating, scoring

    def _encode(self, texts: Sequence[str], asked: AnswerFormat, room: int) -> list[EncodedPrompt]:
        labels, instruction = self.task.labels, self.task.instruction
        return self.codec.encode_many([classifier_prompt(text, labels, instruction, asked) for text in texts], room)

    def _encode_with(self, texts: Sequence[str], reasonings: Sequence[str]) -> tuple[list[EncodedPrompt], list[Tokens]]:
        """Texts encoded to stand beside the given reasonings, and the tokens of these."""
        tokens = [self.codec.given(reasoning) + self.delimiter for reasoning in reasonings]
        # The text gets no more room than beside a reasoning that the model generates itself.
        rooms = [min(self.room, self.room_beside_label - len(reasoning)) for reasoning in tokens]
        asked = answer_format(self.arm)
        encoded = [self._encode([text], asked, room)[0] for text, room in zip(texts, rooms, strict=True)]
        return encoded, tokens

    def _after_generated(
        self, texts: Sequence[str], options: PredictOptions, on_text: OnText | None = None, *, after: int = 0
    ) -> list[LabelScores]:
        """Scores after each of a text's reasonings: the likeliest one, or as many as are sampled."""
        encoded, count = self._encode(texts, answer_format(self.arm), self.room), options.samples - after
        requests = [
            Request(index * count + sample, prompt.row, seed=zlib.crc32(f"{after + sample}\0{text}".encode()))
            for index, (prompt, text) in enumerate(zip(encoded, texts, strict=True))
            for sample in range(count)
        ]
        generated = self._generate(encoded[0].prefix, requests, self._sampling(options), on_text)
        return [self._score_generated(encoded, generated[sample::count], options.batch_size) for sample in range(count)]

    def _score_generated(
        self, encoded: Sequence[EncodedPrompt], generated: Sequence[Tokens], batch_size: int
    ) -> LabelScores:
        reasonings: list[str | None] = [self.codec.decode(tokens).strip() for tokens in generated]
        scores = self._score(encoded, [tokens + self.delimiter for tokens in generated], reasonings, batch_size)
        return replace(scores, tokens=[len(tokens) for tokens in generated])

    def _sampling(self, options: PredictOptions) -> Sampling:
        ends = ((token,) for token in self.codec.stops)
        return Sampling(
            max_tokens=self.task.max_reasoning_tokens,
            temperature=options.temperature if options.samples > 1 else 0.0,
            stop=(self.delimiter, *ends) if self.reasons_first else tuple(ends),
            batch_size=options.batch_size,
        )

    def _generate(
        self, prefix: Tokens, requests: Sequence[Request], sampling: Sampling, on_text: OnText | None
    ) -> list[Tokens]:
        """What the model generates for each request, by its key: up to a stop sequence, without it, or to the limit."""
        watcher = _TextWatcher(self.codec, sampling.stop[0], on_text) if on_text is not None else None
        generated: dict[int, Tokens] = {}
        shortest_first = sorted(requests, key=lambda request: len(request.tokens))
        for completion in self.model.generate(shortest_first, sampling, prefix=prefix, on_token=watcher):
            generated[completion.key] = completion.tokens
        if watcher is not None:
            watcher.finish(generated[0])
        return [generated[key] for key in range(len(requests))]

    def _score(
        self,
        encoded: Sequence[EncodedPrompt],
        tokens: Sequence[Tokens],
        reasonings: Sequence[str | None],
        batch_size: int,
    ) -> LabelScores:
        """Scores of the labels after each prompt and the `tokens` that follow it.

        Raises Failure for scores that are not numbers."""
        prompts = [prompt.row + more for prompt, more in zip(encoded, tokens, strict=True)]
        scores = self.model.score(prompts, self.label_tokens, prefix=encoded[0].prefix, batch_size=batch_size)
        if np.isnan(scores).any():
            raise Failure("The model's probabilities are not numbers.", hint="Set dtype to float32 or bfloat16.")
        return LabelScores(scores, reasonings, [0] * len(prompts), [prompt.trimmed for prompt in encoded])


class _TextWatcher:
    """Passes text on as its tokens are generated, and holds back what may turn out to be the delimiter."""

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
        text = self.codec.decode(self.tokens[: len(self.tokens) - held]).strip()
        if not text.endswith("\ufffd"):  # half a character
            self._show(text)

    def finish(self, tokens: Tokens) -> None:
        self._show(self.codec.decode(tokens).strip())

    def _show(self, text: str) -> None:
        if text.startswith(self.shown) and text != self.shown:
            self.on_text(text[len(self.shown) :])
            self.shown = text
