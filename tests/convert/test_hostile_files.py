"""Files that a stranger wrote: a weight file whose header lies, an adapter whose patterns never end."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rir_convert.adapters import read_any
from rir_convert.weights.tensors import Weights, save_weights

from rir_mlx.errors import ModelError


def weight_file(path: Path, header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | changes}


def test_an_honest_header_is_read(tmp_path: Path) -> None:
    Weights(weight_file(tmp_path / "a.safetensors", entry() | {"__metadata__": None}))  # as MLX writes it
    weights = Weights(weight_file(tmp_path / "a.safetensors", entry() | {"__metadata__": {"format": "pt"}}))
    assert weights["w"].tolist() == np.zeros((4, 4)).tolist()


def test_a_single_number_is_written_and_read_as_one(tmp_path: Path) -> None:
    """It was refused, because NumPy makes a row of it on the way."""
    save_weights({"scale": np.ones((), np.float32)}, tmp_path / "a.safetensors")
    assert Weights(tmp_path / "a.safetensors")["scale"].shape == ()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (entry(data_offsets=[-64, 0]), "lies at [-64, 0]"),
        (entry(data_offsets=[64, 0]), "lies at [64, 0]"),
        (entry(data_offsets=[0, 64, 64]), "lies at [0, 64, 64]"),
        (entry(data_offsets=[0.0, 64.0]), "lies at [0.0, 64.0]"),
        (entry(data_offsets=None), "lies at None"),
        (entry(data_offsets=[0, 32]), "does not take 32 bytes"),
        (entry(data_offsets=[64, 128]), "leave a gap at byte 0"),
        (entry(shape=[8, 4], data_offsets=[0, 128]), "ends before its last tensor"),
        (entry(shape=[2, 4], data_offsets=[0, 32]), "32 bytes at its end belong to no tensor"),
        (entry() | {"v": entry()["w"]}, "overlap or leave a gap at byte 0"),
        (b'{"__metadata__": {"a": "\\ud800"}}', "surrogates not allowed"),
        (b'{"w": 1, "w": 2}', "names a tensor twice"),
        (entry() | {"__metadata__": False}, "__metadata__ holds something else"),
        (entry(shape=[-4, -4]), "has the shape [-4, -4]"),
        (entry(shape=[True, 16]), "has the shape [True, 16]"),
        (entry(shape=[2**40, 2**40]), "does not take 64 bytes"),
        (entry(shape=[0, 2**62], data_offsets=[0, 0]), "which no array can have"),
        (entry(dtype=7), "describes no tensor"),
        ({"w": [1]}, "describes no tensor"),
        ([], "no JSON object"),
        (b"[" * 100_000, "damaged"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, words: str) -> None:
    """Negative offsets were mapped from before the tensors, and a tensor could be read from its neighbour's bytes."""
    with pytest.raises(ModelError, match=re.escape(words)):
        Weights(weight_file(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("length", [2**63, 10**12, 5000])
def test_a_header_of_any_size_is_not_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelError, match="longer than the file"):
        Weights(weight_file(tmp_path / "a.safetensors", entry(), length=length))


def test_a_header_larger_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    path = weight_file(tmp_path / "a.safetensors", entry(), length=200_000_000)
    with path.open("r+b") as file:
        file.truncate(300_000_000)  # sparse: no byte of it is written
    with pytest.raises(ModelError, match="200,000,000 bytes, more than"):
        Weights(path)


def peft_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    module = f"base_model.model.model.layers.0.{'a' * 40}.q_proj"
    tensors = {
        f"{module}.lora_A.weight": np.ones((2, 4), np.float32),
        f"{module}.lora_B.weight": np.ones((4, 2), np.float32),
    }
    save_weights(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]} | config
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def test_a_pattern_of_peft_is_read(tmp_path: Path) -> None:
    found = read_any(peft_folder(tmp_path / "a", rank_pattern={"q_pro.": 2}, alpha_pattern={"q_proj": 8}))
    assert (found.spec.rank, found.spec.scale) == (2, 4.0)


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_takes_long_is_refused_at_once(tmp_path: Path, key: str) -> None:
    """`(a|a)*b` on forty letters tries 2⁴⁰ ways."""
    folder = peft_folder(tmp_path / "a", **{key: {"layers.0.(a|a|aa)*b": 2}})
    begun = time.process_time()
    with pytest.raises(ModelError, match=rf"in {key} takes too long"):
        read_any(folder)
    assert time.process_time() - begun < 2


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="which is no pattern"):
        read_any(peft_folder(tmp_path / "a", rank_pattern={"(": 2}))
