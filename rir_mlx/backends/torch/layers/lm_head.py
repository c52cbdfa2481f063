"""The cross-entropy of the learned positions, without ever holding all of their logits.

With a vocabulary of 128,256 tokens, the logits of a batch take more memory than everything else. Here they are computed
a few hundred positions at a time or fewer, each part with its gradient, so that only one part is in memory at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from rir_mlx.backends.limits.logits import head_rows
from rir_mlx.models.families import LogitTransform

PLAIN_LOGITS = LogitTransform()


def rows_together(head: torch.Tensor) -> int:
    """Positions that are projected together by a head [vocabulary, width]."""
    return head_rows(len(head), gpu=head.device.type == "cuda")


def transformed(logits: torch.Tensor, transform: LogitTransform) -> torch.Tensor:
    """The logits after the factor and the soft cap of the model's family."""
    if transform.scale != 1:
        logits = logits * transform.scale
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    return logits


def lm_head_loss(
    lm_head: torch.nn.Linear,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    transform: LogitTransform = PLAIN_LOGITS,
) -> torch.Tensor:
    """Σ weights · CE(transformed lm_head(hidden), targets), in float32. `hidden` is [positions, width], the others
    [positions]."""
    weight, bias = lm_head.weight, lm_head.bias
    if not torch.is_grad_enabled():  # the function below does not know it
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    loss: torch.Tensor = _LmHeadLoss.apply(hidden, weight, bias, targets, weights, transform)
    return loss


class _LmHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor,
        transform: LogitTransform,
    ) -> torch.Tensor:
        for_hidden, for_head, for_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.empty_like(hidden) if for_hidden else None
        head_gradient = torch.zeros_like(head) if for_head else None
        bias_gradient = torch.zeros_like(bias) if for_bias and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        size = rows_together(head)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits = transformed(functional.linear(hidden[part], head, bias).float(), transform)
            slope = None if transform.softcap is None else 1 - (logits / transform.softcap).square()
            wanted = logits.gather(1, targets[part, None])[:, 0]
            top = logits.amax(-1)
            exponentials = logits.sub_(top[:, None]).exp_()
            mass = exponentials.sum(-1)
            total += ((mass.log() + top - wanted) * weights[part]).sum()
            if not any(ctx.needs_input_grad):
                continue
            # d CE / d logits is the softmax, less 1 at the target.
            gradient = exponentials.mul_((weights[part] / mass)[:, None])
            gradient.scatter_add_(1, targets[part, None], -weights[part, None])
            if slope is not None:
                gradient.mul_(slope)
            if transform.scale != 1:
                gradient.mul_(transform.scale)
            gradient = gradient.to(head.dtype)
            if hidden_gradient is not None:
                torch.mm(gradient, head, out=hidden_gradient[part])
            if head_gradient is not None:
                head_gradient.addmm_(gradient.T, hidden[part])
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
            del logits, exponentials, gradient, slope
        ctx.save_for_backward(hidden_gradient, head_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *scales: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if part is None else part * scales[0].to(part.dtype) for part in ctx.saved_tensors]
        return *scaled, None, None, None
