"""LoRA's product as one operation with its own gradient.

PEFT adds the update to the layer's output in three passes (product, scale, sum), and autograd takes as many again. Here
the matrix product itself adds the update to the output, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional

_NAME = "default"


def fuse_forward(module: Linear) -> None:
    """Let a LoRA layer without dropout or DoRA compute `W x + b + scale · B A x` at once."""
    if module.lora_variant or not isinstance(module.lora_dropout[_NAME], torch.nn.Identity):
        return
    base, a, b = module.base_layer, module.lora_A[_NAME], module.lora_B[_NAME]
    scale = float(module.scaling[_NAME])

    def forward(x: torch.Tensor) -> Any:
        out = _LoraLinear.apply(x, base.weight, base.bias, a.weight, b.weight, scale)
        return out.view(*x.shape[:-1], -1)  # here, because a view made inside cannot be changed in place

    module.forward = forward


@torch.no_grad()
def merge(model: torch.nn.Module) -> None:
    """Put every adapted layer's merged weights in its place: summed in float32, rounded once."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, Linear):
            continue
        base = module.base_layer
        dtype = base.weight.dtype
        base.weight.data = base.weight.data.float()
        module.merge()
        base.weight.data = base.weight.data.to(dtype)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, base)


class _LoraLinear(torch.autograd.Function):
    """x [..., in], weight [out, in], a [rank, in] and b [out, rank] give [rows, out], with x's other dimensions in one.
    A float32 adapter over a base of 16 bits is multiplied in 16 bits; its gradient comes back in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        inner = rows @ a.to(rows.dtype).T
        out = functional.linear(rows, weight, bias).addmm_(inner, b.to(rows.dtype).T, alpha=scale)
        ctx.save_for_backward(rows, inner, weight, a, b)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, weight, a, b = ctx.saved_tensors
        out = gradients[0].to(rows.dtype)
        through = (out @ b.to(rows.dtype)).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (out @ weight).addmm_(through, a.to(rows.dtype)).view(ctx.shape).to(ctx.dtype)
        of_b = (out.T @ inner).to(b.dtype).mul_(ctx.scale)
        return of_x, None, None, (through.T @ rows).to(a.dtype), of_b, None
