"""Merges any adapter into its base as a Hugging Face folder, and verifies it.

Without a run there are no rows or labels, so the probe is random tokens. The reference is the adapter as its own
library loads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rir_convert.adapters import ForeignAdapter, convert_adapter, read_any
from rir_convert.verification.engines.libraries import (
    Library,
    installed_libraries,
    longest_of,
    name_of,
    open_engine,
)
from rir_convert.verification.probe import (
    ROWS,
    Probe,
    Reference,
    answer_rows,
    engine_answers,
    mean_difference,
    most_tokens,
)
from rir_convert.verification.record import comparison_line, record
from rir_convert.verification.staging import verified_folder
from rir_convert.verification.verifier import Verifier
from rir_convert.weights.disk import check_new, check_space
from rir_convert.weights.hf_folder import FolderMetadata, write_hf_folder
from rir_convert.weights.merging import Fused
from rir_convert.weights.tensors import base_weights, size_of
from rir_mlx import __version__
from rir_mlx.backends import release_memory
from rir_mlx.errors import UserError, install_extra
from rir_mlx.models.families import ModelShape
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.models.weight_files import only_its_weights
from rir_mlx.progress import Progress, Silent, counting_bytes
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.types import Dtype, Ecosystem

_LENGTH = 32
_LOADERS: dict[Ecosystem, Library] = {"peft": "transformers", "mlx": "mlx-lm"}


@dataclass(frozen=True)
class FuseOptions:
    """`dtype` is the number format of the weights (`auto`: the base's); `offline` fetches no base model."""

    dtype: Dtype = "auto"
    offline: bool = True
    progress: Progress = field(default_factory=Silent)


_DEFAULTS = FuseOptions()


def fuse(model: str, adapter: Path, output: Path, options: FuseOptions = _DEFAULTS) -> dict[str, Any]:
    """Merge the adapter in the folder `adapter` into the base `model` (a folder or a hub id), and write the new folder
    `output`. Returns the content of verification.json.

    Raises UserError if `output` holds anything or cannot be written, or if no installed library opens the adapter;
    ModelError if base and adapter do not fit together, and Failure if the written folder does not answer as both
    together do."""
    check_new(output)
    progress = options.progress
    base = resolve_model(model, key="--model", offline=options.offline)
    found = read_any(adapter)
    _check_openable(found)
    fused = Fused(base_weights(base.folder, base.config), found.spec, found.tensors, dtype=options.dtype)
    check_space(output, size_of(fused))
    codec = Codec(base.folder, Recipe().date)
    words = min(len(codec.tokenizer), ModelShape.of(base.config).vocabulary)
    with verified_folder(output.absolute()) as written:
        library, reference = _reference(base, adapter, found, _random_rows(words), progress)
        with counting_bytes(progress, f"fuse into {base.name}", size_of(fused)) as advance:
            write_hf_folder(written, fused, base, FolderMetadata(list(codec.stops)), advance=advance)
        verifier = Verifier(progress, reference)
        comparisons = verifier.of_folder(written, (), codec)
        facts: dict[str, Any] = {"rir_mlx": __version__, "format": "hf", "reference": library}
        values = record(written, comparisons, **facts, adapter_effect=reference.effect)
    for comparison in comparisons:
        progress.say(comparison_line(comparison))
    return values


def _check_openable(found: ForeignAdapter) -> None:
    """Raises UserError if no installed library can open the adapter, and so nothing can be compared with it."""
    libraries = installed_libraries()
    if not libraries:
        raise UserError("Neither PyTorch nor MLX is installed.", hint=install_extra("torch"))
    if found.spec.fine_tune_type == "full" and "mlx-lm" not in libraries:
        raise UserError(
            "Only mlx-lm opens weights that were trained in full, and it is not installed.",
            hint="Install it. For a classifier of a run, use `rir-mlx export --to hf`, which does not need it.",
        )


def _random_rows(vocabulary: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, vocabulary, _LENGTH).tolist()) for _ in range(ROWS)]


def _reference(
    base: ModelFiles, adapter: Path, found: ForeignAdapter, rows: list[tuple[int, ...]], progress: Progress
) -> tuple[str, Reference]:
    """The library that opened the adapter, and the answers of base and adapter together."""
    with _openable(adapter, found) as (library, folder), only_its_weights(base.folder) as shown:
        name = name_of(library, folder)
        progress.say(f"Asking base and adapter with {name} …")
        probe = Probe((), rows, limit=most_tokens(base.config, longest_of(library, base.config)))
        before = answer_rows(open_engine(library, shown), probe)
        release_memory()
        answers = engine_answers(open_engine(library, shown, folder), probe)
        release_memory()
        return name, Reference(probe, answers, mean_difference(before, answers.rows))


@contextmanager
def _openable(adapter: Path, found: ForeignAdapter) -> Iterator[tuple[Library, Path]]:
    """The adapter and its own library, if that is installed and opens the folder as it is; else the adapter converted,
    for its own library or, where only that is installed, for the other."""
    form = found.ecosystem
    if _LOADERS[form] not in installed_libraries():
        form = "mlx" if form == "peft" else "peft"
    elif found.as_stored:
        yield _LOADERS[form], adapter
        return
    with tempfile.TemporaryDirectory() as temporary:
        convert_adapter(adapter, Path(temporary) / "adapter", form)
        yield _LOADERS[form], Path(temporary) / "adapter"
