"""A decoding step that a GPU replays as it was recorded, in one launch where it took some hundreds.

A recorded step (PyTorch's CUDA graphs) reads and writes the same memory in the same shapes whenever it is replayed:
numbers that the host knows are those of the recording. So each recording is compared with the step itself, on other
tokens than it was made with and at later places. Where it differs or cannot be made, steps are launched as before.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch

Step = Callable[[], torch.Tensor]
"""Gives the hidden states [rows, width] of a step. Run twice, it does the same twice."""


class Pool:
    """The memory of recordings that are replayed one after the other, so that what is in between may overlap."""

    def __init__(self) -> None:
        self.handle: Any = None


Record = Callable[[Step, Pool], Step]
"""Gives a replay of a step, or raises RuntimeError."""

SWITCH = "RIR_RECORD_STEPS"
_AT_FIRST = 8
"""Steps of a shape before it is recorded, which takes as long as several of them."""
_WARM_UPS, _COMPARISONS = 2, 2


class Recorder(Protocol):
    """What can record a step; `record` is None where nothing can, or no longer."""

    record: Record | None


def recording_of(device: torch.device) -> Record | None:
    """CUDA graphs on a CUDA device, unless `RIR_RECORD_STEPS=0`; nothing elsewhere."""
    return cuda_graph if device.type == "cuda" and os.environ.get(SWITCH) != "0" else None


def cuda_graph(step: Step, pool: Pool) -> Step:
    """Records `step` as a CUDA graph. Raises RuntimeError if it waits for the device, which no graph can hold."""
    current, apart = torch.cuda.current_stream(), _apart()
    mode = torch.cuda.get_sync_debug_mode()
    apart.wait_stream(current)
    try:
        _refuse_to_wait("error")  # a recording that fails half-way may leave the allocator in its midst
        with torch.cuda.stream(apart):
            for _ in range(_WARM_UPS):  # libraries take their working memory at first
                step()
    finally:
        _refuse_to_wait(mode)
        current.wait_stream(apart)
    graph = torch.cuda.CUDAGraph()
    pool.handle = pool.handle or torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool.handle, capture_error_mode="thread_local"):
            hidden = step()
    except BaseException:
        torch.cuda.set_stream(current)
        raise

    def replay() -> torch.Tensor:
        graph.replay()
        return hidden

    return replay


def _refuse_to_wait(mode: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype
        torch.cuda.set_sync_debug_mode(mode)


@cache
def _apart() -> Any:
    """The stream of all warm-ups: each stream has working memory of its own."""
    return torch.cuda.Stream()


class RecordedSteps:
    """Steps by their shape, recorded once a shape has come often enough."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.pauses = recorder, False
        self.forget()

    def forget(self) -> None:
        """Let go of all recordings, because the memory that they use is no longer the rows'."""
        self.seen, self.compared = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        self.replays: dict[tuple[int, int], Step] = {}
        self.pool = Pool()  # PyTorch refuses one whose recordings are gone while something in it lives

    def run(
        self, shape: tuple[int, int], exact: Step, fixed: Step, alike: Callable[[Step, Step], bool]
    ) -> torch.Tensor:
        """Hidden states of a step. `exact` runs the rows that there are; `fixed` runs `shape`, rows and columns, and
        begins with those rows. `alike` compares it with a replay, and leaves the rows' memory as it was."""
        record, replay = self.recorder.record, self.replays.get(shape)
        if record is None or self.pauses:
            return exact()
        try:
            if replay is None:
                self.seen[shape] += 1
                if self.seen[shape] > _AT_FIRST:
                    self.replays[shape] = record(fixed, self.pool)
                return exact()
            if self.compared[shape] < _COMPARISONS:
                if not alike(fixed, replay):  # of one shape, so that both round alike
                    self._refuse("a replay differs from the step")
                    return exact()
                self.compared[shape] += 1
            return replay()
        except torch.OutOfMemoryError:  # for this generation
            self.forget()
            self.pauses = True
        except RuntimeError as error:
            self._refuse(str(error).partition("\n")[0])
        return exact()

    def _refuse(self, why: str) -> None:
        self.forget()
        self.recorder.record = None
        warnings.warn(f"Decoding steps are launched one by one, which is slower: {why}.", RuntimeWarning, stacklevel=2)
