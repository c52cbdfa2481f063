"""What an opened model offers to verification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from rir_mlx.backends.base import Float32Array, Tokens
from rir_mlx.errors import ModelError


class CannotRun(ModelError):
    """The library cannot run the model, whoever wrote it: it has no code for its type, or cannot load the base of an
    adapter. What was exported may be right all the same."""


class Engine(Protocol):
    """A folder that a library has opened, in float32."""

    forward: str
    """What runs, for people: the call and the library's version."""

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        """Of each row its `last` positions, or as many as it has: [positions, vocabulary] next-token logits after
        `prefix`, which runs again with every row."""
        ...

    def layer_outputs(self, tokens: Tokens) -> list[Float32Array]:
        """[tokens, width] of what enters the first layer and of what each layer gives; empty where the library's model
        does not show its layers."""
        ...
