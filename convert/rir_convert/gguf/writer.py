"""Writes a fused model as one GGUF file for llama.cpp, Ollama and LM Studio, and reads its tensors back.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, written by the `gguf` package.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rir_convert.gguf.architectures import ELSEWHERE, add_architecture, architecture_of, rope_factors
from rir_convert.gguf.vocabulary import add_vocabulary, read_vocabulary
from rir_convert.weights.tensors import Advance, Tensors, Weights
from rir_mlx.errors import ModelError, UserError, install_extra
from rir_mlx.models.config import read_config
from rir_mlx.types import GgufType

BYTES: dict[GgufType, float] = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
"""Of a number."""


def check_installed() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError("GGUF files need the gguf package.", hint=install_extra("gguf"))


def check_family(config: dict[str, Any], tokenizer: Path) -> None:
    """Whether a model with this config and this tokenizer.json can be written. Reads no weights.

    Raises ModelError, naming what is not known here, and UserError without the gguf package."""
    check_installed()
    architecture_of(config)
    read_vocabulary(tokenizer, config)


def check_weights(weights: Tensors, config: dict[str, Any], kind: GgufType) -> None:
    """Whether these weights can be written as `kind`. Reads names and shapes alone. Raises ModelError."""
    known = architecture_of(config)
    if odd := sorted(set(weights) ^ {name for name, _ in known.tensors(config)}):
        raise ModelError(
            f"The model has not the tensors that {known.title} have: {odd[0]} is missing or unexpected.",
            hint=ELSEWHERE,
        )
    for tensor in weights if kind == "q8_0" else ():
        _, shape = weights.form(tensor)
        if len(shape) > 1 and shape[-1] % 32:
            raise ModelError(f"{tensor} is {shape[-1]} wide, which blocks of 32 do not divide.", hint="Use f16.")


def write_gguf(
    source: Path,
    path: Path,
    kind: GgufType,
    *,
    weights: Tensors | None = None,
    advance: Advance = lambda _: None,
) -> None:
    """Write the model in `source` as `path`, its matrices as `kind` and its vectors in float32. `weights` replace the
    folder's: from float32 they are rounded only once. One tensor is in memory at a time; `advance` receives the bytes
    written.

    Raises ModelError if any part of the model is unknown here, UserError without the gguf package."""
    config = read_config(source)
    check_family(config, source / "tokenizer.json")
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quant_shape_to_byte_shape, quantize

    weights = weights or Weights(source)
    check_weights(weights, config, kind)
    known = architecture_of(config)
    writer, renamed = GGUFWriter(path, known.name), dict(known.tensors(config))
    _add_about(writer, kind, path.name.removesuffix(".gguf").removesuffix(f".{kind}"))
    add_architecture(writer, config)
    add_vocabulary(writer, source, config)
    frequencies = rope_factors(config)
    whole, full = GGMLQuantizationType[kind.upper()], GGMLQuantizationType.F32
    names = list(weights)
    for tensor in names:
        _, shape = weights.form(tensor)
        form = full if len(shape) == 1 else whole
        stored = quant_shape_to_byte_shape(shape, form)
        dtype = np.dtype(np.uint8) if form not in (full, GGMLQuantizationType.F16) else np.dtype(np.float32)
        raw = stored if dtype == np.uint8 else shape
        writer.add_tensor_info(renamed[tensor], raw, dtype, math.prod(stored), form)
    if frequencies is not None:
        writer.add_tensor_info("rope_freqs.weight", frequencies.shape, frequencies.dtype, frequencies.nbytes, full)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in names:
        array = known.stored(tensor, np.asarray(weights[tensor], dtype=np.float32), config)
        form = full if array.ndim == 1 else whole
        if form is GGMLQuantizationType.F16 and max(array.max(), -array.min()) > np.finfo(np.float16).max:
            raise ModelError(
                f"{tensor} holds numbers outside of float16's range.", hint="Write it with --gguf-type bf16."
            )
        written = quantize(array, form)
        writer.write_tensor_data(np.ascontiguousarray(written))
        advance(written.nbytes)
    if frequencies is not None:
        writer.write_tensor_data(frequencies)
    writer.close()


def gguf_tensors(path: Path, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a file under transformers' names, in its layout and in float32. `config` is that of the folder
    from which it was written."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    known = architecture_of(config)
    names = {stored: name for name, stored in known.tensors(config)}
    for tensor in GGUFReader(path).tensors:
        if tensor.name not in names:
            continue
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        array = array.reshape([int(size) for size in reversed(tensor.shape)])
        yield names[tensor.name], known.stored(names[tensor.name], array, config, back=True)


def _add_about(writer: Any, kind: GgufType, name: str) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_name(name)
    writer.add_type("model")
    writer.add_file_type(LlamaFileType[types[kind]])
    writer.add_quantization_version(GGML_QUANT_VERSION)
