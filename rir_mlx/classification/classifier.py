"""How a text gets exact label probabilities and a reasoning. What each arm has learned stands in `arms.py`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from rir_mlx.backends.base import (
    Model,
    Request,
    Sampling,
    Tokens,
)
from rir_mlx.errors import Failure, UserError
from rir_mlx.prompting.arms import (
    ClassificationTask,
    first_label_tokens,
    label_tokens,
)
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
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.types import AnswerFormat, Arm, ReasonMode, Way

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Decoding:
    """How texts are classified.

    reason       whether a reasoning is written. Where the label waits for it, `never` reads the label off the text
                 alone, and `auto` writes one only where that leaves doubt, by a threshold that validation chose. Where
                 the label comes first, `always` writes the reasoning as an explanation after it.
    samples      how many reasonings are drawn, over which the label's probabilities are averaged; 1 is the likeliest
    temperature  of the drawn ones
    """

    reason: ReasonMode = "always"
    samples: int = 1
    temperature: float = 0.7
    batch_size: int = 32


@dataclass(frozen=True)
class Prediction:
    """A label for a text. `probabilities` sum to 1 over the labels; `mass` is the share of all the model's
    probability that the labels hold, low for a text that fits none. `tokens` were written for the `reasoning`, which is
    None where there is none."""

    label: str
    probabilities: dict[str, float]
    mass: float
    reasoning: str | None = None
    trimmed: int = field(default=0, compare=False)
    tokens: int = field(default=0, compare=False)

    @property
    def probability(self) -> float:
        return self.probabilities[self.label]


@dataclass(frozen=True)
class LabelScores:
    """A model's scores of every label for n texts, all scored the same way (`Way`).

    scores      [n, labels] log p of each label among everything that the model could write
    reasonings  the reasoning in front of the label; None where there is none
    tokens      how many tokens were generated
    trimmed     how many tokens were cut from the end of the text
    """

    scores: NDArray[np.float64]
    reasonings: Sequence[str | None]
    tokens: Sequence[int]
    trimmed: Sequence[int]

    @property
    def mass(self) -> NDArray[np.float64]:
        return np.asarray(np.exp(logsumexp(self.scores, axis=1)))

    @property
    def log_probabilities(self) -> NDArray[np.float64]:
        """[n, labels], renormalised over the labels."""
        return np.asarray(self.scores - logsumexp(self.scores, axis=1, keepdims=True))

    @staticmethod
    def averaged(chains: Sequence[LabelScores]) -> LabelScores:
        """The mean of several chains: probabilities and masses are averaged (self-consistency, arXiv:2203.11171), and
        of the chains that chose the winning label the first one's reasoning is kept."""
        each = np.stack([chain.log_probabilities for chain in chains])
        mean = logsumexp(each, axis=0) - np.log(len(chains))
        mass = np.mean([chain.mass for chain in chains], axis=0)
        winners, votes = mean.argmax(1), each.argmax(2)
        agreeing = [int(np.argmax(votes[:, row] == winner)) for row, winner in enumerate(winners)]
        return LabelScores(
            mean + np.log(mass)[:, None],
            [chains[which].reasonings[row] for row, which in enumerate(agreeing)],
            np.sum([chain.tokens for chain in chains], axis=0).tolist(),
            chains[0].trimmed,
        )

    def where(self, chosen: NDArray[np.bool_], other: LabelScores) -> LabelScores:
        """These scores, with the chosen rows [n] replaced by those of `other`, which has the chosen rows alone."""
        scores, places = self.scores.copy(), np.flatnonzero(chosen).tolist()
        scores[chosen] = other.scores
        reasonings, tokens, trimmed = list(self.reasonings), list(self.tokens), list(self.trimmed)
        for index, place in enumerate(places):
            reasonings[place], tokens[place] = other.reasonings[index], other.tokens[index]
            trimmed[place] = other.trimmed[index]
        return LabelScores(scores, reasonings, tokens, trimmed)


class Classifier:
    """A model trained for one arm of a task."""

    def __init__(
        self, model: Model, codec: Codec, task: ClassificationTask, arm: Arm, calibration: Calibration | None = None
    ) -> None:
        self.model = model
        self.codec = codec
        self.task = task
        self.arm: Arm = arm
        self.calibration = calibration or Calibration()
        learned = first_label_tokens if arm == "qar" else label_tokens
        self.options = [learned(codec, label) for label in task.labels]
        self.delimiter = codec.constant(DELIMITER)
        self.room_beside_label = prompt_room(codec, task, arm, reasoning=False)
        self.room_beside_reasoning = prompt_room(codec, task, arm, reasoning=True)
        self.room = self.room_beside_reasoning if reasons_first(arm) else self.room_beside_label
        if (self.room if arm == "qa" else self.room_beside_reasoning) < 1:
            raise no_room(task)

    @property
    def reasons_first(self) -> bool:
        return reasons_first(self.arm)

    def predict(
        self, texts: Sequence[str], how: Decoding | None = None, *, on_text: OnText | None = None
    ) -> list[Prediction]:
        """Labels for texts, in their order. `on_text` gets the reasoning piece by piece as it is written, and makes
        sense for one text at a time.

        Raises UserError for `auto` where no threshold was chosen on validation rows."""
        how = how or Decoding()
        if not texts:
            return []
        if not self.reasons_first:
            found = self.predictions(self.direct(texts, how.batch_size), "direct")
            return self._explained(texts, found, how, on_text) if how.reason == "always" else found
        way: Way = "sampled" if how.samples > 1 else "reasoned"
        if how.reason == "always":
            return self.predictions(self._reason(texts, how, on_text), way)
        direct = self.direct(texts, how.batch_size)
        found = self.predictions(direct, "direct")
        if how.reason == "never":
            return found
        if self.calibration.reason_below is None:
            raise UserError(
                "`auto` needs the confidence below which a reasoning is worth writing, and it has not been measured.",
                hint="Run `rir-mlx evaluate`, or choose always or never.",
            )
        doubtful = [index for index, one in enumerate(found) if one.probability < self.calibration.reason_below]
        reasoned = self._reason([texts[index] for index in doubtful], how, on_text) if doubtful else None
        for index, one in zip(doubtful, self.predictions(reasoned, way) if reasoned else [], strict=True):
            found[index] = one
        return found

    # ways of scoring a text

    def direct(self, texts: Sequence[str], batch_size: int = 32) -> LabelScores:
        """Labels from the text alone. Where the arm reasons first, after an empty reasoning."""
        encoded = self._encode(texts, answer_format(self.arm), self.room)
        after = self.delimiter if self.reasons_first else ()
        return self._score(encoded, [after] * len(texts), [None] * len(texts), batch_size)

    def reasoned(self, texts: Sequence[str], batch_size: int = 32, on_text: OnText | None = None) -> LabelScores:
        """Labels after the likeliest reasoning."""
        return self._chains(texts, Decoding(batch_size=batch_size), on_text)[0]

    def sampled(self, texts: Sequence[str], how: Decoding, *, after: int = 0) -> list[LabelScores]:
        """Labels after drawn reasonings: scores for each of `how.samples`, except the first `after` of them. Draws
        are decided by the text and their number."""
        return self._chains(texts, how, after=after)

    def given(self, texts: Sequence[str], reasonings: Sequence[str], batch_size: int = 32) -> LabelScores:
        """Labels after the given reasonings in place of one's own."""
        encoded, after = self._with_given(texts, reasonings)
        return self._score(encoded, after, list(reasonings), batch_size)

    def prompts(self, texts: Sequence[str], reasonings: Sequence[str]) -> tuple[Tokens, list[Tokens]]:
        """What stands before a label, given a reasoning where the arm reasons first: the prefix that all share, and
        each row's own."""
        if self.reasons_first:
            encoded, after = self._with_given(texts, reasonings)
        else:
            encoded, after = self._encode(texts, answer_format(self.arm), self.room), [()] * len(texts)
        return encoded[0].prefix, [one.row + tokens for one, tokens in zip(encoded, after, strict=True)]

    def _with_given(self, texts: Sequence[str], reasonings: Sequence[str]) -> tuple[list[EncodedPrompt], list[Tokens]]:
        after = [self.codec.given(reasoning) + self.delimiter for reasoning in reasonings]
        # The text gets no more room than beside a reasoning that the model writes itself.
        rooms = [min(self.room, self.room_beside_label - len(tokens)) for tokens in after]
        encoded = [
            self._encode([text], answer_format(self.arm), room)[0] for text, room in zip(texts, rooms, strict=True)
        ]
        return encoded, after

    def predictions(self, scored: LabelScores, way: Way) -> list[Prediction]:
        """Calibrated predictions from the scores of that way."""
        scores = scored.log_probabilities
        probabilities = self.calibration.probabilities(scores, way)
        names = self.task.names
        return [
            Prediction(names[best], dict(zip(names, row, strict=True)), mass, *rest)
            for best, row, mass, *rest in zip(
                scores.argmax(axis=1).tolist(),
                probabilities.tolist(),
                scored.mass.tolist(),
                scored.reasonings,
                scored.trimmed,
                scored.tokens,
                strict=True,
            )
        ]

    def explanations(
        self, texts: Sequence[str], labels: Sequence[str], batch_size: int = 32, on_text: OnText | None = None
    ) -> list[tuple[str, int]]:
        """A reasoning for each text whose label is known, and its length in tokens: `qar` writes it after the label,
        `multitask` by its prompt for one."""
        if self.arm == "multitask":
            encoded = self._encode(texts, "reasoning", self.room_beside_reasoning)
            prompts = [one.row for one in encoded]
        else:
            between = self.codec.constant(REASONING)
            encoded = self._encode(texts, answer_format(self.arm), self.room_beside_reasoning)
            prompts = [
                one.row + self.codec.given(label_text(label)) + between
                for one, label in zip(encoded, labels, strict=True)
            ]
        sampling = self._sampling(Decoding(batch_size=batch_size))
        written = self._write(encoded[0].prefix, [Request(i, row) for i, row in enumerate(prompts)], sampling, on_text)
        return [(self.codec.decode(tokens).strip(), len(tokens)) for tokens in written]

    # how they are made

    def _reason(self, texts: Sequence[str], how: Decoding, on_text: OnText | None) -> LabelScores:
        if how.samples == 1:
            return self._chains(texts, how, on_text)[0]
        scored = LabelScores.averaged(self._chains(texts, how))
        if on_text is not None:  # which of the reasonings is kept is not known before all are written
            on_text(scored.reasonings[0] or "")
        return scored

    def _explained(
        self, texts: Sequence[str], found: list[Prediction], how: Decoding, on_text: OnText | None
    ) -> list[Prediction]:
        if self.arm == "qa":
            return found
        reasons = self.explanations(texts, [one.label for one in found], how.batch_size, on_text)
        pairs = zip(found, reasons, strict=True)
        return [replace(one, reasoning=reasoning, tokens=tokens) for one, (reasoning, tokens) in pairs]

    def _encode(self, texts: Sequence[str], asked: AnswerFormat, room: int) -> list[EncodedPrompt]:
        labels, instruction = self.task.labels, self.task.instruction
        return self.codec.encode_many([classifier_prompt(text, labels, instruction, asked) for text in texts], room)

    def _chains(
        self, texts: Sequence[str], how: Decoding, on_text: OnText | None = None, *, after: int = 0
    ) -> list[LabelScores]:
        """Scores after each of a text's reasonings: the likeliest, or as many as are drawn."""
        encoded, count = self._encode(texts, answer_format(self.arm), self.room), how.samples - after
        requests = [
            Request(index * count + chain, one.row, seed=zlib.crc32(f"{after + chain}\0{text}".encode()))
            for index, (one, text) in enumerate(zip(encoded, texts, strict=True))
            for chain in range(count)
        ]
        written = self._write(encoded[0].prefix, requests, self._sampling(how), on_text)
        return [self._after(encoded, written[chain::count], how.batch_size) for chain in range(count)]

    def _after(self, encoded: Sequence[EncodedPrompt], written: Sequence[Tokens], batch_size: int) -> LabelScores:
        reasonings: list[str | None] = [self.codec.decode(tokens).strip() for tokens in written]
        scored = self._score(encoded, [tokens + self.delimiter for tokens in written], reasonings, batch_size)
        return replace(scored, tokens=[len(tokens) for tokens in written])

    def _sampling(self, how: Decoding) -> Sampling:
        ends = ((token,) for token in self.codec.stops)
        return Sampling(
            max_tokens=self.task.max_reasoning_tokens,
            temperature=how.temperature if how.samples > 1 else 0.0,
            stop=(self.delimiter, *ends) if self.reasons_first else tuple(ends),
            batch_size=how.batch_size,
        )

    def _write(
        self, prefix: Tokens, requests: Sequence[Request], sampling: Sampling, on_text: OnText | None
    ) -> list[Tokens]:
        """What is written for each request, by its key, without the stop sequence: up to it, or to the limit."""
        watcher = _Watcher(self.codec, sampling.stop[0], on_text) if on_text is not None else None
        written: dict[int, Tokens] = {}
        ordered = sorted(requests, key=lambda one: len(one.tokens))
        for completion in self.model.generate(ordered, sampling, prefix=prefix, on_token=watcher):
            written[completion.key] = completion.tokens
        if watcher is not None:
            watcher.finish(written[0])
        return [written[key] for key in range(len(requests))]

    def _score(
        self,
        encoded: Sequence[EncodedPrompt],
        after: Sequence[Tokens],
        reasonings: Sequence[str | None],
        batch_size: int,
    ) -> LabelScores:
        prompts = [one.row + tokens for one, tokens in zip(encoded, after, strict=True)]
        scores = self.model.score(prompts, self.options, prefix=encoded[0].prefix, batch_size=batch_size)
        if np.isnan(scores).any():
            raise Failure("The model's probabilities are not numbers.", hint="Set dtype to float32 or bfloat16.")
        return LabelScores(scores, reasonings, [0] * len(prompts), [one.trimmed for one in encoded])


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
        text = self.codec.decode(self.tokens[: len(self.tokens) - held]).strip()
        if not text.endswith("\ufffd"):  # half a character
            self._show(text)

    def finish(self, tokens: Tokens) -> None:
        self._show(self.codec.decode(tokens).strip())

    def _show(self, text: str) -> None:
        if text.startswith(self.shown) and text != self.shown:
            self.on_text(text[len(self.shown) :])
            self.shown = text
