"""The model in this process: it writes reasonings, and says how likely it finds given ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.backends.base import Model, Request, Sampling
from rir_mlx.errors import Failure
from rir_mlx.prompting.codec import Codec, EncodedPrompt
from rir_mlx.prompting.prompts import LabelQuestion
from rir_mlx.prompting.room import rgen_room


class LocalEngine:
    """R-Gen on a backend. `identity` names it: the model, its revision and its adapter."""

    def __init__(
        self, model: Model, codec: Codec, question: LabelQuestion, max_seq_length: int, identity: dict[str, str]
    ) -> None:
        self.model, self.codec, self.question = model, codec, question
        self.max_seq_length, self._identity = max_seq_length, identity

    def identity(self) -> dict[str, str]:
        return self._identity

    def write(self, requests: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        requests = iter(requests)
        first = list(islice(requests, 1))
        if not first:
            return
        sampling = replace(sampling, stop=tuple((token,) for token in self.codec.stops))
        prefix = self._encode(first, sampling)[0].prefix
        waiting: dict[int, tuple[str, int]] = {}
        for completion in self.model.generate(
            self._requests(chain(first, requests), sampling, waiting), sampling, prefix=prefix
        ):
            text = self.codec.decode(completion.tokens)
            control = self.codec.has_control(completion.tokens)
            key, trimmed = waiting.pop(completion.key)
            yield GeneratedReasoning(key, text, len(completion.tokens), completion.finish_reason, control, trimmed)

    def _requests(
        self, requests: Iterator[ReasoningRequest], sampling: Sampling, waiting: dict[int, tuple[str, int]]
    ) -> Iterator[Request]:
        number = 0
        while chunk := list(islice(requests, sampling.batch_size)):  # a larger chunk would be generated after a stop
            for request, encoded in zip(chunk, self._encode(chunk, sampling), strict=True):
                waiting[number] = request.key, encoded.trimmed
                yield Request(number, encoded.row, request.seed)
                number += 1

    def _encode(self, requests: list[ReasoningRequest], sampling: Sampling) -> list[EncodedPrompt]:
        return _encode(self.codec, self.question, requests, rgen_room(self.max_seq_length, sampling.max_tokens))

    def close(self) -> None:
        return


class LocalLikelihoods:
    """How likely R-Gen finds reasonings. `room` is what its prompt may take, in tokens."""

    def __init__(self, model: Model, codec: Codec, question: LabelQuestion, room: int) -> None:
        self.model, self.codec, self.question, self.room = model, codec, question, room

    def log_probabilities(self, label: str, texts: Sequence[str], reasonings: Sequence[str]) -> NDArray[np.float64]:
        """[texts, reasonings] log p(reasoning | text, label), summed over its tokens and the one that ends it.

        Raises Failure for numbers that are none."""
        requests = [ReasoningRequest("", text, label, 0) for text in texts]
        prompts = _encode(self.codec, self.question, requests, self.room)
        options = [(*self.codec.given(reasoning), self.codec.terminator) for reasoning in reasonings]
        scores = self.model.score([prompt.row for prompt in prompts], options, prefix=prompts[0].prefix)
        if np.isnan(scores).any():
            raise Failure("The model's probabilities are not numbers.", hint="Set dtype to float32 or bfloat16.")
        return scores


def _encode(
    codec: Codec, question: LabelQuestion, requests: Sequence[ReasoningRequest], room: int
) -> list[EncodedPrompt]:
    return codec.encode_many([question.of_row(request.text, request.label) for request in requests], room)
