"""The cross-entropy of the learned positions, without ever holding all of their logits.

With a vocabulary of 128,256 tokens, the logits of a batch take more memory than everything else. Here they are computed
a few hundred positions at a time or fewer, each part with its gradient, so that only one part is in memory at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from rir_mlx.backends.mlx.forward import MlxForward

Gradient = Literal["none", "hidden", "all"]


def lm_head_loss(
    model: MlxForward, hidden: mx.array, targets: mx.array, weights: mx.array, gradient: Gradient
) -> mx.array:
    """Σ weights · CE(logits of hidden, targets), in float32. `hidden` is [positions, width], the others [positions].

    `gradient` tells what needs a gradient. That of the hidden states is computed in the forward pass; if the projection
    learns too (`all`), each part is projected again in the backward pass.
    """
    lm_head = model.lm_head
    size = model.head_rows
    parts = [slice(start, start + size) for start in range(0, len(hidden), size)]

    def part_loss(hidden: mx.array, part: slice) -> mx.array:
        losses = nn.losses.cross_entropy(model.logits_of(hidden).astype(mx.float32), targets[part])
        return (losses * weights[part]).sum()

    if gradient == "all":

        def again(parameters: Any, hidden: mx.array, part: slice) -> mx.array:
            lm_head.update(parameters)  # a checkpoint has no gradient for anything but its arguments
            return part_loss(hidden, part)

        learned = lm_head.trainable_parameters()
        each = [mx.checkpoint(partial(again, part=part))(learned, hidden[part]) for part in parts]
        return mx.stack(each).sum() if each else mx.zeros(())
    if gradient == "none":
        total = mx.zeros(())
        for part in parts:
            total = total + part_loss(_after(hidden[part], total), part)
        return total

    @mx.custom_function
    def with_gradient(hidden: mx.array) -> tuple[mx.array, mx.array]:
        total = mx.zeros(())
        gradients: list[mx.array] = []
        for part in parts:
            rows = _after(hidden[part], total, *gradients[-1:])
            loss, of_rows = mx.value_and_grad(part_loss)(rows, part)
            total = total + loss
            gradients.append(of_rows)
        return total, mx.concatenate(gradients) if gradients else mx.zeros_like(hidden)

    @with_gradient.vjp
    def backward(_: mx.array, scales: tuple[mx.array, mx.array], outputs: tuple[mx.array, mx.array]) -> mx.array:
        return outputs[1] * scales[0].astype(outputs[1].dtype)

    return with_gradient(hidden)[0]


def _after(array: mx.array, *before: mx.array) -> mx.array:
    """The array, computed after the others, when their logits have been freed."""
    return mx.depends([array], list(before))[0]
