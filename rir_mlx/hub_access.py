"""Whether the Hugging Face hub may be contacted and answers, and what its cache on this machine holds."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

_VARIABLE = "HF_HUB_OFFLINE"
_YES = {"1", "ON", "YES", "TRUE"}
_CONNECT_SECONDS = 2.5
_REMEMBERED_SECONDS = 60
_KNOWN_MODEL = "openai-community/gpt2"
_PROXY_WANTS_A_PASSWORD, _FAILED = 407, 500
"""HTTP status codes. The hub itself fails with 5xx, too, and is then of no use either."""


def forbid_network() -> None:
    """Keep huggingface_hub, transformers and datasets off the network from now on, and child processes too.

    The libraries read the variable once, when they are imported, which may have happened long ago."""
    os.environ[_VARIABLE] = "1"
    _set(True)


@contextmanager
def without_network(wanted: bool = True) -> Iterator[None]:
    """Keep the same libraries off the network inside the block."""
    if not wanted:
        yield
        return
    from huggingface_hub import constants

    variable, constant = os.environ.get(_VARIABLE), constants.HF_HUB_OFFLINE
    forbid_network()
    try:
        yield
    finally:
        if variable is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = variable
        _set(constant)


def is_offline() -> bool:
    """Whether the user has forbidden to contact the hub, with --offline or in the environment."""
    module = sys.modules.get("huggingface_hub.constants")
    return bool(getattr(module, _VARIABLE, False)) or os.environ.get(_VARIABLE, "").upper() in _YES


def hub_answers() -> bool:
    """Whether the hub may be contacted and answers. The answer takes three seconds at most, for the library's own
    retries take half a minute; it is remembered for a minute."""
    return not is_offline() and _answers(int(time.monotonic() / _REMEMBERED_SECONDS))


def cached_names(kind: str) -> list[str]:
    """The names of the models (`kind` "model") or data sets ("dataset") in the hub's cache, in order. Those of models
    whose weights are not there, but perhaps a tokenizer, are left out."""
    return [name for name, _ in cached_folders(kind)]


def cached_folders(kind: str) -> list[tuple[str, Path]]:
    """The same with the folder of each one's newest snapshot."""
    from huggingface_hub import constants

    wanted, found = "*.safetensors" if kind == "model" else "*", []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob(f"{kind}s--*")):
        snapshots = {path.parent for path in folder.glob(f"snapshots/*/{wanted}")}
        if snapshots:
            name = folder.name.removeprefix(f"{kind}s--").replace("--", "/")
            found.append((name, max(snapshots, key=lambda path: path.stat().st_mtime)))
    return found


@lru_cache(maxsize=1)
def _answers(minute: int) -> bool:
    """Whether the hub answers at its address. In a thread, since no timeout bounds the look-up of a name."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(_connects()), daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS + 0.4)
    return bool(found and found[0])


def _connects() -> bool:
    """Whether the hub's API answers. Its answers are JSON, its errors too; a proxy that refuses (407, 502, 503) and the
    page of a captive portal, wherever that leads, are not."""
    from huggingface_hub import constants, get_session

    try:
        answer = get_session().get(f"{constants.ENDPOINT}/api/models/{_KNOWN_MODEL}", timeout=_CONNECT_SECONDS)
    except Exception as error:  # of an HTTP library that huggingface_hub chooses
        return type(error).__name__ == "ReadTimeout"  # connected, and slow
    refused = answer.status_code == _PROXY_WANTS_A_PASSWORD or answer.status_code >= _FAILED
    return not refused and "json" in answer.headers.get("content-type", "")


def _set(value: bool) -> None:
    for name in ("huggingface_hub.constants", "datasets.config"):
        if (module := sys.modules.get(name)) is not None:
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]
