"""A classifier as a folder in Hugging Face format, written whole or not at all, and proven by loading it back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rir_convert.fuse import fused_tensors
from rir_convert.weights import Weights, save_weights
from rir_mlx.backends.base import AdapterSpec, Backend, Model, Tokens
from rir_mlx.errors import Failure
from rir_mlx.models import ModelFiles, rope_for_both
from rir_mlx.run import replacing

_COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "LICENSE*")
BOUNDS = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""Largest mean difference of log-probabilities, by the number format that the weights are written in: float32 leaves
the order of summation; the shorter formats round every fused weight once."""
SAME_CHOICE = 0.9
"""Smallest share of positions whose likeliest token is the same."""


@dataclass(frozen=True)
class Verification:
    """The exported folder against the adapter model, on the same tokens: absolute differences of log-probabilities,
    and the share of positions whose likeliest token is the same."""

    engine: str
    sequences: int
    tokens: int
    max_difference: float
    mean_difference: float
    same_choice: float
    bound: float

    @property
    def passed(self) -> bool:
        close = self.mean_difference <= self.bound and bool(np.isfinite(self.max_difference))
        return close and self.same_choice >= SAME_CHOICE


def write_hf_folder(
    folder: Path, base: ModelFiles, adapter: tuple[AdapterSpec, Mapping[str, np.ndarray]], about: Mapping[str, Any]
) -> None:
    """Fuse `adapter` into `base` at `folder`: weights, config, generation config, tokenizer, chat template.

    `about` holds `labels`, `eos_token_id` and `rir_mlx`, what is needed to ask the model as it was trained."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        weights = Weights(base.folder)
        if base.config.get("tie_word_embeddings"):
            weights.places.pop("lm_head.weight", None)  # some folders store the tied embedding twice
        save_weights(dict(fused_tensors(weights, *adapter)), temporary / "model.safetensors")
        config = base.config | rope_for_both(base.config) | {"eos_token_id": about["eos_token_id"]}
        config |= {
            "id2label": dict(enumerate(about["labels"])),
            "label2id": {label: index for index, label in enumerate(about["labels"])},
            "rir_mlx": about["rir_mlx"],
        }
        _write(temporary / "config.json", config)
        _write(temporary / "generation_config.json", _generation_config(base.folder, about["eos_token_id"]))
        for pattern in _COPIED:
            for path in base.folder.glob(pattern):
                shutil.copyfile(path, temporary / path.name)


def _generation_config(folder: Path, eos: Sequence[int]) -> dict[str, Any]:
    path = folder / "generation_config.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values | {"eos_token_id": list(eos)}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def verify(folder: Path, trained: Model, backend: Backend, sequences: Sequence[Tokens], *, dtype: str) -> Verification:
    """Load the folder back and compare it with the adapter model, both computing in float32.

    `dtype` is the number format of the written weights. Raises Failure beyond its bound."""
    exported = backend.load(folder, dtype="float32")
    differences, same, count = [], 0, 0
    for tokens in sequences:
        ours, theirs = _log_softmax(trained.logits(tokens)), _log_softmax(exported.logits(tokens))
        differences.append(np.abs(ours - theirs).max(axis=-1))
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        count += len(tokens)
    every = np.concatenate(differences)
    result = Verification(
        engine=backend.name,
        sequences=len(sequences),
        tokens=count,
        max_difference=float(every.max()),
        mean_difference=float(every.mean()),
        same_choice=same / count,
        bound=BOUNDS[dtype],
    )
    if not result.passed:
        raise Failure(
            f"{folder} is not the model that was trained: its log-probabilities differ by "
            f"{result.mean_difference:.3g} on average ({result.bound:g} is allowed for {dtype}), and the likeliest "
            f"token is the same at {result.same_choice:.1%} of positions ({SAME_CHOICE:.0%} is asked).",
            mend="Do not use this folder. Please report this, with the recipe.",
        )
    _write(folder / "verification.json", asdict(result) | {"passed": result.passed})
    return result


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
