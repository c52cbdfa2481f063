"""Writes a fused Llama as one GGUF file for llama.cpp, Ollama and LM Studio, and reads its tensors back.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, written by the `gguf` package. llama.cpp rotates
neighbouring pairs where transformers rotates halves, so the rows of q_proj and k_proj change places.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rir_convert.gguf.vocabulary import ELSEWHERE, add_vocabulary, read_vocabulary
from rir_convert.weights.tensors import Advance, Tensors, Weights
from rir_mlx.errors import ModelError, UserError, install_extra
from rir_mlx.models.config import read_config
from rir_mlx.models.families import rope_for_both
from rir_mlx.types import GgufType

BYTES: dict[GgufType, float] = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
"""Of a number."""
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def check_installed() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError("GGUF files need the gguf package.", hint=install_extra("gguf"))


def check_family(config: dict[str, Any], tokenizer: Path) -> None:
    """Whether a model with this config and this tokenizer.json can be written. Reads no weights.

    Raises ModelError, naming what is not known here, and UserError without the gguf package."""
    check_installed()
    _check(config)
    rope_factors(config)
    read_vocabulary(tokenizer, config)


def check_weights(weights: Tensors, config: dict[str, Any], kind: GgufType) -> None:
    """Whether these weights can be written as `kind`. Reads names and shapes alone. Raises ModelError."""
    if odd := sorted(set(weights) ^ set(_names(config))):
        raise ModelError(f"The model is not a complete Llama: {odd[0]} is missing or unexpected.", hint=ELSEWHERE)
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
    """Write the Llama in `source` as `path`, its matrices as `kind` and its vectors in float32. `weights` replace the
    folder's: from float32 they are rounded only once. One tensor is in memory at a time; `advance` receives the bytes
    written.

    Raises ModelError if any part of the model is unknown here, UserError without the gguf package."""
    config = read_config(source)
    check_family(config, source / "tokenizer.json")
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quant_shape_to_byte_shape, quantize

    weights = weights or Weights(source)
    check_weights(weights, config, kind)
    writer = GGUFWriter(path, "llama")
    _add_shape(writer, config, kind, path.name.removesuffix(".gguf").removesuffix(f".{kind}"))
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
        writer.add_tensor_info(_gguf_name(tensor), raw, dtype, math.prod(stored), form)
    if frequencies is not None:
        writer.add_tensor_info("rope_freqs.weight", frequencies.shape, frequencies.dtype, frequencies.nbytes, full)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in names:
        array = np.asarray(weights[tensor], dtype=np.float32)
        if (heads := _heads(tensor, config)) is not None:
            array = permute(array, heads)
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

    names = {_gguf_name(name): name for name in _names(config)}
    for tensor in GGUFReader(path).tensors:
        if tensor.name not in names:
            continue
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        array = array.reshape([int(size) for size in reversed(tensor.shape)])
        heads = _heads(names[tensor.name], config)
        yield names[tensor.name], array if heads is None else permute(array, heads, back=True)


def permute(weight: np.ndarray, heads: int, *, back: bool = False) -> np.ndarray:
    """Rows of a head from halves (transformers) to neighbouring pairs (llama.cpp), or back. `weight` is (out, in)."""
    size = weight.shape[0] // heads
    shape = (heads, size // 2, 2, -1) if back else (heads, 2, size // 2, -1)
    return weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)


def rope_factors(config: dict[str, Any]) -> np.ndarray | None:
    """[head_dim / 2] what each rotary frequency is divided by (Llama 3.1's scaling); None without scaling.

    Raises ModelError for another scaling than llama3's."""
    rope = rope_for_both(config)
    if (scaling := rope["rope_scaling"]) is None:
        return None
    if (kind := scaling.get("rope_type", scaling.get("type"))) != "llama3":
        raise ModelError(f"Rotary scaling of the kind {kind} cannot be written here.", hint=ELSEWHERE)
    size = _head_size(config)
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, size, 2, dtype=np.float64) / size)
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(scaling["original_max_position_embeddings"])
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), dtype=np.float32)


def _check(config: dict[str, Any]) -> None:
    if config["model_type"] != "llama":
        raise ModelError(
            f"GGUF files are written for Llama models alone, and this one is of the type {config['model_type']}.",
            hint=ELSEWHERE,
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"Llamas with {config['hidden_act']} cannot be written here.", hint=ELSEWHERE)
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ModelError("Llamas with biases cannot be written here.", hint=ELSEWHERE)


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _names(config: dict[str, Any]) -> Iterator[str]:
    tied = config.get("tie_word_embeddings")
    yield from (f"{module}.weight" for module in _OUTSIDE if not (tied and module == "lm_head"))
    for layer in range(config["num_hidden_layers"]):
        yield from (f"model.layers.{layer}.{module}.weight" for module in _BLOCK)


def _gguf_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if module in _OUTSIDE:
        return f"{_OUTSIDE[module]}.weight"
    layer, _, rest = module.removeprefix("model.layers.").partition(".")
    if rest not in _BLOCK:
        raise ModelError(f"{name} has no place in a GGUF file of a Llama.", hint=ELSEWHERE)
    return f"blk.{layer}.{_BLOCK[rest]}.weight"


def _heads(name: str, config: dict[str, Any]) -> int | None:
    """The number of heads whose rows are permuted; None for other weights."""
    if name.endswith("q_proj.weight"):
        return int(config["num_attention_heads"])
    if name.endswith("k_proj.weight"):
        return int(config.get("num_key_value_heads") or config["num_attention_heads"])
    return None


def _add_shape(writer: Any, config: dict[str, Any], kind: GgufType, name: str) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_name(name)
    writer.add_type("model")
    writer.add_file_type(LlamaFileType[types[kind]])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    size = _head_size(config)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(rope_for_both(config)["rope_theta"]))
