"""The GGUF file and the Modelfile of an export, and their verification with llama.cpp."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rir_convert.gguf.llama_cpp import LlamaCpp, available
from rir_convert.gguf.modelfile import around, joint_ids, modelfile
from rir_convert.gguf.writer import BYTES, gguf_tensors, write_gguf
from rir_convert.trained_arm import TrainedArm
from rir_convert.verification.comparison import CANNOT_RUN, EngineComparison, unusable
from rir_convert.verification.probe import engine_answers
from rir_convert.verification.verifier import Verifier
from rir_convert.weights.tensors import Tensors, size_of
from rir_mlx.models.config import read_config
from rir_mlx.progress import counting_bytes
from rir_mlx.types import GgufType

_KINDS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "q8_0"}
_ROUNDED: dict[GgufType, float] = {"f32": 1e-7, "f16": 1e-3, "bf16": 8e-3, "q8_0": 2e-2}
"""Largest relative difference of a tensor that the number format explains."""
_JOINT = 0.9
"""Share of prompts that must give the same ids as one string; a text that begins with a line break does not."""


def export_gguf(
    source: Path, weights: Tensors, path: Path, verifier: Verifier, trained: TrainedArm
) -> list[EngineComparison]:
    """Write `weights`, which are float32, as the GGUF file `path` (NAME.TYPE.gguf), and a Modelfile beside it. Config
    and tokenizer come from the folder `source`. The tensors are read back and compared; so are llama.cpp's answers, if
    llama-cpp-python is installed."""
    context = trained.context
    path.parent.mkdir()
    kind: GgufType = path.suffixes[-2][1:]  # type: ignore[assignment]
    with counting_bytes(context.progress, f"write {path.name}", size_of(weights) / 4 * BYTES[kind]) as advance:
        write_gguf(source, path, kind, weights=weights, advance=advance)
    found = _write_modelfile(verifier, trained, path)
    differs, layer = _first_tensor(path, read_config(source), weights, kind)
    found += [f"{layer} differs by {differs:.2g} of its size"] if layer else []
    if not available():
        context.progress.say("llama-cpp-python is missing or too old: the tensors were compared, not the answers.")
        alone = "the file's tensors, read back by the gguf package: no answers were compared"
        return [
            EngineComparison(
                "gguf tensors", mean_difference=differs, first_difference=layer, faults=tuple(found), forward=alone
            )
        ]
    try:
        with closing(LlamaCpp(path, verifier.reference.probe.longest)) as engine:
            reference = verifier.reference
            answers = engine_answers(engine, reference.probe, reference.answers.scores)
            compared = verifier.judge("llama.cpp", answers, _KINDS[kind], found)
            return [replace(compared, forward="llama.cpp's own llama_decode, through llama-cpp-python")]
    except CANNOT_RUN as error:
        return [unusable("llama.cpp", error, found)]


def _write_modelfile(verifier: Verifier, trained: TrainedArm, path: Path) -> list[str]:
    """Write the Modelfile beside a GGUF file, and count the prompts whose ids as one string are those of training."""
    codec = trained.codec
    prompt = trained.prompts[0][0]
    limit = trained.task.max_reasoning_tokens + max(len(option) for option in verifier.reference.probe.options)
    text = modelfile(codec, prompt, path.name, max_tokens=limit, context=trained.task.max_seq_length)
    (path.parent / "Modelfile").write_text(text, encoding="utf-8")
    before, after = around(codec, prompt)
    same = [joint_ids(codec, asked.text, before, after) == ids for asked, ids in trained.prompts]
    share = float(np.mean(same))
    trained.context.progress.say(f"The Modelfile's template gives the ids of training for {share:.1%} of the prompts.")
    return [] if share >= _JOINT else [f"the Modelfile gives other ids than in training for {1 - share:.1%} of prompts"]


def _first_tensor(path: Path, config: dict[str, Any], weights: Tensors, kind: GgufType) -> tuple[float, str | None]:
    """The largest relative difference between tensor and weight, and the first tensor that differs by too much."""
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
