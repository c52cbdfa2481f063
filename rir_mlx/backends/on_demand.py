"""A framework that is imported when something is first computed: a run with nothing to do waits for none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import Backend, Device, Model, SingleProcess
from rir_mlx.backends.facts import Facts
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors
from rir_mlx.types import Dtype


class OnDemand:
    """A backend of one process. `make` imports it."""

    processes = SingleProcess()

    def __init__(self, name: str, make: Callable[[], Backend]) -> None:
        self.name, self._make = name, make

    @cached_property
    def _made(self) -> Backend:
        return self._make()

    @property
    def opened(self) -> bool:
        """Whether the framework was needed so far."""
        return "_made" in vars(self)

    def device(self) -> Device:
        return self._made.device()

    def facts(self) -> Facts:
        return self._made.facts()

    def load(self, folder: Path, *, dtype: Dtype = "auto", adapter: tuple[AdapterSpec, Tensors] | None = None) -> Model:
        return self._made.load(folder, dtype=dtype, adapter=adapter)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._made, name)


def was_opened(backend: Backend) -> bool:
    """Whether anything was computed with a backend that `open_backend` gave."""
    return not isinstance(backend, OnDemand) or backend.opened
