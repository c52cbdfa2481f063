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

    def write(self, orders: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        orders = iter(orders)
        first = list(islice(orders, 1))
        if not first:
            return
        sampling = replace(sampling, stop=tuple((token,) for token in self.codec.stops))
        prefix = self._encode(first, sampling)[0].prefix
        waiting: dict[int, tuple[str, int]] = {}
        for one in self.model.generate(
            self._requests(chain(first, orders), sampling, waiting), sampling, prefix=prefix
        ):
            text = self.codec.decode(one.tokens)
            control = self.codec.has_control(one.tokens)
            key, trimmed = waiting.pop(one.key)
            yield GeneratedReasoning(key, text, len(one.tokens), one.finish_reason, control, trimmed)

    def _requests(
        self, orders: Iterator[ReasoningRequest], sampling: Sampling, waiting: dict[int, tuple[str, int]]
    ) -> Iterator[Request]:
        number = 0
        while chunk := list(islice(orders, sampling.batch_size)):  # more would be written after a stop
            for order, encoded in zip(chunk, self._encode(chunk, sampling), strict=True):
                waiting[number] = order.key, encoded.trimmed
                yield Request(number, encoded.row, order.seed)
                number += 1

    def _encode(self, orders: list[ReasoningRequest], sampling: Sampling) -> list[EncodedPrompt]:
        prompts = [self.question.prompt(order) for order in orders]
        return self.codec.encode_many(prompts, rgen_room(self.max_seq_length, sampling.max_tokens))

    def close(self) -> None:
        return
