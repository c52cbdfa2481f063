"""What room a Ray cluster has for workers, and that it keeps it: Ray would wait for ever for a node that is gone. And
how often workers die of the same thing: Ray would run it again for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rir_mlx.errors import UserError

PATIENCE = 60.0
"""Seconds that a cluster may have too little room: a node may come back, or another one join."""
_EVERY = 2.0

DEATHS = 3
"""Workers that may die of one thing, a shard or a model. If more do, the thing is at fault."""


def share_of_a_worker(nodes: Sequence[Mapping[str, float]], workers: int) -> dict[str, int]:
    """The resources that each of `workers` workers requests, given the nodes': a GPU if there are GPUs, else as many
    processors as each can have. Raises UserError if they cannot all run at once."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    room, unit = (gpus, "GPU") if gpus else (sum(cpus), "processor")
    if not 1 <= workers <= room:
        raise UserError(
            f"{workers} workers do not fit into the Ray cluster: each needs a {unit}, and it has {room}.",
            hint=f"Ask for 1 to {room} workers, or add nodes to the cluster." if room else "Add nodes to the cluster.",
        )
    if gpus:
        return {"num_cpus": 0, "num_gpus": 1}
    share = sum(cpus) // workers
    while sum(cpu // share for cpu in cpus) < workers:
        share -= 1
    return {"num_cpus": share}


def workers_that_fit(nodes: Sequence[Mapping[str, float]], share: Mapping[str, int]) -> int:
    """How many workers with that share the nodes hold at once."""
    if gpus := share.get("num_gpus"):
        return sum(int(node.get("GPU", 0)) // gpus for node in nodes)
    return sum(int(node.get("CPU", 0)) // share["num_cpus"] for node in nodes)


class Attempts:
    """How often each thing was begun and not ended. Ray counts a retry whenever a worker cannot be reached: until it
    knows that a node is gone, that is every second, and its retries run out before another node takes over."""

    def __init__(self, deaths: int = DEATHS) -> None:
        self._deaths, self._begun = deaths, Counter[str]()

    def begin(self, name: str) -> int:
        """Begin it, unless more than `deaths` workers have died of it: how many have, or else 0."""
        self._begun[name] += 1
        died = self._begun[name] - 1
        return died if died > self._deaths else 0

    def end(self, name: str) -> None:
        del self._begun[name]


class RoomWatch:
    """From `start` to `stop`, asks every few seconds how many workers fit. Where fewer than `wanted` do for `patience`
    seconds, `left` says how many, and `give_up` is called, once, in the watch's own thread."""

    def __init__(
        self,
        fitting: Callable[[], int],
        wanted: int,
        give_up: Callable[[], object],
        *,
        patience: float = PATIENCE,
        every: float = _EVERY,
    ) -> None:
        self._fitting, self._wanted, self._give_up = fitting, wanted, give_up
        self._patience, self._every = patience, every
        self.left: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rir-mlx-ray-room", daemon=True)

    def _watch(self) -> None:
        since: float | None = None
        while not self._over.wait(self._every):
            left = self._fitting()
            if left >= self._wanted:
                since = None
                continue
            since = time.monotonic() if since is None else since
            if time.monotonic() - since >= self._patience:
                self.left = left
                self._give_up()
                return

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
