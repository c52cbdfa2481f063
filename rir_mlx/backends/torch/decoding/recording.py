"""A decoding step that a GPU replays as it was recorded, in one launch where it took some hundreds.

A recorded step (PyTorch's CUDA graphs) reads and writes the same memory in the same shapes whenever it is replayed:
numbers that the host knows are those of the recording. So each recording is compared with the step itself once, when
both the tokens and the lengths have changed. Where that or the recording fails, steps run as before.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import torch

Step = Callable[[], torch.Tensor]
"""Gives the hidden states [rows, width] of a step. Run twice, it does the same twice."""
Record = Callable[[Step], Step]
"""Gives a replay of a step, or raises RuntimeError."""

SWITCH = "RIR_RECORD_STEPS"
_AT_FIRST = 8
"""Steps of a shape before it is recorded, which takes as long as several of them."""
_WARM_UPS = 2
_TOLERANCE = 0.02
"""How far a replay may be off, as a share of the largest hidden state: another kernel may be chosen for it."""


class Recorder(Protocol):
    """What can record a step; `record` is None where nothing can, or no longer."""

    record: Record | None


def recording_of(device: torch.device) -> Record | None:
    """CUDA graphs on a CUDA device, unless `RIR_RECORD_STEPS=0`; nothing elsewhere."""
    return cuda_graph if device.type == "cuda" and os.environ.get(SWITCH) != "0" else None


def cuda_graph(step: Step) -> Step:
    """Records `step` as a CUDA graph. Raises RuntimeError if it waits for the device, which no graph can hold."""
    current, apart = torch.cuda.current_stream(), torch.cuda.Stream()
    mode = torch.cuda.get_sync_debug_mode()
    apart.wait_stream(current)
    try:
        torch.cuda.set_sync_debug_mode("error")  # a recording that fails half-way may leave the allocator in its midst
        with torch.cuda.stream(apart):
            for _ in range(_WARM_UPS):  # libraries take their working memory at first
                step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        current.wait_stream(apart)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        hidden = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return hidden

    return replay


class RecordedSteps:
    """Steps by their shape, recorded once a shape has come often enough."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.forget()

    def forget(self) -> None:
        """Let go of all recordings, because the memory that they use is no longer the rows'."""
        self.seen = Counter[tuple[int, int]]()
        self.replays: dict[tuple[int, int], Step] = {}
        self.compared: set[tuple[int, int]] = set()

    def run(self, shape: tuple[int, int], exact: Step, fixed: Step) -> torch.Tensor:
        """Hidden states of a step. `exact` runs the rows that there are; `fixed` runs `shape`, rows and columns, and
        begins with those rows."""
        record = self.recorder.record
        if record is None:
            return exact()
        if (replay := self.replays.get(shape)) is None:
            self.seen[shape] += 1
            if self.seen[shape] > _AT_FIRST:
                try:
                    self.replays[shape] = record(fixed)
                except RuntimeError as error:
                    self._refuse(str(error).partition("\n")[0])
            return exact()
        if shape in self.compared:
            return replay()
        expected, found = exact(), replay()
        apart = (found[: len(expected)] - expected).abs().amax() <= _TOLERANCE * expected.abs().amax()
        if not bool(apart):  # nor where they are no numbers
            self._refuse("a replay differs from the step")
            return expected
        self.compared.add(shape)
        return replay()

    def _refuse(self, why: str) -> None:
        self.forget()
        self.recorder.record = None
        warnings.warn(f"Decoding steps are launched one by one, which is slower: {why}.", RuntimeWarning, stacklevel=2)
