"""Generation with an MLX model in a continuous batch: mlx-lm's `BatchGenerator` lets a row enter as another leaves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache
from mlx_lm.sample_utils import apply_min_p, apply_top_p

from rir_mlx.backends.base import (
    Completion,
    OnToken,
    Request,
    Sampling,
    Tokens,
    take,
    unstopped,
)
from rir_mlx.backends.mlx.forward import MlxForward
from rir_mlx.backends.noise import RowNoise

Processor = Callable[[mx.array, mx.array], mx.array]


def generate(
    model: MlxForward, requests: Iterable[Request | None], sampling: Sampling, prefix: Tokens, on_token: OnToken | None
) -> Iterator[Completion]:
    """`Model.generate` with continuous batching."""
    source = iter(requests)
    following, alone = (_before_rows(model, tokens) for tokens in (prefix, ()))
    together = max(1, sampling.batch_size // 4)  # rows that enter together; a single row takes as long as a step
    likeliest = _Likeliest(model) if sampling.temperature == 0 and sampling.repetition_penalty == 1 else None
    generator = BatchGenerator(
        likeliest or model.model,
        stop_tokens=[list(stop) for stop in sampling.stop],
        completion_batch_size=sampling.batch_size,
        prefill_batch_size=together,
        sampler=likeliest.take if likeliest else None,
    )
    waiting: dict[int, tuple[Request, list[int]]] = {}
    exhausted = False
    try:
        while True:
            free = sampling.batch_size - len(waiting)
            if not exhausted and free >= (together if waiting else 1):
                taken, exhausted = take(source, free)
                for request in taken:
                    before = 0 if request.whole else len(prefix)
                    model.check_length(before + len(request.tokens) + request.limit(sampling))
                    [uid] = generator.insert(
                        [list(request.tokens)],
                        max_tokens=[request.limit(sampling)],
                        caches=[following if before else alone],
                        samplers=[sampler(sampling, request.seed, model.vocabulary)],
                        logits_processors=[_processors(sampling, len(request.tokens))],
                    )
                    waiting[uid] = (request, [])
            if not waiting:
                if exhausted:
                    return
                continue
            for response in generator.next_generated():
                request, generated = waiting[response.uid]
                generated.append(int(response.token))
                if on_token is not None:
                    on_token(request.key, generated[-1])
                if response.finish_reason is not None:
                    del waiting[response.uid]
                    yield Completion(request.key, *unstopped(generated, sampling.stop))
    finally:
        generator.close()


def _before_rows(model: MlxForward, prefix: Tokens) -> list[Any]:
    """Each layer's keys and values of the prefix, which the generator copies for a row. A layer with a window gets
    those inside it, in mlx-lm's cache that keeps no more."""
    caches = []
    for layer, kept in zip(make_prompt_cache(model.model), model.kept_prefix_cache(prefix), strict=True):
        windowed = isinstance(layer, RotatingKVCache)
        if windowed and not kept.empty():
            keys, values = (part[..., -layer.max_size :, :] for part in kept.keys_and_values())
            layer.state = keys, values, kept.offset, layer.keep, layer.max_size, keys.shape[2]
        caches.append(layer if windowed else kept)
    return caches


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


def sampler(sampling: Sampling, seed: int, vocabulary: int) -> Callable[[mx.array], mx.array] | None:
    """Draws from log-probabilities [1, vocabulary] with the row's own noise. None, the generator's default, is
    greedy."""
    if sampling.temperature == 0:
        return None
    noise, steps = RowNoise(seed, vocabulary), itertools.count()

    def draw(log_probabilities: mx.array) -> mx.array:
        # In 16 bits a sum over the vocabulary loses small terms.
        scaled = log_probabilities.astype(mx.float32) / sampling.temperature
        if sampling.top_p < 1:
            scaled = apply_top_p(scaled - mx.logsumexp(scaled, axis=-1, keepdims=True), sampling.top_p)
        if sampling.min_p > 0:
            scaled = apply_min_p(scaled, sampling.min_p)
        of_blocks, inside = mx.split(mx.array(noise.at(next(steps))), [noise.blocks])
        missing = noise.blocks * noise.width - vocabulary
        blocks = mx.pad(scaled[0], (0, missing), constant_values=-mx.inf).reshape(noise.blocks, noise.width)
        block = mx.argmax(mx.logsumexp(blocks, axis=-1) + of_blocks)
        return (block * noise.width + mx.argmax(blocks[block] + inside)).astype(mx.uint32)[None]

    return draw


def _processors(sampling: Sampling, prompt: int) -> list[Processor]:
    """The repetition penalty, over what stands after the row's own `prompt` tokens."""
    if sampling.repetition_penalty == 1:
        return []

    def penalise(tokens: mx.array, logits: mx.array) -> mx.array:
        generated = tokens[prompt:]
        if generated.size == 0:
            return logits
        values = logits[:, generated]
        penalty = sampling.repetition_penalty
        logits[:, generated] = mx.where(values > 0, values / penalty, values * penalty)
        return logits

    return [penalise]
