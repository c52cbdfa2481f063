"""Copies between the host and a GPU for which neither waits, but where the host reads what it asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def apart(device: torch.device) -> bool:
    """Whether the device works on while the host does something else, so that waiting for it costs time."""
    return device.type == "cuda"


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on the device. From memory that is not pinned, CUDA copies only once all work before is done, and the
    host waits for that."""
    tensor = torch.as_tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if apart(device) else tensor.to(device)


class Arriving:
    """A tensor on its way to the host."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.to("cpu", non_blocking=True)
        self.arrived = torch.cuda.Event() if tensor.is_cuda else None
        if self.arrived:
            self.arrived.record()

    def read(self) -> Any:
        """Its numbers, as `tolist` gives them, once the device has come to the copy."""
        if self.arrived:
            self.arrived.synchronize()
        return self.tensor.tolist()
