"""One large product and one large copy in PyTorch, on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rir_mlx.backends.torch.model import default_device


def product(width: int, dtype: str) -> Callable[[], object]:
    device = default_device()
    left = torch.ones(width, width, dtype=getattr(torch, dtype), device=device)
    right, out = torch.ones_like(left), torch.empty_like(left)

    def work() -> None:
        torch.mm(left, right, out=out)
        _wait(device)

    return work


def copy(count: int) -> Callable[[], object]:
    device = default_device()
    source = torch.ones(count // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def work() -> None:
        target.copy_(source)
        _wait(device)

    return work


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
