"""The model in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

from rir_mlx.augmentation.engines.base import GeneratedReasoning, LabelQuestion, ReasoningRequest
from rir_mlx.backends.base import Model, Request, Sampling
from rir_mlx.prompting.codec import Codec, EncodedPrompt
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
        prompts = [self.question.prompt(request) for request in requests]
        return self.codec.encode_many(prompts, rgen_room(self.max_seq_length, sampling.max_tokens))

    def close(self) -> None:
        return
