"""A hash of everything in a model folder that decides what the model computes, every byte of it.

Reading gigabytes takes seconds, so the hash of a large file is kept in `~/.cache/rir-mlx` (`$XDG_CACHE_HOME/rir-mlx`
where that is set) with the file's size and times, and computed again once one of them differs.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rir_mlx.errors import RirError
from rir_mlx.json_text import parse_json
from rir_mlx.models.weight_files import INDEX
from rir_mlx.storage.atomic import write_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_USED = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    INDEX,
)
"""What is read beside the weights: sizes, ends of a text, tokenizer and chat templates."""
_LARGE = 1 << 26
"""Bytes from which on a hash is kept: a smaller file takes a few hundredths of a second."""
_SETTLED = 2.0
"""Seconds. A file that changed later than that may change again within the same tick of the file system's clock."""


def fingerprint(folder: Path, weights: Iterable[Path]) -> str:
    """16 hexadecimal digits: SHA-256 over names and contents of the folder's configs, tokenizer and templates, and of
    the weight files that count."""
    used = {path.relative_to(folder).as_posix(): path for pattern in _USED for path in folder.glob(pattern)}
    used |= {path.name: path for path in weights}
    digest = hashlib.sha256()
    for name in sorted(used):
        digest.update(f"{name}:{kept_digest(used[name])}\n".encode())
    return digest.hexdigest()[:16]


def kept_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a large file that has not changed, as it was kept."""
    state = path.stat()
    if state.st_size < _LARGE:
        return _read(path)
    now = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    place = str(path.resolve())
    kept = _kept()
    if (entry := kept.get(place)) and entry[:3] == now:
        return str(entry[3])
    digest = _read(path)
    after = path.stat()
    unchanged = [after.st_size, after.st_mtime_ns, after.st_ctime_ns] == now
    if unchanged and time.time() - max(after.st_mtime, after.st_ctime) > _SETTLED:
        there = {name: values for name, values in _kept().items() if Path(name).is_file()}
        with suppress(OSError, RirError):  # a home that cannot be written: the file is read again next time
            write_json(_cache(), there | {place: [*now, digest]})
    return digest


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rir-mlx" / "digests.json"


def _kept() -> dict[str, list[int | str]]:
    """Size, times of the last change to content and status in ns, and hash, by path."""
    try:
        kept = parse_json(_cache().read_text(encoding="utf-8"))
        return {name: values for name, values in kept.items() if isinstance(values, list) and len(values) == 4}
    except (OSError, ValueError, AttributeError, RuntimeError):  # RuntimeError: there is no home
        return {}
