"""Safetensors as NumPy arrays, tensor by tensor, bfloat16 included: read as maps of the file, written as they are made.

Nothing here holds more than one tensor in memory. Format: https://huggingface.co/docs/safetensors (8 bytes of header
length, a JSON header, the tensors).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json
from rir_mlx.models.families import ties_head
from rir_mlx.models.weight_files import INDEX, is_buffer, weight_files

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U32": np.uint32,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
SHARD_BYTES = 5 * 10**9
"""The largest weight file, as transformers splits them."""

_MOST_NUMBERS = 2**59
"""Of an array: beyond it, the bytes of the widest of them have no 64-bit number."""
_HEADER_BYTES = 100_000_000
"""The largest header that the format allows."""

Advance = Callable[[int], None]
"""Called with the number of bytes just written."""


class Tensors(Protocol):
    """Named tensors whose formats are known before they are read or computed."""

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str) -> np.ndarray: ...

    def form(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Number format and shape."""
        ...


class Weights:
    """The tensors of a model folder or a single file, memory-mapped and read on access. Of a folder's files, only those
    in its index count.

    Raises ModelError if a file is missing or damaged, or if two files hold the same tensor."""

    def __init__(self, place: Path) -> None:
        self.places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for path in [place] if place.is_file() else weight_files(place):
            start, header = _read_header(path)
            for name, entry in header.items():
                if name in self.places:
                    raise ModelError(f"{name} is in {self.places[name][0]} and in {path}.", hint="Fetch both again.")
                if name != "__metadata__":
                    self.places[name] = (path, start, entry)
        if not self.places:
            raise ModelError(f"{place} holds no .safetensors weights.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def buffers(self) -> set[str]:
        """What is stored beside the weights and belongs to no model: see `is_buffer`."""
        return {name for name, (_, _, entry) in self.places.items() if is_buffer(name, entry["dtype"])}

    def form(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        path, _, entry = self.places[name]
        if entry["dtype"] not in _DTYPES:
            raise ModelError(
                f"{name} in {path} is stored as {entry['dtype']}, which cannot be read here.",
                hint="Name the model's bfloat16, float16 or float32 version.",
            )
        return np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])

    def __getitem__(self, name: str) -> np.ndarray:
        path, start, entry = self.places[name]
        dtype, shape = self.form(name)
        if not prod(shape):
            return np.zeros(shape, dtype)  # nothing can be mapped
        return np.memmap(path, dtype, "r", start + entry["data_offsets"][0], shape)


class Dequantised:
    """The tensors of a folder that MLX quantised, each group of weights as scale · q + bias, in the scales' format.

    `config` is the folder's. Packed integers are a stream of bits, the lowest first, in 32-bit words."""

    def __init__(self, stored: Weights, config: Mapping[str, Any]) -> None:
        self.stored = stored
        self.given: dict[str, Any] = config.get("quantization") or {}
        method = (config.get("quantization_config") or {}).get("quant_method")
        mode = self.given.get("mode", "affine")
        if method or mode != "affine":
            raise ModelError(
                f"The base is quantised as {method or mode}, which cannot be dequantised here.",
                hint="Name the model's bfloat16 version, or one that mlx-lm quantised with 4 or 8 bits.",
            )

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.stored if not name.endswith((".scales", ".biases")))

    def form(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        dtype, shape = self.stored.form(name)
        if dtype != np.uint32:
            return dtype, shape
        scales, (rows, groups) = self.stored.form(self._of(name, "scales"))
        return scales, (rows, groups * self._setting(name, "group_size"))

    def __getitem__(self, name: str) -> np.ndarray:
        packed = self.stored[name]
        if packed.dtype != np.uint32:
            return packed
        dtype, (rows, columns) = self.form(name)
        bits = self._setting(name, "bits")
        if packed.shape[1] * 32 != columns * bits:
            raise ModelError(f"{name} does not hold {columns} numbers of {bits} bits a row, as the config says.")
        scales, biases = (self.stored[self._of(name, leaf)].astype(np.float32) for leaf in ("scales", "biases"))
        weight = np.empty((rows, columns), dtype)
        for start in range(0, rows, _ROWS):  # unpacked bits take eight times the memory of the weight
            part = slice(start, start + _ROWS)
            integers = _unpack(np.asarray(packed[part]), bits).reshape(-1, scales.shape[1], columns // scales.shape[1])
            values = integers * scales[part, :, None] + biases[part, :, None]
            weight[part] = values.reshape(-1, columns).astype(dtype)
        return weight

    def _of(self, name: str, leaf: str) -> str:
        other = f"{name.removesuffix('weight')}{leaf}"
        if other not in self.stored:
            raise ModelError(f"{name} is quantised, and {other} is not there.")
        return other

    def _setting(self, name: str, key: str) -> int:
        """mlx-lm writes settings of single layers beside those of all."""
        own = self.given.get(name.removesuffix(".weight"))
        settings = own if isinstance(own, dict) else self.given
        if key not in settings:
            raise ModelError(f"{name} is quantised, and the config does not say its {key}.")
        return int(settings[key])


_ROWS = 256


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """[rows, words] of 32 bits to [rows, words · 32 / bits] integers, as float32."""
    stream = np.unpackbits(packed.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    each = stream.reshape(len(packed), -1, bits).astype(np.float32)
    return np.asarray(each @ (2.0 ** np.arange(bits, dtype=np.float32)))


def base_weights(folder: Path, config: Mapping[str, Any]) -> Weights | Dequantised:
    """The weights of a model folder, dequantised where it is quantised, without buffers, and without the copy of a tied
    embedding that some folders store as the head."""
    stored = Weights(folder)
    buffers = stored.buffers()
    tied = ties_head(config)
    stored.places = {
        name: place
        for name, place in stored.places.items()
        if name not in buffers and not (tied and name.startswith("lm_head."))
    }
    quantised = config.get("quantization") or config.get("quantization_config")
    return Dequantised(stored, config) if quantised else stored


def size_of(tensors: Tensors) -> int:
    """Bytes of all of them."""
    return sum(_bytes(*tensors.form(name)) for name in tensors)


def _bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * prod(shape)


def write_shards(
    tensors: Tensors,
    folder: Path,
    *,
    made_for: str = "pt",
    advance: Advance = lambda _: None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model.safetensors`, or several files and their index if it would exceed `shard_bytes`.

    `made_for` is the `format` metadata without which transformers refuses a file. Each tensor is in memory only while
    it is written."""
    shards: list[list[str]] = [[]]
    held = 0
    for name in tensors:
        size = _bytes(*tensors.form(name))
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    if len(shards) == 1:
        _write_file(tensors, shards[0], folder / "model.safetensors", made_for, advance)
        return
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(tensors, names, folder / file, made_for, advance)
        index |= dict.fromkeys(names, file)
    about = {"metadata": {"total_size": size_of(tensors)}, "weight_map": dict(sorted(index.items()))}
    (folder / INDEX).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _write_file(tensors: Tensors, names: list[str], path: Path, made_for: str, advance: Advance) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": made_for}}
    place = 0
    # Wide number formats first, so that each tensor is aligned to its number's size.
    ordered = sorted(names, key=lambda name: (-tensors.form(name)[0].itemsize, name))
    for name in ordered:
        dtype, shape = tensors.form(name)
        end = place + _bytes(dtype, shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for name in ordered:
            dtype, shape = tensors.form(name)
            # In C order: safetensors stores raw memory, and a sum with a transposed array has Fortran order.
            # `ascontiguousarray` would make a row of a single number.
            tensor = np.asarray(tensors[name], order="C")
            if (tensor.dtype, tensor.shape) != (dtype, shape):
                raise ModelError(f"{name} came as {tensor.dtype} {tensor.shape}, not as {dtype} {shape}.")
            file.write(tensor.reshape(-1).view(np.uint8).data)
            advance(tensor.nbytes)


class InMemory(dict[str, np.ndarray]):
    """Tensors already in memory."""

    def form(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        return self[name].dtype, self[name].shape


def save_weights(tensors: Mapping[str, np.ndarray], path: Path, made_for: str = "pt") -> None:
    """Write tensors that are in memory as one file."""
    _write_file(InMemory(tensors), list(tensors), path, made_for, lambda _: None)


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a file begin, and its header.

    Raises ModelError unless every tensor lies within the file with as many bytes as its shape needs."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError("the header is longer than the file")
            if length > _HEADER_BYTES:
                raise ValueError(f"the header takes {length:,} bytes, more than the {_HEADER_BYTES:,} of the format")
            header = parse_json(file.read(length), object_pairs_hook=_distinct)
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        json.dumps(header, ensure_ascii=False).encode()  # no other reader accepts half a character
        about = header.get("__metadata__")
        if about is None:  # MLX writes null
            about = {}
        if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
            raise ValueError("the header's __metadata__ holds something else than texts")
        end = _check_cover(_place(name, entry) for name, entry in header.items() if name != "__metadata__")
        if 8 + length + end < size:
            raise ValueError(f"{size - 8 - length - end:,} bytes at its end belong to no tensor")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged or cut: {error}") from error
    if 8 + length + end > size:
        raise ModelError(f"{path} is cut: it ends before its last tensor.")
    return 8 + length, header


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises ValueError if a key comes twice: one tensor would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the header names a tensor twice")
    return found


def _check_cover(places: Iterable[tuple[int, int]]) -> int:
    """The end of the last tensor. Raises ValueError unless the tensors follow each other without a gap, as the format
    demands: one that overlaps another holds its neighbour's numbers."""
    at = 0
    for begin, end in sorted(places):
        if begin != at:
            raise ValueError(f"its tensors overlap or leave a gap at byte {min(begin, at):,}")
        at = end
    return at


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor lies, from its header entry. Raises ValueError for an entry that describes no tensor."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise ValueError(f"the header's entry of {name} describes no tensor")
    shape, offsets = _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name} has the shape {entry.get('shape')} and lies at {entry.get('data_offsets')}")
    if not prod(shape) and prod(filter(None, shape)) > _MOST_NUMBERS:
        raise ValueError(f"{name} has the shape {shape}, which no array can have")
    dtype, held = _DTYPES.get(entry["dtype"]), offsets[1] - offsets[0]
    if dtype is not None and held != _bytes(np.dtype(dtype), tuple(shape)):
        raise ValueError(f"{name} of shape {shape} in {entry['dtype']} does not take {held:,} bytes")
    return offsets[0], offsets[1]


def _sizes(values: Any) -> list[int] | None:
    """A list of whole numbers from 0, or None for anything else."""
    whole = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
    return values if whole else None
