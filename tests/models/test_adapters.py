"""An adapter folder is whole or refused in clear words, and replaced at once or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from rir_mlx.errors import Failure, ModelError
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.adapters import (
    CONFIG,
    MLX_WEIGHTS,
    PEFT_WEIGHTS,
    Adapter,
    read_adapter,
    to_peft,
    write_adapter,
)
from rir_mlx.models.hub import ModelFiles, resolve_model

SPEC = AdapterSpec("lora", num_layers=1, rank=2, scale=3.0, dropout=0.25, keys=("self_attn.q_proj",))
ABOUT = {"what": "classifier qra", "task": {"labels": {"joy": ""}}}


def some_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    at = "model.layers.1.self_attn.q_proj"
    shapes = {f"{at}.lora_a": (32, 2), f"{at}.lora_b": (2, 32)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path: Path, tiny_files: ModelFiles) -> Path:
    write_adapter(tmp_path / "adapter", Adapter(SPEC, some_tensors(), ABOUT), tiny_files)
    return tmp_path / "adapter"


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def test_what_was_written_is_read_back(folder: Path, tiny_files: ModelFiles) -> None:
    read = read_adapter(folder, tiny_files)
    assert read.spec == SPEC
    assert read.about == ABOUT
    assert read.tensors.keys() == some_tensors().keys()
    for name, tensor in some_tensors().items():
        np.testing.assert_array_equal(read.tensors[name], tensor)


def test_one_config_carries_the_keys_of_both_ecosystems(folder: Path, tiny_files: ModelFiles) -> None:
    config = json.loads((folder / CONFIG).read_text())
    assert config["fine_tune_type"] == "lora"
    assert config["num_layers"] == 1
    assert config["lora_parameters"] == {"rank": 2, "scale": 3.0, "dropout": 0.25, "keys": ["self_attn.q_proj"]}
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["use_dora"]) == ("LORA", 2, 6.0, False)
    assert config["target_modules"] == ["q_proj"]
    assert config["layers_to_transform"] == [1]
    assert config["base_model_name_or_path"] == str(tiny_files.folder)


def test_pefts_factors_are_the_transposed_ones() -> None:
    at, theirs = "model.layers.1.self_attn.q_proj", "base_model.model.model.layers.1.self_attn.q_proj"
    tensors = some_tensors() | {f"{at}.m": np.arange(32, dtype=np.float32)}
    renamed = to_peft(tensors)
    assert set(renamed) == {f"{theirs}.lora_A.weight", f"{theirs}.lora_B.weight", f"{theirs}.lora_magnitude_vector"}
    np.testing.assert_array_equal(renamed[f"{theirs}.lora_A.weight"], tensors[f"{at}.lora_a"].T)
    np.testing.assert_array_equal(renamed[f"{theirs}.lora_B.weight"], tensors[f"{at}.lora_b"].T)
    np.testing.assert_array_equal(renamed[f"{theirs}.lora_magnitude_vector"], tensors[f"{at}.m"])


@pytest.mark.parametrize("name", [CONFIG, MLX_WEIGHTS])
def test_a_missing_file_is_named(folder: Path, tiny_files: ModelFiles, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}") as refused:
        read_adapter(folder, tiny_files)
    assert str(folder) in str(refused.value)
    assert refused.value.hint


def test_a_folder_that_is_not_there_is_a_model_error(tmp_path: Path, tiny_files: ModelFiles) -> None:
    with pytest.raises(ModelError, match="lacks"):
        read_adapter(tmp_path / "nothing", tiny_files)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_cut_weights_are_refused(folder: Path, tiny_files: ModelFiles, share: float) -> None:
    weights = folder / MLX_WEIGHTS
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(ModelError, match="damaged or cut") as refused:
        read_adapter(folder, tiny_files)
    assert str(weights) in str(refused.value)
    assert "train again" in refused.value.hint


def test_an_adapter_of_another_base_is_refused(folder: Path, other: Path) -> None:
    """The other base has the same shapes: the adapter would load, and compute nonsense."""
    with pytest.raises(ModelError, match=r"was trained for .*, not for these weights of") as refused:
        read_adapter(folder, resolve_model(str(other)))
    assert str(other) in str(refused.value)
    assert "recipe's `model`" in refused.value.hint


def test_the_same_base_in_another_folder_is_accepted(folder: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "moved")
    assert read_adapter(folder, resolve_model(str(tmp_path / "moved"))).spec == SPEC


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", '{"rir_mlx": 3}', '{"rir_mlx": {}}'])
def test_a_config_that_is_none_is_refused(folder: Path, tiny_files: ModelFiles, text: str) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(ModelError, match=CONFIG):
        read_adapter(folder, tiny_files)


@pytest.mark.parametrize("key", ["base_fingerprint", "spec", "about"])
def test_a_missing_key_is_named(folder: Path, tiny_files: ModelFiles, key: str) -> None:
    edit_config(folder, lambda config: config["rir_mlx"].pop(key))
    with pytest.raises(ModelError, match=key):
        read_adapter(folder, tiny_files)


@pytest.mark.parametrize("key", ["fine_tune_type", "num_layers", "rank", "scale", "dropout", "keys"])
def test_a_missing_key_of_the_spec_is_named(folder: Path, tiny_files: ModelFiles, key: str) -> None:
    """A scale that is not there was taken for the default one: the adapter then silently computed other numbers."""
    edit_config(folder, lambda config: config["rir_mlx"]["spec"].pop(key))
    with pytest.raises(ModelError, match=key):
        read_adapter(folder, tiny_files)


def test_an_unknown_key_of_the_spec_is_named(folder: Path, tiny_files: ModelFiles) -> None:
    edit_config(folder, lambda config: config["rir_mlx"]["spec"].update(alpha=3))
    with pytest.raises(ModelError, match="alpha"):
        read_adapter(folder, tiny_files)


def test_a_config_without_the_name_of_its_base_is_a_model_error_for_another_base(folder: Path, other: Path) -> None:
    edit_config(folder, lambda config: config.pop("base_model_name_or_path"))
    with pytest.raises(ModelError):
        read_adapter(folder, resolve_model(str(other)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("failing", [MLX_WEIGHTS, PEFT_WEIGHTS])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_folder(
    folder: Path, tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    before = contents(folder)
    save = safetensors.numpy.save_file

    def save_some(tensors: Any, path: Path, metadata: Any) -> None:
        if Path(path).name == failing:
            Path(path).write_bytes(b"half of it")
            raise error
        save(tensors, path, metadata)

    monkeypatch.setattr(safetensors.numpy, "save_file", save_some)
    with pytest.raises(Failure if isinstance(error, OSError) else KeyboardInterrupt):
        write_adapter(folder, Adapter(SPEC, some_tensors(1), {}), tiny_files)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_a_last_rename_that_fails_leaves_the_old_folder(
    folder: Path, tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder is moved aside before the new one takes its place; between the two there is neither."""
    before, replace, refused = contents(folder), os.replace, []

    def replace_all_but_the_new_one(source: Path, target: Path) -> None:
        if Path(target) == folder and not refused:
            refused.append(source)
            raise OSError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_all_but_the_new_one)
    with pytest.raises(Failure, match="could not be written"):
        write_adapter(folder, Adapter(SPEC, some_tensors(1), {}), tiny_files)
    monkeypatch.undo()
    assert folder.is_dir()
    assert contents(folder) == before


def test_a_new_adapter_takes_the_place_of_the_old_one_whole(folder: Path, tiny_files: ModelFiles) -> None:
    (folder / "left over").write_text("x")
    spec = AdapterSpec("full")
    write_adapter(folder, Adapter(spec, {"model.norm.weight": np.ones(32, dtype=np.float32)}, {}), tiny_files)
    assert sorted(contents(folder)) == [CONFIG, MLX_WEIGHTS]
    assert read_adapter(folder, tiny_files).spec == spec
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
