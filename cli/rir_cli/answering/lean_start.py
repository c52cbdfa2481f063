"""A start without the optional packages that transformers imports although nothing here uses them.

transformers asks, while its modules are imported, which packages are installed, and imports those: SciPy for the loss
of an object detector, accelerate for models that lie on several devices, and PyTorch beside MLX. That takes from one to
two seconds of a processor. It works without each of them, so a process that does nothing but classify with one
backend may tell it that they are not there.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_ASKED = "transformers.utils.import_utils"
_NOT_USED = {"torch": ("is_scipy_available", "is_accelerate_available"), "mlx": ("is_torch_available",)}
"""What transformers asks, by the backend that does without it."""


def start_lean(backend: str) -> None:
    """Let transformers find none of the packages that classifying with a backend does without. It holds for the whole
    process, so it is done only in one that the command line has for itself."""
    if backend in _NOT_USED and _owns_process() and "transformers" not in sys.modules:
        sys.meta_path.insert(0, _Finder(_NOT_USED[backend]))


def _owns_process() -> bool:
    main = sys.modules["__main__"]
    return main.__package__ in ("rir_cli", "rir_mlx") or Path(getattr(main, "__file__", None) or "").stem == "rir-mlx"


def _no(*_: Any, **__: Any) -> bool:
    return False


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module that answers, once, and changes its answers as soon as it is there."""

    def __init__(self, questions: Sequence[str]) -> None:
        self.questions = questions

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _ASKED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Answering(spec.loader, self.questions)
        return spec


class _Answering(importlib.abc.Loader):
    def __init__(self, loader: Any, questions: Sequence[str]) -> None:
        self.loader, self.questions = loader, questions

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self.loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        for question in self.questions:
            if hasattr(module, question):  # a release without the question imports what it likes
                setattr(module, question, _no)
