"""Adapters as others save them: every spelling of the names, and every key that would make another adapter of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import read
from rir_convert.adapters import convert_adapter, read_any
from rir_convert.fusing import fuse
from rir_convert.weights.tensors import save_weights

from rir_mlx.backends.base import Backend
from rir_mlx.errors import ModelError
from rir_mlx.types import Ecosystem

Q_PROJ = "self_attn.q_proj"
PEFT = "base_model.model.model.layers"
Tensors = dict[str, np.ndarray]


def peft_tensors(layers: tuple[int, ...] = (0, 1)) -> Tensors:
    rng = np.random.default_rng(0)
    shapes = {"lora_A": (2, 32), "lora_B": (32, 2)}
    return {
        f"{PEFT}.{layer}.{Q_PROJ}.{leaf}.weight": rng.normal(0, 0.3, shape).astype(np.float32)
        for layer in layers
        for leaf, shape in shapes.items()
    }


def peft_folder(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    folder.mkdir()
    save_weights(peft_tensors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return folder


def mlx_folder(folder: Path, prefix: str = "model.", m: bool = False, **config: Any) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(1)
    shapes = {"lora_a": (32, 2), "lora_b": (2, 32)} | ({"m": (32,)} if m else {})
    tensors = {
        f"{prefix}layers.1.{Q_PROJ}.{leaf}": rng.normal(1, 0.3, shape).astype(np.float32)
        for leaf, shape in shapes.items()
    }
    save_weights(tensors, folder / "adapters.safetensors", "mlx")
    settings = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 20.0}}
    values = {key: value for key, value in (settings | config).items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def respelt(*changes: tuple[str, str]) -> Tensors:
    tensors = peft_tensors()
    for old, new in changes:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    return tensors


SPELLINGS = {
    "the adapter's name": (("lora_A.", "lora_A.default."), ("lora_B.", "lora_B.default.")),
    "another name": (("lora_A.", "lora_A.my-adapter."), ("lora_B.", "lora_B.my-adapter.")),
    "no prefix of PEFT": (("base_model.model.", ""),),
    "a model without a head": (("base_model.model.model.", "base_model.model."),),
    "layers alone": (("base_model.model.model.", ""),),
    "inside a model of several parts": (("model.layers", "model.language_model.layers"),),
    "in mlx-lm's order": (("model.model.layers", "language_model.model.layers"),),
    "no weight": ((".weight", ""),),
}


@pytest.mark.parametrize("changes", SPELLINGS.values(), ids=SPELLINGS)
def test_every_known_spelling_of_the_names_is_the_same_adapter(
    tmp_path: Path, changes: tuple[tuple[str, str], ...]
) -> None:
    plain = read_any(peft_folder(tmp_path / "plain"))
    found = read_any(peft_folder(tmp_path / "other", respelt(*changes)))
    assert plain.as_stored
    assert not found.as_stored
    assert (found.spec, found.places) == (plain.spec, plain.places)
    assert found.tensors.keys() == plain.tensors.keys()
    for name, tensor in plain.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    convert_adapter(tmp_path / "other", tmp_path / "out", "peft")
    assert read_any(tmp_path / "out").as_stored


def test_patterns_of_a_respelt_adapter_match_the_names_of_the_base_too(tmp_path: Path) -> None:
    patterns = {"alpha_pattern": {"model.layers.1.self_attn.q_proj": 8}}
    found = read_any(peft_folder(tmp_path / "a", respelt(("base_model.model.model.", "base_model.model.")), **patterns))
    plain = read_any(peft_folder(tmp_path / "b", **patterns))
    assert found.spec.scale == plain.spec.scale == 4.0
    for name, tensor in plain.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


def test_a_respelt_adapter_is_fused_although_peft_cannot_open_it(
    tiny: Path, tmp_path: Path, open_named: Callable[[str], Backend]
) -> None:
    open_named("torch")
    source = peft_folder(tmp_path / "a", respelt(*SPELLINGS["the adapter's name"]))
    values = fuse(str(tiny), source, tmp_path / "fused")
    assert values["passed"]
    assert values["adapter_effect"] > 0.01


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ((("model.model.layers", "model.vision_tower.encoder.layers"),), "outside the layers of a language model"),
        ((("model.model.layers", "model.mtp.layers"),), "outside the layers of a language model"),
        ((("layers.1.self_attn.q_proj", "lm_head"),), "the embedding or the head"),
        ((("lora_A", "ia3_l"),), "no part of a low-rank adapter"),
        ((("1.self_attn.q_proj.lora_A", "1.self_attn.q_proj.lora_A.b"),), None),
        ((("1.self_attn.q_proj.lora", "1.mlp.q_proj.lora"), ("mlp.q_proj.lora_A", "mlp.q_proj.lora_C")), "no part of"),
    ],
)
def test_names_that_are_not_known_are_refused(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], says: str | None
) -> None:
    folder = peft_folder(tmp_path / "a", respelt(*changes))
    if says is None:
        assert not read_any(folder).as_stored
        return
    with pytest.raises(ModelError, match=says):
        read_any(folder)


def test_a_file_with_two_adapters_is_refused(tmp_path: Path) -> None:
    named = [
        {name.replace("lora_A", f"lora_A.{of}").replace("lora_B", f"lora_B.{of}"): tensor for name, tensor in some}
        for of, some in (("a", peft_tensors((0,)).items()), ("b", peft_tensors((1,)).items()))
    ]
    with pytest.raises(ModelError, match="holds 2 adapters"):
        read_any(peft_folder(tmp_path / "two", named[0] | named[1]))
    twice = peft_tensors((0,)) | respelt(("base_model.model.", ""))
    with pytest.raises(ModelError, match="twice"):
        read_any(peft_folder(tmp_path / "twice", twice))


@pytest.mark.parametrize(
    "changes",
    [
        {"alora_invocation_tokens": [20, 21]},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"use_qalora": True},
        {"use_bdlora": {"nblocks": 2}},
        {"arrow_config": {"top_k": 3}},
        {"velora_config": {"rank": 1}},
        {"monteclora_config": {"samples": 2}},
        {"kasa_config": {"beta": 1}},
        {"megatron_config": {"layers": 2}},
        {"lora_bias": True},
        {"a_kind_of_next_year": "yes"},
        {"init_lora_weights": "milora"},
        {"init_lora_weights": "corda"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_key_that_is_not_understood_is_refused_by_its_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A list of keys to refuse let every new kind of PEFT through, to be converted into another adapter."""
    with pytest.raises(ModelError, match=next(iter(changes))) as refused:
        read_any(peft_folder(tmp_path / "a", **changes))
    assert refused.value.hint


def test_keys_that_are_off_and_those_without_effect_are_passed_over(tmp_path: Path) -> None:
    quiet = {
        "alora_invocation_tokens": None, "layer_replication": None, "use_qalora": False, "qalora_group_size": 16,
        "loftq_config": {}, "megatron_core": "megatron.core", "init_lora_weights": True, "modules_to_save": [],
        "runtime_config": {"ephemeral_gpu_offload": False}, "a_kind_of_next_year": None, "peft_version": "0.30.0",
    }  # fmt: skip
    assert read_any(peft_folder(tmp_path / "a", **quiet)).spec.rank == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"r": None}, {"r": "2"}, {"r": 0}, {"r": 2.5}, {"r": float("nan")}, {"r": 1e300}, {"lora_alpha": True},
        {"lora_alpha": float("inf")}, {"lora_alpha": 10**400}, {"lora_dropout": "some"}, {"rank_pattern": [1]},
        {"rank_pattern": {"q": 0}}, {"alpha_pattern": {"q": "x"}}, {"target_modules": [1]}, {"target_parameters": "q"},
        {"layers_to_transform": "all"}, {"base_model_name_or_path": 5}, {"revision": ["main"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_peft_that_is_of_another_kind_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=rf"adapter_config\.json: {next(iter(changes))} is"):
        read_any(peft_folder(tmp_path / "a", **changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_layers": "all"}, "num_layers is 'all', not a number of layers"),
        ({"num_layers": None, "lora_layers": 1.5}, "lora_layers is 1.5"),
        ({"lora_parameters": {"rank": 0, "scale": 2.0}}, "rank is 0, not a whole number"),
        ({"lora_parameters": {"rank": 2, "scale": float("nan")}}, "lacks rank or scale"),
        ({"lora_parameters": {"rank": 2, "scale": 2.0, "dropout": "some"}}, "dropout is 'some'"),
        ({"lora_parameters": {"rank": 2, "scale": 2.0, "keys": [["q"]]}}, "keys is"),
        ({"model": 5}, "model is 5, not a text"),
    ],
)
def test_a_value_of_mlx_lm_that_is_of_another_kind_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """`num_layers: all` ended in a traceback."""
    with pytest.raises(ModelError, match=says):
        read_any(mlx_folder(tmp_path / "a", **changes))


def test_parameters_that_are_trained_by_name_are_read_and_those_that_are_missing_are_named(tmp_path: Path) -> None:
    by_name = {"target_modules": [], "target_parameters": ["self_attn.q_proj.weight"]}
    found = read_any(peft_folder(tmp_path / "a", **by_name))
    assert found.keys == [Q_PROJ]
    with pytest.raises(ModelError, match=r"targets mlp\.down_proj\.weight, and"):
        read_any(peft_folder(tmp_path / "b", **(by_name | {"target_parameters": ["mlp.down_proj.weight"]})))
    nested = respelt(("q_proj.lora", "q_proj.base_layer.lora"))
    with pytest.raises(ModelError, match="no part of a low-rank adapter"):
        read_any(peft_folder(tmp_path / "c", nested, **by_name))


@pytest.mark.parametrize("to", ["mlx", "peft"])
def test_the_bases_revision_is_kept(tmp_path: Path, to: Ecosystem) -> None:
    source = peft_folder(tmp_path / "a", base_model_name_or_path="org/base", revision="8d3f0c5a")
    convert_adapter(source, tmp_path / "out", to)
    found = read_any(tmp_path / "out")
    assert (found.base, found.revision) == ("org/base", "8d3f0c5a")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    tensors = peft_tensors()
    name = f"{PEFT}.1.{Q_PROJ}.lora_B.weight"
    tensors[name][3, 1] = value
    with pytest.raises(ModelError, match=r"1 of 4 tensors hold NaN or infinity, model\.layers\.1\.self_attn"):
        read_any(peft_folder(tmp_path / "a", tensors))


def test_an_adapter_that_changes_nothing_is_named(tmp_path: Path) -> None:
    fresh = {name: tensor * ("lora_A" in name) for name, tensor in peft_tensors().items()}
    with pytest.raises(ModelError, match="changes nothing"):
        read_any(peft_folder(tmp_path / "a", fresh))
    half = peft_tensors() | {name: tensor for name, tensor in fresh.items() if ".0." in name}
    assert read_any(peft_folder(tmp_path / "b", half)).spec.rank == 2


@pytest.mark.parametrize("shape", [(0,), (2,), (0, 32)])
def test_factors_that_a_saver_emptied_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """DeepSpeed's ZeRO 3 left tensors of size zero (PEFT issue 2405)."""
    tensors = peft_tensors() | {f"{PEFT}.1.{Q_PROJ}.lora_A.weight": np.zeros(shape, np.float32)}
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj: factors .* are not of rank 2"):
        read_any(peft_folder(tmp_path / "a", tensors))


@pytest.mark.parametrize("dora", [False, True])
def test_what_mlx_lm_wrote_before_019_is_read(tmp_path: Path, dora: bool) -> None:
    """`lora_layers` and `use_dora` for today's `num_layers` and `fine_tune_type`, and an alpha that changes nothing."""
    old = {"fine_tune_type": None, "num_layers": None, "lora_layers": 1, "use_dora": dora}
    parameters = {"rank": 2, "alpha": 2, "scale": 10.0, "dropout": 0.0}
    found = read_any(mlx_folder(tmp_path / "old", m=dora, **old, lora_parameters=parameters))
    assert (found.spec.fine_tune_type, found.spec.num_layers, found.spec.scale) == ("dora" if dora else "lora", 1, 10)
    assert not found.as_stored
    convert_adapter(tmp_path / "old", tmp_path / "new", "mlx")
    config = read(tmp_path / "new", "adapter_config.json")
    assert (config["fine_tune_type"], config["num_layers"]) == (found.spec.fine_tune_type, -1)
    again = read_any(tmp_path / "new")
    assert again.as_stored
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)


def test_a_scale_that_two_versions_of_mlx_lm_read_differently_is_refused(tmp_path: Path) -> None:
    """Up to 0.14.1 its layers multiplied by scale · alpha / rank; 0.14.2 dropped the factor and wrote the same keys. An
    adapter of the older ones was converted with an eighth of its effect."""
    parameters = {"rank": 2, "alpha": 16, "scale": 10.0, "dropout": 0.0}
    old = {"fine_tune_type": None, "num_layers": None, "lora_layers": 1, "use_dora": False}
    with pytest.raises(ModelError, match=r"alpha / rank = 80, since 0\.14\.2 by 10") as refused:
        read_any(mlx_folder(tmp_path / "old", **old, lora_parameters=parameters))
    assert "set scale to 80" in refused.value.hint
    assert read_any(mlx_folder(tmp_path / "since-0.19", lora_parameters=parameters)).spec.scale == 10


def test_an_adapter_of_mlx_lm_inside_a_model_of_several_parts_is_read(tmp_path: Path) -> None:
    found = read_any(mlx_folder(tmp_path / "a", prefix="language_model.model."))
    assert found.places == {1: {Q_PROJ}}
    assert not found.as_stored


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"lora_parameters": {"rank": 2, "alpha": 16.0}}, "lacks rank or scale"),
        ({"lora_parameters": {"rank": 2, "scale": 1.0, "of_next_year": 3}}, "has of_next_year, which is unknown"),
        ({"fine_tune_type": "ia3"}, "fine_tune_type is 'ia3'"),
    ],
)
def test_a_config_of_mlx_lm_that_is_not_understood_is_refused(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        read_any(mlx_folder(tmp_path / "a", **config))


def test_an_adapter_of_numpys_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapters.npz").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"no adapter_config\.json") as refused:
        read_any(tmp_path)
    assert "adapters.npz" in refused.value.hint
