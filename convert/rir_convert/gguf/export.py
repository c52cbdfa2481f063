"""The GGUF file and the Modelfile of an export, and their verification with llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rir_convert.gguf.architectures import architecture_of
from rir_convert.gguf.llama_cpp import LlamaCpp, available, open_llama_cpp
from rir_convert.gguf.modelfile import around, joint_ids, modelfile
from rir_convert.gguf.writer import BYTES, gguf_tensors, write_gguf
from rir_convert.trained_arm import TrainedArm
from rir_convert.verification.comparison import CANNOT_RUN, EngineComparison, unusable
from rir_convert.verification.verifier import Verifier
from rir_convert.weights.tensors import Tensors, size_of
from rir_mlx.backends.base import Tokens
from rir_mlx.models.config import read_config
from rir_mlx.progress import counting_bytes
from rir_mlx.prompting.room import longest_answer
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
    and tokenizer come from the folder `source`. The tensors are read back and compared; so are llama.cpp's answers
    and the ids that it gives to prompts, if a package that runs it is installed."""
    context = trained.context
    path.parent.mkdir()
    kind: GgufType = path.suffixes[-2][1:]  # type: ignore[assignment]
    with counting_bytes(context.progress, f"write {path.name}", size_of(weights) / 4 * BYTES[kind]) as advance:
        write_gguf(source, path, kind, weights=weights, advance=advance)
    before, after = _write_modelfile(trained, path)
    differs, layer = _first_tensor(path, read_config(source), weights, kind)
    found = [f"{layer} differs by {differs:.2g} of its size"] if layer else []
    if not available():
        context.progress.say("Neither xllamacpp nor llama-cpp-python is installed: the tensors were compared alone.")
        found += _other_ids(trained, lambda text: joint_ids(trained.codec, text, before, after))
        alone = "the file's tensors, read back by the gguf package: no answers were compared"
        return [
            EngineComparison(
                "gguf tensors", mean_difference=differs, first_difference=layer, faults=tuple(found), forward=alone
            )
        ]
    try:
        with closing(open_llama_cpp(path, verifier.reference.probe.longest + 1)) as engine:
            found += _other_ids(trained, lambda text: engine.tokenize(before + text + after))
            half = kind == "f32" and architecture_of(read_config(source)).half_gelu
            return [_compared(engine, verifier, "float16" if half else _KINDS[kind], found)]
    except CANNOT_RUN as error:
        return [unusable("llama.cpp", error, found)]


def _compared(engine: LlamaCpp, verifier: Verifier, number_format: str, found: Sequence[str]) -> EngineComparison:
    answers = verifier.answers(engine, "llama.cpp")
    told = "; of each position the likeliest tokens are compared" if engine.partial else ""
    return replace(verifier.judge("llama.cpp", answers, number_format, found), forward=engine.forward + told)


def _write_modelfile(trained: TrainedArm, path: Path) -> tuple[str, str]:
    """Write the Modelfile beside a GGUF file, and return the prompt before and after a row's text."""
    codec = trained.codec
    prompt = trained.prompts[0][0]
    limit = longest_answer(codec, trained.task, trained.arm)
    text = modelfile(codec, prompt, path.name, max_tokens=limit, context=trained.task.max_seq_length)
    (path.parent / "Modelfile").write_text(text, encoding="utf-8")
    return around(codec, prompt)


def _other_ids(trained: TrainedArm, tokenize: Callable[[str], Tokens]) -> list[str]:
    """What is wrong if too few of the run's prompts get the ids of training from `tokenize`, as one string."""
    same = [tokenize(asked.text) == ids for asked, ids in trained.prompts]
    share = float(np.mean(same))
    trained.context.progress.say(f"The Modelfile's template gives the ids of training for {share:.1%} of the prompts.")
    return [] if share >= _JOINT else [f"the Modelfile gives other ids than in training for {1 - share:.1%} of prompts"]


def _first_tensor(path: Path, config: dict[str, Any], weights: Tensors, kind: GgufType) -> tuple[float, str | None]:
    """The largest relative difference between tensor and weight, and the first tensor that differs by too much."""
    seen, worst, first, known = set(), 0.0, None, architecture_of(config)
    for name, tensor in gguf_tensors(path, config):
        expected = np.asarray(weights[name], dtype=np.float32)
        seen.add(name)
        off = float("inf")
        if tensor.shape == expected.shape:
            size = float(np.linalg.norm(known.stored(name, expected, config)))  # an offset is rounded with the weight
            off = float(np.linalg.norm(np.subtract(tensor, expected, out=tensor))) / (size or 1.0)  # biases may be 0
        if not off <= _ROUNDED[kind] and first is None:
            first = name
        worst = max(worst, float(off))
    missing = sorted(set(weights) - seen)
    return worst, first or (missing[0] if missing else None)
