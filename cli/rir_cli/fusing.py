"""What `rir-mlx convert fuse` does: an adapter that anybody trained, merged into its base and proven.

There is no run, and so no rows and labels: the question is put in random tokens. The reference is the adapter as its
own library loads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rir_convert.adapters import ForeignAdapter, convert_adapter, read_any
from rir_convert.fuse import Fused
from rir_convert.gate import ROWS, Probe, ask, ask_rows, mean_difference, record
from rir_convert.hf import About, stored_as, write_hf_folder
from rir_convert.integrity import faults
from rir_convert.weights import base_weights, size_of

from rir_cli.exporting import Asked, aside, in_words, installed_engines
from rir_mlx import __version__
from rir_mlx.backends import open_backend, release_memory
from rir_mlx.errors import UserError
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.progress import Progress, counting_bytes
from rir_mlx.prompting.codec import Codec
from rir_mlx.types import Dtype, Ecosystem

_LENGTH = 32
_LOADERS: dict[Ecosystem, str] = {"peft": "torch", "mlx": "mlx"}
_DATE = "26 Jul 2024"


def fuse_folders(
    model: str, adapter: Path, output: Path, dtype: Dtype, progress: Progress, *, offline: bool
) -> dict[str, Any]:
    """Returns what stands in verification.json. Raises Failure where the folder is not base and adapter together."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already, and not empty.", hint="Name a new folder.")
    base = resolve_model(model, offline=offline)
    found = read_any(adapter)
    fused = Fused(base_weights(base.folder, base.config), found.spec, found.tensors, dtype=dtype)
    codec = Codec(base.folder, _DATE)
    probe = Probe((), _random_rows(len(codec.tokenizer)))
    name, before, reference = _reference(base, adapter, found, probe, progress)
    effect = mean_difference(before, reference.rows)
    with aside(output.absolute()) as written:
        with counting_bytes(progress, f"fuse into {base.name}", size_of(fused)) as advance:
            write_hf_folder(written, fused, base, About(list(codec.stops)), advance=advance)
        asked = Asked(progress, probe, reference, effect)
        wrong = faults(written, codec, ())
        compared = asked.by(installed_engines(), stored_as(fused), lambda engine: engine.load_as_is(written), wrong)
        facts = {"rir_mlx": __version__, "format": "hf", "reference": name, "adapter_effect": effect}
        values = record(written, compared, **facts)
    for one in compared:
        progress.say(in_words(one))
    return values


def _random_rows(vocabulary: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, vocabulary, _LENGTH).tolist()) for _ in range(ROWS)]


def _reference(base: ModelFiles, adapter: Path, found: ForeignAdapter, probe: Probe, progress: Progress) -> Any:
    """The engine that opened the adapter, the base's answers, and the answers of both together."""
    with _openable(adapter, found) as (name, folder):
        backend = open_backend(name)  # type: ignore[arg-type]
        progress.say(f"Asking base and adapter with {name} …")
        before = ask_rows(backend.load_as_is(base.folder), probe)
        release_memory()
        both = ask(backend.load_as_is(base.folder, folder), probe)
        release_memory()
        return name, before, both


@contextmanager
def _openable(adapter: Path, found: ForeignAdapter) -> Iterator[tuple[str, Path]]:
    """The adapter's own library where it is installed, else the other one with the adapter converted."""
    engines = installed_engines()
    if not engines:
        raise UserError("Neither PyTorch nor MLX is installed.", hint="pip install 'rir-mlx[torch]'")
    if (own := _LOADERS[found.ecosystem]) in engines:
        yield own, adapter
        return
    other: Ecosystem = "mlx" if found.ecosystem == "peft" else "peft"
    with tempfile.TemporaryDirectory() as temporary:
        convert_adapter(adapter, Path(temporary) / "adapter", other)
        yield _LOADERS[other], Path(temporary) / "adapter"
