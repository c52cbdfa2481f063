"""Adapters that mlx-lm and PEFT wrote become each other's, and compute the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from exports import Q_PROJ, SEQUENCES, adapter_for, read, spec_of
from rir_convert.adapters import convert_adapter, read_any
from rir_convert.verification.engines.libraries import open_engine
from rir_convert.weights.tensors import Weights, save_weights
from safetensors.numpy import load_file

from rir_mlx.backends.base import Backend
from rir_mlx.errors import ModelError, UserError
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.adapters import Adapter, write_adapter
from rir_mlx.models.hub import ModelFiles

Open = Callable[[str], Backend]
TOLERANCE = 1e-4
SQUARE = ("q_proj", "o_proj")


def peft_adapter(base: Path, folder: Path, **config: Any) -> Path:
    """An adapter that PEFT itself made and saved, with every weight changed."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"} | config
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def mlx_adapter(base: Path, folder: Path, *, dora: bool = False, layers: int = 2, **changes: Any) -> Path:
    """An adapter as `mlx_lm.lora` leaves it: weights, and the config of its command line."""
    pytest.importorskip("mlx_lm")
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    parameters = {"rank": 4, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]} | changes
    model, _ = load_model(base)
    model.freeze()
    linear_to_lora_layers(model, layers, parameters, use_dora=dora)
    model.unfreeze(keys=["lora_a", "lora_b", "m"], strict=False)
    mx.random.seed(0)
    trained = {
        name: tensor + 0.1 * mx.random.normal(tensor.shape)
        for name, tensor in tree_flatten(model.trainable_parameters())
    }
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
    config = {"fine_tune_type": "dora" if dora else "lora", "num_layers": layers, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"model": str(base), "batch_size": 4}))
    return folder


def logits(backend: Backend, base: Path, adapter: Path | None = None) -> np.ndarray:
    """Those of the backend's library, opened as its users open it."""
    engine = open_engine("mlx-lm" if backend.name == "mlx" else "transformers", base, adapter)
    return next(engine.last_logits([SEQUENCES[0]], len(SEQUENCES[0])))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "r": 8},
        {"target_modules": list(SQUARE), "r": 32},
        {"target_modules": ["v_proj", "gate_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
        {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 7}, "use_rslora": False},
        {"use_dora": True, "rank_pattern": {"up_proj": 2}},
    ],
    ids=["lora", "dora", "rslora", "square", "first-layer", "patterns", "one-module", "dora-patterns"],
)
def test_what_peft_trained_computes_the_same_in_mlx_lm(
    tiny: Path, tmp_path: Path, open_named: Open, config: dict[str, Any]
) -> None:
    mlx, torch = open_named("mlx"), open_named("torch")
    source = peft_adapter(tiny, tmp_path / "peft", **config)
    convert_adapter(source, tmp_path / "mlx", "mlx")
    expected = logits(torch, tiny, source)
    assert np.abs(expected - logits(torch, tiny)).max() > 0.1
    np.testing.assert_allclose(logits(mlx, tiny, tmp_path / "mlx"), expected, atol=TOLERANCE)
    convert_adapter(tmp_path / "mlx", tmp_path / "again", "peft")
    np.testing.assert_allclose(logits(torch, tiny, tmp_path / "again"), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "changes",
    [{}, {"dora": True}, {"layers": 1}, {"keys": ["self_attn.q_proj", "self_attn.o_proj"], "rank": 32}],
    ids=["lora", "dora", "last-layer", "square"],
)
def test_what_mlx_lm_trained_computes_the_same_in_peft(
    tiny: Path, tmp_path: Path, open_named: Open, changes: dict[str, Any]
) -> None:
    mlx, torch = open_named("mlx"), open_named("torch")
    source = mlx_adapter(tiny, tmp_path / "mlx", **changes)
    convert_adapter(source, tmp_path / "peft", "peft")
    expected = logits(mlx, tiny, source)
    assert np.abs(expected - logits(mlx, tiny)).max() > 0.1
    np.testing.assert_allclose(logits(torch, tiny, tmp_path / "peft"), expected, atol=TOLERANCE)
    convert_adapter(tmp_path / "peft", tmp_path / "again", "mlx")
    np.testing.assert_allclose(logits(mlx, tiny, tmp_path / "again"), expected, atol=TOLERANCE)


def test_a_square_layer_without_the_transpose_would_load_and_be_wrong(
    tiny: Path, tmp_path: Path, open_named: Open
) -> None:
    """At rank 32 every factor of q_proj is 32 by 32, so no shape tells that one was left as it lay."""
    torch = open_named("torch")
    source = mlx_adapter(tiny, tmp_path / "mlx", keys=["self_attn.q_proj"], rank=32)
    convert_adapter(source, tmp_path / "peft", "peft")
    right = logits(torch, tiny, tmp_path / "peft")
    shutil.copytree(tmp_path / "peft", tmp_path / "wrong")
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    untransposed = {name: np.ascontiguousarray(tensor.T) for name, tensor in tensors.items()}
    save_weights(untransposed, tmp_path / "wrong" / "adapter_model.safetensors")
    assert np.abs(logits(torch, tiny, tmp_path / "wrong") - right).max() > 0.1


def test_ours_becomes_either(tiny_files: ModelFiles, tmp_path: Path, open_named: Open) -> None:
    mlx, torch = open_named("mlx"), open_named("torch")
    spec = replace(spec_of("dora", num_layers=1), dropout=0.1)
    tensors = adapter_for(tiny_files.folder, spec)
    write_adapter(tmp_path / "ours", Adapter(spec, tensors, {}), tiny_files)
    expected = mlx.load(tiny_files.folder, dtype="float32", adapter=(spec, tensors)).logits(SEQUENCES[0])
    convert_adapter(tmp_path / "ours", tmp_path / "peft", "peft")
    convert_adapter(tmp_path / "ours", tmp_path / "mlx", "mlx")
    assert sorted(path.name for path in (tmp_path / "peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert read(tmp_path / "mlx", "adapter_config.json")["num_layers"] == 1
    np.testing.assert_allclose(logits(torch, tiny_files.folder, tmp_path / "peft"), expected, atol=TOLERANCE)
    np.testing.assert_allclose(logits(mlx, tiny_files.folder, tmp_path / "mlx"), expected, atol=TOLERANCE)


def test_layers_that_are_not_the_last_are_kept_where_the_base_is_unknown(
    tiny: Path, tmp_path: Path, open_named: Open
) -> None:
    """mlx-lm counts layers from the last: without the base nobody knows how many there are, so all are named, and those
    that the file leaves out get no update."""
    source = peft_adapter(tiny, tmp_path / "peft", layers_to_transform=[0], layers_pattern="layers")
    config = read(source, "adapter_config.json") | {"base_model_name_or_path": "somebody/gone"}
    (source / "adapter_config.json").write_text(json.dumps(config))
    convert_adapter(source, tmp_path / "mlx", "mlx")
    assert read(tmp_path / "mlx", "adapter_config.json")["num_layers"] == -1
    expected = logits(open_named("torch"), tiny, source)
    np.testing.assert_allclose(logits(open_named("mlx"), tiny, tmp_path / "mlx"), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modules_to_save": ["lm_head"]}, "trains .* in full"),
        ({"bias": "all"}, "trains biases"),
        ({"peft_type": "IA3"}, "is IA3, not LoRA"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"trainable_token_indices": [1]}, "single tokens"),
        ({"r": 8}, "are not of rank 8"),
        ({"target_modules": ["q_proj", "k_proj"]}, "targets k_proj, and"),
        ({"layers_to_transform": [1]}, "layer 0 is in"),
        ({"use_dora": True}, "holds lora_a, lora_b"),
    ],
)
def test_a_peft_adapter_that_would_come_out_wrong_is_refused(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    source = peft_adapter(tiny, tmp_path / "peft")
    values = read(source, "adapter_config.json") | changes
    (source / "adapter_config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=says):
        convert_adapter(source, tmp_path / "out", "mlx")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_the_head_or_embedding_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Merged, it would pull embedding and head apart, which are tied."""
    source = peft_adapter(tiny, tmp_path / "peft", target_modules=["q_proj", "lm_head"])
    with pytest.raises(ModelError, match="outside the layers"):
        read_any(source)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"lora_parameters": {"rank": 8, "scale": 3.0}}, "not of rank 8"),
        ({"lora_parameters": {"rank": 4}}, "lacks rank or scale"),
        ({"fine_tune_type": "dora"}, "holds lora_a, lora_b"),
        ({"lora_parameters": {"rank": 4, "scale": 3.0, "keys": ["self_attn.v_proj"]}}, "but not in both"),
        ({"num_layers": 1}, "says 1 layers"),
    ],
)
def test_an_mlx_adapter_that_is_not_what_its_config_says_is_refused(
    tiny: Path, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    source = mlx_adapter(tiny, tmp_path / "mlx")
    values = read(source, "adapter_config.json") | config
    (source / "adapter_config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=says):
        convert_adapter(source, tmp_path / "out", "peft")


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="a pickle, which can run code"):
        read_any(tmp_path)


def test_the_commands_convert_and_fuse_folders_that_rir_mlx_never_made(
    rir: Run, tiny: Path, tmp_path: Path, open_named: Open
) -> None:
    torch = open_named("torch")
    source = peft_adapter(tiny, tmp_path / "peft", use_rslora=True)
    done = rir("convert", "adapter", str(source), "mlx", "--to", "mlx")
    assert (done.code, done.out) == (0, "mlx\n")
    assert "LoRA of rank 4, scale 4, on 4 modules of 2 layers." in done.err
    again = rir("convert", "adapter", str(source), "mlx", "--to", "mlx")
    assert (again.code, "not empty" in again.err) == (2, True)
    expected = logits(torch, tiny, source)
    for adapter in (str(source), "mlx"):
        fused = f"fused-{Path(adapter).name}"
        result = rir("convert", "fuse", fused, "--model", str(tiny), "--adapter", adapter, "--json", "-q")
        assert result.code == 0, result.err
        values = json.loads(result.out)
        assert values["passed"]
        assert values["engines"]["transformers"]["max_difference"] < 1e-3
        np.testing.assert_allclose(logits(torch, tiny), logits(torch, tiny), atol=0)
        np.testing.assert_allclose(logits(torch, Path(fused)), expected, atol=TOLERANCE)
    refused = rir("convert", "fuse", "fused-mlx", "--model", str(tiny), "--adapter", "mlx")
    assert refused.code == 2


def test_a_base_that_is_not_here_is_named_by_the_option_of_the_command(rir: Run, tmp_path: Path) -> None:
    result = rir(
        "convert", "fuse", str(tmp_path / "out"), "--model", "no/such", "--adapter", str(tmp_path), "--offline"
    )
    assert (result.code, "with --model FOLDER" in result.err) == (2, True), result.err


def test_an_adapter_for_another_base_is_refused(rir: Run, tiny: Path, tmp_path: Path) -> None:
    from tiny import make_tiny_llama

    source = peft_adapter(tiny, tmp_path / "peft")
    wide = make_tiny_llama(tmp_path / "wide", hidden=64)
    result = rir("convert", "fuse", "out", "--model", str(wide), "--adapter", str(source))
    assert result.code == 2
    assert "and its update is" in result.err
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_dequantised_before_it_is_fused(tmp_path: Path, open_named: Open) -> None:
    """Fused without dequantising, a 4-bit base loses most of the adapter."""
    from exports import fused
    from rir_convert.weights.tensors import base_weights
    from tiny import make_tiny_llama

    mlx = open_named("mlx")
    from rir_mlx.backends.mlx.weights import quantise

    base = make_tiny_llama(tmp_path / "base", hidden=64)
    shutil.copytree(base, tmp_path / "four")
    quantise(base, tmp_path / "four", 4)
    config = read(tmp_path / "four", "config.json")
    plain = base_weights(tmp_path / "four", config)
    spec = AdapterSpec("lora", rank=4, scale=3.0)
    adapter = adapter_for(base, spec)
    whole = fused(plain, spec, adapter)
    assert {str(tensor.dtype) for tensor in whole.values()} == {"float32"}
    assert whole.keys() == load_file(base / "model.safetensors").keys()
    update = 3.0 * (adapter[Q_PROJ.replace("weight", "lora_a")] @ adapter[Q_PROJ.replace("weight", "lora_b")]).T
    np.testing.assert_allclose(whole[Q_PROJ] - plain[Q_PROJ], update, atol=1e-5)
    save_weights(whole, tmp_path / "fused.safetensors")
    shutil.copytree(base, tmp_path / "out")
    save_weights(whole, tmp_path / "out" / "model.safetensors")
    expected = mlx.load(tmp_path / "four", dtype="float32", adapter=(spec, adapter)).logits(SEQUENCES[0])
    np.testing.assert_allclose(logits(mlx, tmp_path / "out"), expected, atol=1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_any_number_of_bits_is_dequantised_as_mlx_does(tmp_path: Path, bits: int) -> None:
    mx = pytest.importorskip("mlx.core")
    from rir_convert.weights.tensors import Dequantised

    weight = mx.array(np.random.default_rng(0).normal(size=(300, 128)).astype(np.float32)).astype(mx.bfloat16)
    packed, scales, biases = mx.quantize(weight, group_size=32, bits=bits)
    mx.save_safetensors(
        str(tmp_path / "model.safetensors"), {"x.weight": packed, "x.scales": scales, "x.biases": biases}
    )
    config = {"quantization": {"bits": 7, "group_size": 7, "x": {"bits": bits, "group_size": 32}}}
    tensors = Dequantised(Weights(tmp_path), config)
    assert list(tensors) == ["x.weight"]
    # In the format of 16-bit scales MLX rounds twice, in float32 it does not.
    exact = (tensor.astype(mx.float32) for tensor in (scales, biases))
    expected = np.array(mx.dequantize(packed, *exact, group_size=32, bits=bits))
    np.testing.assert_allclose(tensors["x.weight"].astype(np.float32), expected, rtol=2**-8, atol=1e-6)
    assert str(tensors["x.weight"].dtype) == "bfloat16"


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "gptq"}},
        {"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}},
    ],
)
def test_other_quantisations_are_refused(tiny: Path, config: dict[str, Any]) -> None:
    from rir_convert.weights.tensors import base_weights

    with pytest.raises(ModelError, match=r"quantised as (gptq|mxfp4)"):
        base_weights(tiny, config)


def test_a_disk_without_room_is_found_before_anything_is_written(
    tiny_files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exports import write

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    spec = spec_of("lora")
    with pytest.raises(UserError, match=r"0\.00 GB left; 0\.00 GB are needed"):
        write(tmp_path / "out", tiny_files, (spec, adapter_for(tiny_files.folder, spec)))
    assert list(tmp_path.iterdir()) == []
