"""Writing with an MLX model, many rows at a time: mlx-lm's `BatchGenerator` lets a row enter as another leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import apply_min_p, apply_top_p

from rir_mlx.backends.base import (
    Completion,
    OnToken,
    Request,
    Sampling,
    Tokens,
    uniforms,
    unstopped,
)
from rir_mlx.backends.mlx.forward import MlxForward, prefix_cache

Processor = Callable[[mx.array, mx.array], mx.array]


def generate(
    model: MlxForward, requests: Iterable[Request], sampling: Sampling, prefix: Tokens, on_token: OnToken | None
) -> Iterator[Completion]:
    """`Model.generate` with continuous batching."""
    source = iter(requests)
    shared = prefix_cache(model, prefix)
    together = max(1, sampling.batch_size // 4)  # rows that enter together; one alone takes as long as a step
    likeliest = _Likeliest(model) if sampling.temperature == 0 and sampling.repetition_penalty == 1 else None
    generator = BatchGenerator(
        likeliest or model.model,
        stop_tokens=[list(stop) for stop in sampling.stop],
        completion_batch_size=sampling.batch_size,
        prefill_batch_size=together,
        sampler=likeliest.take if likeliest else None,
    )
    waiting: dict[int, tuple[Request, list[int]]] = {}
    try:
        while True:
            free = sampling.batch_size - len(waiting)
            if free >= (together if waiting else 1):
                for request in islice(source, free):
                    [uid] = generator.insert(
                        [list(request.tokens)],
                        max_tokens=[request.limit(sampling)],
                        caches=[shared] if prefix else None,
                        samplers=[_sampler(sampling, request.seed)],
                        logits_processors=[_processors(sampling, len(request.tokens))],
                    )
                    waiting[uid] = (request, [])
            if not waiting:
                return
            for response in generator.next_generated():
                request, written = waiting[response.uid]
                written.append(int(response.token))
                if on_token is not None:
                    on_token(request.key, written[-1])
                if response.finish_reason is not None:
                    del waiting[response.uid]
                    yield Completion(request.key, *unstopped(written, sampling.stop))
    finally:
        generator.close()


class _Likeliest:
    """The model for a generator that takes the likeliest token and needs no log-probabilities: it picks the token
    itself and gives a row of nothing to normalise, which for the whole vocabulary takes longer than picking."""

    def __init__(self, model: MlxForward) -> None:
        self.model = model
        self.layers = model.model.layers
        self.picked = mx.zeros(0)

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        hidden = self.model.model.model(tokens, cache=cache)[:, -1]
        self.picked = mx.argmax(self.model.logits_of(hidden), axis=-1)
        return mx.zeros((len(tokens), 1, 1))

    def take(self, _: mx.array) -> mx.array:
        """What was picked in the call before, by the same batch."""
        return self.picked


def _sampler(sampling: Sampling, seed: int) -> Callable[[mx.array], mx.array] | None:
    """Draws from log-probabilities [1, vocabulary] with numbers of the row's own, so that its text does not depend on
    the rows beside it. None, the generator's default, is greedy."""
    if sampling.temperature == 0:
        return None
    seeds, step = np.array([seed], dtype=np.uint64), np.zeros(1, dtype=np.uint64)

    def draw(chances: mx.array) -> mx.array:
        # In 16 bits a sum over the vocabulary loses all that is small beside it.
        scaled = chances.astype(mx.float32) / sampling.temperature
        scaled = scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)
        if sampling.top_p < 1:
            scaled = apply_top_p(scaled, sampling.top_p)
        if sampling.min_p > 0:
            scaled = apply_min_p(scaled, sampling.min_p)
        mass = mx.cumsum(mx.exp(scaled), axis=-1)
        # Just below 1, so that rounding cannot reach beyond the last token that has a share.
        target = mx.array(np.minimum(uniforms(seeds, step), 1 - 1e-6), dtype=mx.float32) * mass[:, -1]
        np.add(step, np.uint64(1), out=step)
        return (mass <= target[:, None]).sum(axis=-1).astype(mx.uint32)

    return draw


def _processors(sampling: Sampling, prompt: int) -> list[Processor]:
    """The repetition penalty, over what stands after the row's own `prompt` tokens."""
    if sampling.repetition_penalty == 1:
        return []

    def penalise(tokens: mx.array, logits: mx.array) -> mx.array:
        written = tokens[prompt:]
        if written.size == 0:
            return logits
        values = logits[:, written]
        penalty = sampling.repetition_penalty
        logits[:, written] = mx.where(values > 0, values / penalty, values * penalty)
        return logits

    return [penalise]
