"""Several processes that train one model, and their exchange through torch.distributed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from rir_mlx.backends.base import SingleProcess
from rir_mlx.errors import Failure

_TOGETHER = 64
"""Number of gradients in one message."""


class TorchProcessGroup:
    """The ranks of a `torchrun`: gloo between processors, NCCL between GPUs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Some stages run in one process for hours. A closed connection, not a timeout, shows that a process died.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=30))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_sum(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        self._reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks. A rank without rows adds nothing."""
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for start in range(0, len(gradients), _TOGETHER):
            part = gradients[start : start + _TOGETHER]
            flat = torch.cat([gradient.reshape(-1) for gradient in part])
            self._reduce(flat)
            for gradient, summed in zip(part, flat.split([gradient.numel() for gradient in part]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def _reduce(self, tensor: torch.Tensor) -> None:
        try:
            dist.all_reduce(tensor)
            if tensor.is_cuda:  # where the call returns before the others have answered
                torch.cuda.synchronize(tensor.device)
        except RuntimeError as error:
            why = re.sub(r"^\[[^]]*\] *", "", str(error)).split(". ")[0]  # without gloo's source location
            raise Failure(
                f"Another process of this training has died ({why}).",
                hint="Run the same command again: it continues from the last checkpoint.",
            ) from error


def join_process_group(device: torch.device) -> SingleProcess | TorchProcessGroup:
    """The process group that `torchrun` started this process in."""
    return TorchProcessGroup(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else SingleProcess()
