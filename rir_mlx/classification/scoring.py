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
    answers_twice,
    label_text,
    reasons_first,
    writes_reasoning,
)
from rir_mlx.prompting.room import no_room, prompt_room, text_room
from rir_mlx.types import AnswerFormat, Arm, ReasonMode, Way

OnText = Callable[[str], None]
"""Gets a reasoning piece by piece while it is generated."""


@dataclass(frozen=True)
class PredictOptions:
    """How texts are classified.

    reason       whether a reasoning is generated. For an arm that reasons first, `never` scores the labels from the
                 text alone, and `auto` reasons only if that leaves doubt, below a confidence chosen on validation rows.
                 For an arm that answers first, `always` generates the reasoning as an explanation after the label.
                 An arm that answers twice gives its first label with `never`, its second after a reasoning.
    samples      how many reasonings are sampled; label probabilities are averaged over them. 1 is the likeliest one
    temperature  of sampled reasonings
    batch_size   texts that go through the model at once
    mass         whether a prediction tells the labels' share of the model's whole probability. Without it, the words of
                 the labels alone are projected at the end of each prompt
    """

    reason: ReasonMode = "always"
    samples: int = 1
    temperature: float = 0.7
    batch_size: int = 32
    mass: bool = True


def seed_of(text: str, sample: int = 0) -> int:
    """What determines the draws of a text's reasoning."""
    return zlib.crc32(f"{sample}\0{text}".encode())


class LabelScorer:
    """A model trained for one arm of a task, as it scores labels.

    Raises UserError if `max_seq_length` leaves no room for a text."""

    def __init__(self, model: Model, codec: Codec, task: ClassificationTask, arm: Arm) -> None:
        self.model = model
        self.codec = codec
        self.task = task
        self.arm: Arm = arm
        learned = first_label_tokens if answer_format(arm).startswith("label, reasoning") else label_tokens
        self.first_tokens = [learned(codec, label) for label in task.names]
        """The labels as they stand where no reasoning precedes them."""
        twice = answers_twice(arm)
        self.label_tokens = [label_tokens(codec, label) for label in task.names] if twice else self.first_tokens
        """The labels as the one stands that the arm is measured by."""
        self.delimiter = codec.constant(DELIMITER)
        self.room_beside_label = prompt_room(codec, task, arm, reasoning=False)
        self.room_beside_reasoning = prompt_room(codec, task, arm, reasoning=True)
        self.room = self.room_beside_reasoning if reasons_first(arm) else self.room_beside_label
        if (self.room_beside_reasoning if writes_reasoning(arm) else self.room) < 1:
            raise no_room(codec, task, arm, reasoning=writes_reasoning(arm))

    @property
    def reasons_first(self) -> bool:
        return reasons_first(self.arm)

    @property
    def writes_reasoning(self) -> bool:
        return writes_reasoning(self.arm)

    @property
    def answers_twice(self) -> bool:
        return answers_twice(self.arm)

    def options_of(self, way: Way) -> list[Tokens]:
        """The labels that are scored that way. An arm that answers twice has two lists, every other arm one."""
        return self.first_tokens if way == "direct" else self.label_tokens

    # the ways of scoring a text. `firsts` are the first labels of an arm that answers twice, the likeliest if not given

    def direct(self, texts: Sequence[str], batch_size: int = 32, *, mass: bool = True) -> LabelScores:
        """From the text alone; for an arm whose only label waits for a reasoning, after an empty one."""
        return self.score(self.direct_prompts(texts), [None] * len(texts), batch_size, "direct", mass=mass)

    def reasoned(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        on_text: OnText | None = None,
        *,
        firsts: Sequence[str] | None = None,
        mass: bool = True,
    ) -> LabelScores:
        """After the likeliest reasoning."""
        prompts = self.reasoning_prompts(texts, firsts)
        return self._after_generated(texts, prompts, PredictOptions(batch_size=batch_size, mass=mass), on_text)[0]

    def sampled(
        self, texts: Sequence[str], options: PredictOptions, *, after: int = 0, firsts: Sequence[str] | None = None
    ) -> list[LabelScores]:
        """After sampled reasonings: scores for each of `options.samples`, except the first `after` of them. A text and
        a sample's number decide its draws."""
        return self._after_generated(texts, self.reasoning_prompts(texts, firsts), options, after=after)

    def given(
        self,
        texts: Sequence[str],
        reasonings: Sequence[str],
        batch_size: int = 32,
        *,
        firsts: Sequence[str] | None = None,
    ) -> LabelScores:
        """After the given reasonings instead of the model's own."""
        return self.score(self._prompts_with(texts, reasonings, firsts), list(reasonings), batch_size)

    def explanations(
        self, texts: Sequence[str], labels: Sequence[str], batch_size: int = 32, on_text: OnText | None = None
    ) -> list[tuple[str, int]]:
        """A reasoning for each text whose label is known, and its length in tokens: `qar` generates it after the
        label, `multitask` by its prompt for a reasoning."""
        prompts = self.explanation_prompts(texts, labels)
        requests = [Request(index, prompt.row) for index, prompt in enumerate(prompts)]
        sampling = self.sampling(PredictOptions(batch_size=batch_size))
        generated = self._generate(prompts[0].prefix, requests, sampling, on_text)
        return [(self.reasoning_of(tokens), len(tokens)) for tokens in generated]

    # prompts

    def prompts(self, texts: Sequence[str], reasonings: Sequence[str]) -> tuple[Tokens, list[Tokens]]:
        """What stands before a label, with the given reasonings if the arm reasons first: the prefix that all prompts
        share, and the rest of each."""
        found = self._prompts_with(texts, reasonings) if self.reasons_first else self.direct_prompts(texts)
        return found[0].prefix, [prompt.row for prompt in found]

    def direct_prompts(self, texts: Sequence[str]) -> list[EncodedPrompt]:
        """What stands before a label that follows the text alone, or an empty reasoning."""
        asked = answer_format(self.arm)
        prompts = self._encode(texts, asked, self.room)
        return [self.after_reasoning(prompt, ()) for prompt in prompts] if asked == "reasoning, label" else prompts

    def reasoning_prompts(self, texts: Sequence[str], firsts: Sequence[str] | None = None) -> list[EncodedPrompt]:
        """What stands before a reasoning that the label waits for."""
        if self.answers_twice:
            return self.explanation_prompts(texts, self.first_labels(texts) if firsts is None else firsts)
        return self._encode(texts, answer_format(self.arm), self.room)

    def first_labels(self, texts: Sequence[str], batch_size: int = 32) -> list[str]:
        """The likeliest labels before any reasoning."""
        return [self.task.names[best] for best in self.direct(texts, batch_size).scores.argmax(1)]

    def after_reasoning(self, prompt: EncodedPrompt, reasoning: Tokens) -> EncodedPrompt:
        """What stands before the label after a reasoning."""
        return replace(prompt, row=prompt.row + reasoning + self.delimiter)

    def explanation_prompts(self, texts: Sequence[str], labels: Sequence[str]) -> list[EncodedPrompt]:
        """What stands before a reasoning that follows a label."""
        if self.arm == "multitask":
            return self._encode(texts, "reasoning", self.room_beside_reasoning)
        encoded = self._encode(texts, answer_format(self.arm), self.room_beside_reasoning)
        return [self._after_label(prompt, label) for prompt, label in zip(encoded, labels, strict=True)]

    def _after_label(self, prompt: EncodedPrompt, label: str) -> EncodedPrompt:
        """What stands before the reasoning after a label."""
        return replace(prompt, row=prompt.row + self.codec.given(label_text(label)) + self.codec.constant(REASONING))

    def _encode(self, texts: Sequence[str], asked: AnswerFormat, room: int) -> list[EncodedPrompt]:
        return self.codec.encode_many([self.task.prompt(text, asked) for text in texts], room)

    def _prompts_with(
        self, texts: Sequence[str], reasonings: Sequence[str], firsts: Sequence[str] | None = None
    ) -> list[EncodedPrompt]:
        """What stands before a label after the given reasonings. One that is longer than the model's own takes room
        from the text, and is cut where it would leave none."""
        longest = self.task.max_reasoning_tokens + max(0, text_room(self.codec, self.task, self.arm) - 1)
        space = " " if self.answers_twice else ""
        given = [self.codec.given(f"{space}{reasoning}")[:longest] for reasoning in reasonings]
        if self.answers_twice and firsts is None:
            firsts = self.first_labels(texts)
        encoded = []
        for place, (text, tokens) in enumerate(zip(texts, given, strict=True)):
            more = max(0, len(tokens) - self.task.max_reasoning_tokens)
            first = None if firsts is None else firsts[place]
            encoded.append(self.after_reasoning(self._before_reasoning(text, first, self.room - more), tokens))
        return encoded

    def _before_reasoning(self, text: str, first: str | None, room: int) -> EncodedPrompt:
        """What stands before a reasoning that the label waits for, in which the text and its prompt take `room`."""
        prompt = self._encode([text], answer_format(self.arm), room)[0]
        return prompt if first is None else self._after_label(prompt, first)

    # generating and scoring

    def _after_generated(
        self,
        texts: Sequence[str],
        prompts: Sequence[EncodedPrompt],
        options: PredictOptions,
        on_text: OnText | None = None,
        *,
        after: int = 0,
    ) -> list[LabelScores]:
        """Scores after each of a text's reasonings: the likeliest one, or as many as are sampled."""
        count = options.samples - after
        requests = [
            Request(index * count + sample, prompt.row, seed=seed_of(text, after + sample))
            for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
            for sample in range(count)
        ]
        generated = self._generate(prompts[0].prefix, requests, self.sampling(options), on_text)
        return [self._score_generated(prompts, generated[sample::count], options) for sample in range(count)]

    def _score_generated(
        self, prompts: Sequence[EncodedPrompt], generated: Sequence[Tokens], options: PredictOptions
    ) -> LabelScores:
        reasonings: list[str | None] = [self.reasoning_of(tokens) for tokens in generated]
        whole = [self.after_reasoning(prompt, tokens) for prompt, tokens in zip(prompts, generated, strict=True)]
        scores = self.score(whole, reasonings, options.batch_size, mass=options.mass)
        return replace(scores, tokens=[len(tokens) for tokens in generated])

    @property
    def stops(self) -> tuple[Tokens, ...]:
        """What ends a reasoning."""
        ends = tuple((token,) for token in self.codec.stops)
        return (self.delimiter, *ends) if self.reasons_first else ends

    def sampling(self, options: PredictOptions) -> Sampling:
        """How a reasoning is generated, and where it ends."""
        return Sampling(
            max_tokens=self.task.max_reasoning_tokens,
            temperature=options.temperature if options.samples > 1 else 0.0,
            stop=self.stops,
            batch_size=options.batch_size,
        )

    def reasoning_of(self, tokens: Tokens) -> str:
        """The text of a generated reasoning."""
        return self.codec.decode(tokens).strip()

    def _generate(
        self, prefix: Tokens, requests: Sequence[Request], sampling: Sampling, on_text: OnText | None
    ) -> list[Tokens]:
        """What the model generates for each request, by its key: up to a stop sequence, without it, or to the limit."""
        watcher = TextWatcher(self.codec, self.stops[0], on_text) if on_text is not None else None

        generated: dict[int, Tokens] = {}
        shortest_first = sorted(requests, key=lambda request: len(request.tokens))
        for completion in self.model.generate(shortest_first, sampling, prefix=prefix, on_token=watcher):
            generated[completion.key] = completion.tokens
        if watcher is not None:
            watcher.finish(generated[0])
        return [generated[key] for key in range(len(requests))]

    def score(
        self,
        prompts: Sequence[EncodedPrompt],
        reasonings: Sequence[str | None],
        batch_size: int,
        way: Way = "reasoned",
        *,
        mass: bool = True,
    ) -> LabelScores:
        """Scores of the labels after prompts of the same prefix and way of scoring, whose reasonings are passed on.

        Raises Failure for scores that are not numbers."""
        rows, prefix = [prompt.row for prompt in prompts], prompts[0].prefix
        scores = self.model.score(rows, self.options_of(way), prefix=prefix, batch_size=batch_size, mass=mass)
        if np.isnan(scores).any():
            raise Failure("The model's probabilities are not numbers.", hint="Set dtype to float32 or bfloat16.")
        found = LabelScores(scores, reasonings, [0] * len(prompts), [prompt.trimmed for prompt in prompts], mass)
        return found if mass else replace(found, scores=found.log_probabilities)


class TextWatcher:
    """Passes a row's text on as its tokens are generated, and holds back what may turn out to be the delimiter."""

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
