"""Which files of a model folder hold its weights, and which tensors in them belong to the model.

A folder may hold more than one model: Meta's names beside Hugging Face's, or shards that an earlier save left behind.
The index says which files count. Libraries differ in what they read instead (mlx-lm every `model*.safetensors`,
transformers a `model.safetensors` before the index), so they are shown a folder without the other files.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_FLOATS = re.compile(r"(B?F\d|U32$|float|bfloat|uint32)")
"""How safetensors and MLX name the formats of weights. U32 holds the packed numbers of MLX."""
_BUFFERS = re.compile(
    r"""
      (^|\.)(\w*inv_freq | cos_cached | sin_cached)     # rotary angles, which the config gives
    | (^|\.)attn(\.attention)?\.(masked_)?bias          # the causal mask of GPT-2, GPT-J and GPT-Neo
    """,
    re.VERBOSE,
)
_SYSTEM_ERROR = re.compile(r"os error (\d+)")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte)\.weight$")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the folder's weights, in the order of their names.

    Raises ModelError if there are none, if the index cannot be read or names a file that is not there, and if
    several files lie side by side without an index."""
    index = folder / INDEX
    if index.is_file():
        return _named(folder, index)
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if not found:
        raise ModelError(
            f"{folder} holds no .safetensors weights.", hint="Other formats can run code when they are read."
        )
    raise ModelError(
        f"{folder} holds {', '.join(found[:3])}{' …' if len(found) > 3 else ''}, and neither {SINGLE} nor {INDEX}, "
        "which say what the weights are.",
        hint="Fetch the missing file, or save the model again with transformers' save_pretrained.",
    )


def _named(folder: Path, index: Path) -> tuple[Path, ...]:
    """The files that an index names."""
    try:
        names = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
        odd = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read as an index of weights: {error!r}") from error
    if odd or not names:
        raise ModelError(f"{index} names {odd[0]!r}, which is no file beside it." if odd else f"{index} names no file.")
    files = tuple(folder / name for name in sorted(names))
    if missing := [path.name for path in files if not path.is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{folder} lacks {missing[0]}{more}, which {INDEX} names.",
            hint=f"Fetch the file again. If {SINGLE} holds the whole model, delete the index."
            if (folder / SINGLE).is_file() and SINGLE not in names
            else "Fetch the file again.",
        )
    return files


def is_buffer(name: str, number_format: str) -> bool:
    """Whether a stored tensor is something that the model computes for itself: rotary angles, a mask, positions.
    `number_format` is as safetensors (`I64`) or MLX (`mlx.core.int64`) names it."""
    if _BUFFERS.search(name):
        return True
    kind = number_format.rpartition(".")[2]
    return _FLOATS.match(kind) is None and name.rpartition(".")[2] not in ("weight", "bias")


def check_weights(folder: Path, config: Mapping[str, Any]) -> tuple[Path, ...]:
    """The folder's weight files, whose headers agree with its config.

    Raises ModelError as `weight_files` does, for a file that is damaged, for weights that are integers although the
    config names no quantisation, and for an embedding with another number of rows than the config says."""
    from safetensors import SafetensorError, safe_open

    files = weight_files(folder)
    quantised = config.get("quantization") or config.get("quantization_config")
    for path in files:
        try:
            with safe_open(path, "numpy") as file:
                for name in file.keys():  # noqa: SIM118  no dictionary
                    tensor = file.get_slice(name)
                    dtype, shape = tensor.get_dtype(), tensor.get_shape()
                    if not quantised and not is_buffer(name, dtype) and not re.match(r"B?F\d", dtype):
                        raise ModelError(
                            f"{path}: {name} is stored as {dtype}, and config.json names no quantisation.",
                            hint="Name the model's bfloat16, float16 or float32 version.",
                        )
                    _check_rows(path, name, shape, config.get("vocab_size"))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} is damaged or cut: {error}", hint="Fetch the file again.") from error
    return files


def _check_rows(path: Path, name: str, shape: Sequence[int], vocabulary: Any) -> None:
    if _EMBEDDING.search(name) and isinstance(vocabulary, int) and shape and shape[0] != vocabulary:
        raise ModelError(
            f"{path}: the embedding has {shape[0]:,} rows, and config.json says vocab_size {vocabulary:,}.",
            hint=f"Write {shape[0]} into config.json where the embedding was resized, or fetch both files again.",
        )


def save_tensors(tensors: Mapping[str, np.ndarray], path: Path, made_for: str) -> None:
    """Write C-contiguous tensors as one safetensors file. Raises OSError if that fails."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(tensors), path, {"format": made_for})
    except SafetensorError as error:
        number = _SYSTEM_ERROR.search(str(error))  # the library names the system's error in words alone
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


@contextmanager
def only_its_weights(folder: Path) -> Iterator[Path]:
    """A folder in which every library reads the same weights: the folder itself, or, where other weight files lie in
    it, a temporary one with links to its JSON files and to the weights that count."""
    files = weight_files(folder)
    if set(folder.glob("*.safetensors")) == set(files):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rir-mlx-") as temporary:
        for path in (*folder.glob("*.json"), *files):
            (Path(temporary) / path.name).symlink_to(path.absolute())
        yield Path(temporary)
