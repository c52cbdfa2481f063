"""Errors in words a user can act on.

Each error says what was found, where, and the one edit or command that fixes it. The command line turns a
`UserError` into exit code 2 and a `Failure` into exit code 1; neither shows a traceback unless `RIR_DEBUG=1`.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path


class RirError(Exception):
    """Base of all errors raised on purpose. `hint` is the edit or command that helps, if there is one."""

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


class UserError(RirError):
    """Something the user gave cannot be used: a recipe, a file, an option."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe that cannot be read or does not validate."""


class DataError(UserError):
    """A data file with faults. `faults` has a line for each, with its row number; `what` shows the first of them."""

    def __init__(self, what: str, *, faults: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.faults = tuple(faults)


class ModelError(UserError):
    """A model or adapter folder that is missing, gated, damaged, or made for another base."""


class NoServer(UserError):
    """No server answers at the given address."""


class NoReasonings(UserError):
    """No row that an arm is to learn from has a reasoning."""


class Failure(RirError):
    """The work itself failed: a loss that is not finite, an export that does not match its model."""


class OutOfMemory(Failure):
    """The device's memory cannot hold this much at once."""


def install_extra(extra: str) -> str:
    """The command that installs an extra of rir-mlx: from the checkout that is running, if it is one."""
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{checkout}[{extra}]')}"
    return f"pip install 'rir-mlx[{extra}]'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
