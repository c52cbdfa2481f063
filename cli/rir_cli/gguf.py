"""The GGUF file and the Modelfile of an export, and what llama.cpp makes of them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rir_convert.gate import Comparison, ask, unreadable
from rir_convert.gguf import BYTES, gguf_tensors, write_gguf
from rir_convert.llama_cpp import LlamaCpp, available
from rir_convert.ollama import around, joint_ids, modelfile
from rir_convert.weights import Tensors, size_of

from rir_mlx.errors import ModelError
from rir_mlx.models.config import read_config
from rir_mlx.progress import counting_bytes
from rir_mlx.types import GgufType

if TYPE_CHECKING:
    from rir_cli.exporting import Asked, Exam

_KINDS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "q8_0"}
_ROUNDED: dict[GgufType, float] = {"f32": 1e-7, "f16": 1e-3, "bf16": 8e-3, "q8_0": 2e-2}
"""Largest difference of a tensor by its norm that the number format explains."""
_JOINT = 0.9
"""Share of prompts that must be the same as one string: a text that begins with a line break is another one."""


def export_gguf(
    source: Path, weights: Tensors, written: Path, kind: GgufType, asked: Asked, exam: Exam, name: str
) -> list[Comparison]:
    """Write the file and the Modelfile at `written`, of `weights` in float32 and of the config and tokenizer in
    `source`. The tensors are compared, read back, and the answers of llama.cpp where it is installed."""
    context = exam.context
    written.mkdir()
    path = written / f"{name}.{kind}.gguf"
    with counting_bytes(context.progress, f"write {path.name}", size_of(weights) / 4 * BYTES[kind]) as advance:
        write_gguf(source, path, kind, name=name, weights=weights, advance=advance)
    found = _of_modelfile(asked, exam, written, path.name)
    differs, layer = _first_tensor(path, read_config(source), weights, kind)
    found += [f"{layer} differs by {differs:.2g} of its size"] if layer else []
    if not available():
        context.progress.say("No llama-cpp-python, or an old one: the file's tensors were compared, not its answers.")
        return [Comparison("gguf tensors", 0, 0, None, differs, None, None, None, layer, tuple(found))]
    try:
        with closing(LlamaCpp(path, asked.probe.longest)) as engine:
            return [asked.judge("llama.cpp", ask(engine, asked.probe), _KINDS[kind], found)]
    except ModelError as error:
        return [unreadable("llama.cpp", error.what)]


def _of_modelfile(asked: Asked, exam: Exam, written: Path, file: str) -> list[str]:
    """Write it, and count on how many prompts one string gives the ids of training."""
    codec = exam.context.model.codec
    prompt = exam.prompts[0][0]
    limit = exam.task.max_reasoning_tokens + max(len(option) for option in asked.probe.options)
    text = modelfile(codec, prompt, file, max_tokens=limit, context=exam.task.max_seq_length)
    (written / "Modelfile").write_text(text, encoding="utf-8")
    before, after = around(codec, prompt)
    same = [joint_ids(codec, one.text, before, after) == ids for one, ids in exam.prompts]
    share = float(np.mean(same))
    exam.context.progress.say(f"The Modelfile's template gives the ids of training for {share:.1%} of the prompts.")
    return [] if share >= _JOINT else [f"the Modelfile gives other ids than in training for {1 - share:.1%} of prompts"]


def _first_tensor(path: Path, config: dict[str, Any], weights: Tensors, kind: GgufType) -> tuple[float, str | None]:
    """The largest difference of a tensor from its weight, by its norm, and the first that differs by too much."""
    seen, worst, first = set(), 0.0, None
    for name, tensor in gguf_tensors(path, config):
        expected = np.asarray(weights[name], dtype=np.float32)
        seen.add(name)
        off = float("inf")
        if tensor.shape == expected.shape:
            off = float(np.linalg.norm(np.subtract(tensor, expected, out=tensor)) / np.linalg.norm(expected))
        if not off <= _ROUNDED[kind] and first is None:
            first = name
        worst = max(worst, float(off))
    missing = sorted(set(weights) - seen)
    return worst, first or (missing[0] if missing else None)
