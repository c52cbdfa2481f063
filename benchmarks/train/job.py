"""One measurement of one trainer, and the settings that all trainers share."""

from __future__ import annotations

from dataclasses import dataclass

from rir_mlx.backends.base import OptimizerSpec
from rir_mlx.models.adapter_spec import AdapterSpec

SPEC, OPTIMIZER, RATE = AdapterSpec(rank=16), OptimizerSpec(), 1e-4
PEERS = {"torch": ["ours", "ours-unshared", "plain", "trl", "trl-best"], "mlx": ["ours", "ours-unshared", "mlx-lm"]}
SHAPES = {"torch": (2048, 4, 128256), "mlx": (256, 4, 32768)}


@dataclass(frozen=True)
class Job:
    """One trainer on one arm. The first `warmup` of the `steps` are not counted."""

    trainer: str
    arm: str
    backend: str
    folder: str
    dtype: str
    batch: int
    warmup: int
    steps: int
