"""llama.cpp, through whichever package that runs it is installed. Imports none before a file is opened."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from rir_mlx.backends.base import Float32Array, Tokens

PACKAGES = ("llama_cpp", "xllamacpp")


class LlamaCpp(Protocol):
    """A GGUF file that llama.cpp has loaded.

    forward  what runs, for people
    partial  log-probabilities of the likeliest tokens alone are told, the others are NaN
    """

    forward: str
    partial: bool

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        """Like `Model.last_logits`."""
        ...

    def tokenize(self, text: str) -> Tokens:
        """The ids of a whole prompt, control tokens included, with the first token where the file asks for one."""
        ...

    def close(self) -> None: ...


def available() -> bool:
    """Whether a package that runs llama.cpp is installed, and new enough."""
    return _package() is not None


def open_llama_cpp(path: Path, context: int) -> LlamaCpp:
    """The file, with room for `context` tokens. Raises ModelError if llama.cpp cannot load it."""
    if _package() == "llama_cpp":
        from rir_convert.gguf.llama_cpp_python import LlamaCppPython

        return LlamaCppPython(path, context)
    from rir_convert.gguf.xllamacpp_server import XLlamaCpp

    return XLlamaCpp(path, context)


def _package() -> str | None:
    """llama-cpp-python if it is there, since it tells all logits at once."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            continue
        if name != "llama_cpp" or hasattr(importlib.import_module(name), "llama_memory_seq_rm"):
            return name
    return None
