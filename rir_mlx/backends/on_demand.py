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
