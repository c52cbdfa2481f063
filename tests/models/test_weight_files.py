"""What the index names is loaded, and nothing else; the fingerprint covers every byte of it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rir_convert.verification.engines.libraries import open_engine
from rir_convert.weights.tensors import base_weights
from safetensors.numpy import load_file, save_file

from rir_mlx.backends.base import Backend
from rir_mlx.errors import ModelError
from rir_mlx.models import fingerprint as fingerprints
from rir_mlx.models.hub import resolve_model
from rir_mlx.models.weight_files import INDEX, is_buffer, only_its_weights, weight_files

IDS = tuple(range(20, 40))
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(tiny: Path, folder: Path) -> Path:
    """The tiny model in two files and an index."""
    shutil.copytree(tiny, folder)
    tensors = load_file(tiny / "model.safetensors")
    names = sorted(tensors)
    index = {}
    for file, some in zip(SHARDS, (names[:9], names[9:]), strict=True):
        save_file({name: tensors[name] for name in some}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(some, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "model.safetensors").unlink()
    return folder


def stale(tiny: Path, path: Path, factor: float = 0.5) -> None:
    """Other numbers under the same names."""
    tensors = load_file(tiny / "model.safetensors")
    save_file({name: tensor * np.float32(factor) for name, tensor in tensors.items()}, path, {"format": "pt"})


STRAYS = ("model-00009-of-00009.safetensors", "model.safetensors", "consolidated.safetensors")


@pytest.mark.parametrize("stray", STRAYS)
def test_weights_that_the_index_does_not_name_are_not_loaded(
    framework: Backend, tiny: Path, tmp_path: Path, stray: str
) -> None:
    """mlx-lm reads every `model*.safetensors`, transformers a `model.safetensors` before the index."""
    folder = sharded(tiny, tmp_path / "base")
    fingerprint = resolve_model(str(folder)).fingerprint
    stale(tiny, folder / stray)
    assert [path.name for path in weight_files(folder)] == list(SHARDS)
    assert resolve_model(str(folder)).fingerprint == fingerprint
    expected = framework.load(tiny, dtype="float32").logits(IDS)
    np.testing.assert_array_equal(framework.load(folder, dtype="float32").logits(IDS), expected)
    with only_its_weights(folder) as shown:
        engine = open_engine("mlx-lm" if framework.name == "mlx" else "transformers", shown)
    np.testing.assert_allclose(next(engine.last_logits([IDS], len(IDS))), expected, atol=1e-4)
    stored = base_weights(folder, resolve_model(str(folder)).config)
    for name, tensor in load_file(tiny / "model.safetensors").items():
        np.testing.assert_array_equal(stored[name], tensor)


def test_a_copy_under_other_names_beside_the_only_weight_file_is_not_loaded(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    stale(tiny, tmp_path / "base" / "consolidated.safetensors")
    assert [path.name for path in weight_files(tmp_path / "base")] == ["model.safetensors"]
    with only_its_weights(tmp_path / "base") as shown:
        assert [path.name for path in shown.glob("*.safetensors")] == ["model.safetensors"]
        assert (shown / "config.json").is_file()
    assert not shown.exists()


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_named(tiny: Path, tmp_path: Path) -> None:
    folder = sharded(tiny, tmp_path / "base")
    (folder / SHARDS[1]).unlink()
    with pytest.raises(ModelError, match=f"lacks {SHARDS[1]}, which {INDEX} names"):
        resolve_model(str(folder))


def test_shards_without_an_index_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = sharded(tiny, tmp_path / "base")
    (folder / INDEX).unlink()
    with pytest.raises(ModelError, match=f"and neither model.safetensors nor {INDEX}"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "cannot be read as an index"),
        ('{"weight_map": []}', "cannot be read as an index"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"x": "../tiny/model.safetensors"}}', "which is no file beside it"),
        ('{"weight_map": {"x": 7}}', "which is no file beside it"),
    ],
)
def test_an_index_that_is_none_is_refused(tiny: Path, tmp_path: Path, index: str, says: str) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    (tmp_path / "base" / INDEX).write_text(index)
    with pytest.raises(ModelError, match=says):
        resolve_model(str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("name", "number_format", "ignored"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", True),
        ("model.rotary_emb.inv_freq", "BF16", True),
        ("model.position_ids", "I64", True),
        ("model.position_ids", "mlx.core.int64", True),
        ("transformer.h.0.attn.bias", "U8", True),
        ("transformer.h.0.attn.bias", "F32", True),
        ("model.layers.0.self_attn.q_proj.weight", "I8", False),
        ("model.layers.0.self_attn.q_proj.weight", "mlx.core.uint32", False),
        ("model.layers.0.self_attn.q_proj.bias", "F16", False),
        ("model.norm.weight", "mlx.core.bfloat16", False),
    ],
)
def test_positions_masks_and_rotary_angles_are_no_weights(name: str, number_format: str, ignored: bool) -> None:
    assert is_buffer(name, number_format) is ignored


def test_buffers_of_older_programs_are_ignored(framework: Backend, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    tensors = load_file(tiny / "model.safetensors")
    buffers = {
        "model.position_ids": np.arange(16),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.arange(4, dtype=np.float32),
    }
    save_file(tensors | buffers, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    base = resolve_model(str(tmp_path / "base"))
    expected = framework.load(tiny, dtype="float32").logits(IDS)
    np.testing.assert_array_equal(framework.load(base.folder, dtype="float32").logits(IDS), expected)
    assert set(base_weights(base.folder, base.config)) == set(tensors)


def test_a_pickle_beside_the_weights_is_not_read(framework: Backend, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    for name in ("pytorch_model.bin", "model.bin", "consolidated.00.pth"):
        (tmp_path / "base" / name).write_bytes(b"\x80\x04cos\nabort\n)R.")  # it would end the process
    loaded = framework.load(resolve_model(str(tmp_path / "base")).folder, dtype="float32")
    np.testing.assert_array_equal(loaded.logits(IDS), framework.load(tiny, dtype="float32").logits(IDS))


def test_integers_that_no_quantisation_explains_are_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    tensors = load_file(tiny / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: (tensors[name] * 100).astype(np.int8)}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(ModelError, match=r"up_proj\.weight is stored as I8, and config\.json names no quantisation"):
        resolve_model(str(tmp_path / "base"))


def test_an_embedding_of_another_size_than_the_config_says_is_named(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    config = json.loads((tiny / "config.json").read_text())
    rows = config["vocab_size"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"vocab_size": rows - 4}))
    with pytest.raises(ModelError, match=f"the embedding has {rows} rows, and config.json says vocab_size {rows - 4}"):
        resolve_model(str(tmp_path / "base"))


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json", "tokenizer.model"])
def test_the_fingerprint_covers_what_ends_a_text_and_cuts_it_into_tokens(tiny: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    before = resolve_model(str(tmp_path / "base")).fingerprint
    with (tmp_path / "base" / name).open("a") as file:
        file.write("\n")
    assert resolve_model(str(tmp_path / "base")).fingerprint != before


@pytest.mark.parametrize("place", [100_000, 200_003, -1])
def test_the_fingerprint_reads_every_byte_of_the_weights(tmp_path: Path, place: int) -> None:
    """Stretches of 64 KiB were read, and a byte between them could change."""
    path = tmp_path / "model.safetensors"
    content = bytearray(os.urandom(300_000))
    path.write_bytes(content)
    before = fingerprints.fingerprint(tmp_path, [path])
    content[place] ^= 1
    path.write_bytes(content)
    assert fingerprints.fingerprint(tmp_path, [path]) != before


def test_a_large_file_is_read_again_only_when_its_size_or_times_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "_LARGE", 10)
    reads: list[Path] = []
    read: Callable[[Path], str] = fingerprints._read
    monkeypatch.setattr(fingerprints, "_read", lambda path: reads.append(path) or read(path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x" * 100)
    first = fingerprints.fingerprint(tmp_path, [path])
    assert fingerprints.fingerprint(tmp_path, [path]) == first
    assert len(reads) == 2, "a file that changed a moment ago may change again within a tick of the clock"
    monkeypatch.setattr(time, "time", lambda: path.stat().st_ctime + 10)
    for _ in range(3):
        assert fingerprints.fingerprint(tmp_path, [path]) == first
    assert len(reads) == 3
    path.write_bytes(b"y" * 100)
    os.utime(path, ns=(0, 0))
    assert fingerprints.fingerprint(tmp_path, [path]) != first
    (tmp_path / "cache/rir-mlx/digests.json").write_text("damaged")
    path.write_bytes(b"x" * 100)
    assert fingerprints.fingerprint(tmp_path, [path]) == first
