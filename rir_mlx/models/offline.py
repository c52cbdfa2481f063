"""A block of code during which no library contacts the hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "HF_HUB_OFFLINE"


@contextmanager
def without_network(wanted: bool = True) -> Iterator[None]:
    """Keep huggingface_hub and datasets off the network inside the block, and child processes too.

    Both libraries read the variable once, when they are imported, which may have happened long ago."""
    if not wanted:
        yield
        return
    from huggingface_hub import constants

    variable, constant = os.environ.get(_VARIABLE), constants.HF_HUB_OFFLINE
    os.environ[_VARIABLE] = "1"
    _set(True)
    try:
        yield
    finally:
        if variable is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = variable
        _set(constant)


def _set(value: bool) -> None:
    for name in ("huggingface_hub.constants", "datasets.config"):
        if (module := sys.modules.get(name)) is not None:
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]
