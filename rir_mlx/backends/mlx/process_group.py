"""Several processes that train one model, and their exchange through mx.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.utils import average_gradients
from mlx.utils import tree_map

from rir_mlx.backends.base import SingleProcess
from rir_mlx.errors import Failure


class MlxProcessGroup:
    """The ranks of an `mlx.launch`, over its ring, JACCL or MPI."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = int(group.rank()), int(group.size())

    def all_sum(self, values: Sequence[float]) -> list[float]:
        # In float32, which every transport has.
        given = mx.array(values, dtype=mx.float32)
        summed = self._exchanged(mx.distributed.all_sum(given, group=self.group, stream=mx.cpu))
        return [float(value) for value in summed.tolist()]

    def sum_gradients(self, gradients: Any) -> Any:
        """Every gradient's sum over the ranks, in messages of some 32 MB."""
        means = self._exchanged(average_gradients(gradients, self.group))
        return tree_map(lambda mean: mean * self.size, means)

    def _exchanged(self, arrays: Any) -> Any:
        try:
            mx.eval(arrays)
        except RuntimeError as error:
            raise Failure(
                f"Another process of this training has died ({error}).",
                hint="Run the same command again: it continues from the last checkpoint.",
            ) from error
        return arrays


def join_process_group() -> SingleProcess | MlxProcessGroup:
    """The process group that `mlx.launch` started this process in."""
    group = mx.distributed.init()
    return MlxProcessGroup(group) if group.size() > 1 else SingleProcess()
