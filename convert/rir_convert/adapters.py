"""Adapters of mlx-lm, of PEFT and of this toolkit, read into one form and written in either.

Every adapter is read into mlx-lm's names and layout, with one rank and one scale. If PEFT gave layers different ranks
or alphas, smaller factors are padded with zeros and the scale is folded into `lora_b`, which changes no result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rir_convert.adapter_config import check_peft_config, mlx_settings, own_value, read_adapter_config
from rir_convert.adapter_names import TensorName, mlx_name, peft_name, split_place
from rir_convert.weights.disk import check_new, check_space
from rir_convert.weights.tensors import Weights, save_weights
from rir_mlx.errors import ModelError, UserError
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors
from rir_mlx.models.adapters import (
    CONFIG,
    MLX_WEIGHTS,
    PEFT_WEIGHTS,
    peft_spelling,
    to_peft,
)
from rir_mlx.models.config import read_config
from rir_mlx.models.families import ModelShape
from rir_mlx.storage.atomic import replacing
from rir_mlx.types import Ecosystem


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter of mlx-lm's or PEFT's form, and what it was trained on. `base` is a folder or a hub id, if the adapter
    says so. `as_stored` tells whether today's release of its own library opens the folder as it is."""

    spec: AdapterSpec
    tensors: Tensors
    ecosystem: Ecosystem
    base: str | None = None
    revision: str | None = None
    as_stored: bool = True

    @property
    def places(self) -> dict[int, set[str]]:
        """The adapted module names (`self_attn.q_proj`) by layer."""
        found: dict[int, set[str]] = {}
        for name in self.tensors:
            if name.endswith(".lora_a"):
                layer, module = split_place(name)
                found.setdefault(layer, set()).add(module.removesuffix(".lora_a"))
        return found

    @property
    def keys(self) -> list[str]:
        return sorted(set().union(*self.places.values()))


def read_any(folder: Path) -> ForeignAdapter:
    """The adapter in a folder of mlx-lm's or PEFT's. If both are there, mlx-lm's is read.

    Raises ModelError if the folder does not match its config, if a number is not finite or nothing was learned, or if
    only its own library can run the adapter."""
    config = read_adapter_config(folder)
    if (folder / MLX_WEIGHTS).is_file() and ("lora_parameters" in config or config.get("fine_tune_type") == "full"):
        found, path = _read_mlx(folder, config), folder / MLX_WEIGHTS
    elif (folder / PEFT_WEIGHTS).is_file() and "peft_type" in config:
        found, path = _read_peft(folder, config), folder / PEFT_WEIGHTS
    elif (folder / "adapter_model.bin").is_file():
        raise ModelError(
            f"{folder} holds adapter_model.bin, a pickle, which can run code when it is read.",
            hint="Save it again with PEFT's safe_serialization=True.",
        )
    else:
        raise ModelError(f"{folder} holds neither {MLX_WEIGHTS} beside mlx-lm's keys nor {PEFT_WEIGHTS} beside PEFT's.")
    _check_numbers(found, path)
    return found


def _load(path: Path) -> dict[str, np.ndarray]:
    weights = Weights(path)
    return {name: np.asarray(weights[name]).astype(np.float32) for name in weights}


def _check_numbers(found: ForeignAdapter, path: Path) -> None:
    """Raises ModelError for NaN and infinity, and for an adapter whose update is zero everywhere."""
    if broken := [name for name, tensor in found.tensors.items() if not np.isfinite(tensor).all()]:
        raise ModelError(
            f"{path}: {len(broken)} of {len(found.tensors)} tensors hold NaN or infinity, {broken[0]} among them.",
            hint="The training diverged. Take an earlier checkpoint, or train again with a lower learning rate.",
        )
    factors = [name for name in found.tensors if name.endswith(".lora_b")]
    if found.spec.fine_tune_type == "lora" and not any(
        found.tensors[name].any() and found.tensors[f"{name[:-1]}a"].any() for name in factors
    ):
        raise ModelError(
            f"{path}: the update of every module is zero, so the adapter changes nothing.",
            hint="It was saved before it learned anything. Take a later checkpoint.",
        )


def _read_mlx(folder: Path, config: Mapping[str, Any]) -> ForeignAdapter:
    path, tensors = folder / MLX_WEIGHTS, _load(folder / MLX_WEIGHTS)
    base = config.get("base_model_name_or_path") or config.get("model")
    revision = config.get("revision")
    if config.get("fine_tune_type") == "full":
        return ForeignAdapter(AdapterSpec("full"), tensors, "mlx", base, revision)
    given = mlx_settings(folder, config)
    names = {stored: mlx_name(stored) for stored in tensors}
    renamed = _renamed([(names[stored], tensor) for stored, tensor in tensors.items()], path)
    spec = AdapterSpec(given["kind"], given["layers"], given["rank"], given["scale"], given["dropout"])
    as_stored = "num_layers" in config and all(name.module == name.place for name in names.values())
    found = ForeignAdapter(spec, renamed, "mlx", base, revision, as_stored)
    _check_leaves(found)
    _check_shapes(found, path)
    wanted_keys = set(given["keys"] or found.keys)
    if set(found.keys) != wanted_keys:
        odd = min(wanted_keys ^ set(found.keys))
        raise ModelError(f"{folder}: {odd} is in {CONFIG} or in {MLX_WEIGHTS}, but not in both.")
    if 0 < spec.num_layers < max(found.places) - min(found.places) + 1:
        raise ModelError(f"{folder / CONFIG} says {spec.num_layers} layers, {MLX_WEIGHTS} holds more.")
    return _with_keys(found)


def _with_keys(found: ForeignAdapter) -> ForeignAdapter:
    return replace(found, spec=replace(found.spec, keys=tuple(found.keys)))


def _renamed(tensors: Sequence[tuple[TensorName, np.ndarray]], path: Path) -> dict[str, np.ndarray]:
    """The tensors under the names that they have here. Raises ModelError if two come out under one name, as they do
    where a file holds two adapters."""
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors:
        if name.name in renamed:
            raise ModelError(f"{path} holds {name.name} twice, under two spellings or for two adapters.")
        renamed[name.name] = tensor
    adapters = sorted({name.adapter for name, _ in tensors if name.adapter})
    if len(adapters) > 1:
        raise ModelError(
            f"{path} holds {len(adapters)} adapters: {', '.join(adapters)}.", hint="Save one of them alone."
        )
    return renamed


def _check_leaves(found: ForeignAdapter) -> None:
    """Every module has both factors, and for DoRA its lengths."""
    kind, modules = found.spec.fine_tune_type, dict[str, set[str]]()
    wanted = {"lora_a", "lora_b", "m"} if kind == "dora" else {"lora_a", "lora_b"}
    for name in found.tensors:
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, set()).add(leaf)
    for module, leaves in modules.items():
        if leaves != wanted:
            raise ModelError(f"The {kind} adapter of {module} holds {', '.join(sorted(leaves))}.")


def _check_shapes(found: ForeignAdapter, path: Path) -> None:
    """Check that every factor has the same rank, on the correct side: a square layer would load either way."""
    for name, tensor in found.tensors.items():
        leaf = name.rpartition(".")[2]
        if tensor.ndim == (1 if leaf == "m" else 2):
            rank = {"lora_a": tensor.shape[-1], "lora_b": tensor.shape[0], "m": found.spec.rank}[leaf]
            if rank == found.spec.rank:
                continue
        raise ModelError(f"{path}: {name} is {tensor.shape}, which is not of rank {found.spec.rank}.")


def _read_peft(folder: Path, config: Mapping[str, Any]) -> ForeignAdapter:
    check_peft_config(folder, config)
    path, stored = folder / PEFT_WEIGHTS, _load(folder / PEFT_WEIGHTS)
    names = {name: peft_name(name) for name in stored}
    kind: Literal["lora", "dora"] = "dora" if config.get("use_dora") else "lora"
    flat = [
        (names[name], tensor.reshape(-1) if names[name].leaf == "m" else tensor.T) for name, tensor in stored.items()
    ]
    as_stored = all(name == peft_spelling(names[name].name) for name in stored)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    spec = AdapterSpec(kind, dropout=float(config.get("lora_dropout") or 0))
    found = ForeignAdapter(spec, _renamed(flat, path), "peft", base, revision, as_stored)
    _check_leaves(found)
    modules = {name.place: (name.module, name.place) for name, _ in flat}
    tensors, rank, scale = _evened(found.tensors, modules, config)
    found = replace(found, tensors=tensors, spec=replace(spec, rank=rank, scale=scale))
    _check_shapes(found, path)
    _check_targets(found, folder, config)
    return _with_keys(found)


def _evened(
    tensors: Mapping[str, np.ndarray], modules: Mapping[str, tuple[str, str]], config: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], int, float]:
    """One rank and one scale for all modules. PEFT's scale is alpha / rank, or alpha / √rank (rsLoRA,
    arXiv:2312.03732). `modules` has the names of each place that patterns are matched with."""
    ranks = {place: int(own_value(config, "rank_pattern", names, config["r"])) for place, names in modules.items()}
    alphas = {
        place: own_value(config, "alpha_pattern", names, config["lora_alpha"]) for place, names in modules.items()
    }
    for place, rank in ranks.items():
        shapes = tensors[f"{place}.lora_a"].shape, tensors[f"{place}.lora_b"].shape
        if len(shapes[0]) != 2 or len(shapes[1]) != 2 or (shapes[0][-1], shapes[1][0]) != (rank, rank):
            raise ModelError(f"{place}: factors {shapes[0]} and {shapes[1]} are not of rank {rank}, as {CONFIG} says.")
    scales = {
        place: alphas[place] / (math.sqrt(rank) if config.get("use_rslora") else rank) for place, rank in ranks.items()
    }
    rank, scale = max(ranks.values()), max(scales.values())
    evened: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        place, _, leaf = name.rpartition(".")
        missing, ratio = rank - ranks[place], scales[place] / scale if scale else 1.0
        if leaf == "lora_a":
            evened[name] = np.pad(tensor, ((0, 0), (0, missing)))
        elif leaf == "lora_b":
            evened[name] = np.pad(tensor if ratio == 1.0 else tensor * np.float32(ratio), ((0, missing), (0, 0)))
        else:
            evened[name] = tensor
    return evened, rank, float(scale)


def _check_targets(found: ForeignAdapter, folder: Path, config: Mapping[str, Any]) -> None:
    """Check that the file holds every module that the config targets: PEFT only warns and fills gaps with zeros."""
    targets, layers = config.get("target_modules"), config.get("layers_to_transform")
    named = [*(targets if isinstance(targets, list) else []), *(config.get("target_parameters") or [])]
    modules = [f".{name.removesuffix('.lora_a')}" for name in found.tensors if name.endswith(".lora_a")]
    for target in named:
        if not any(module.endswith(f".{target.removesuffix('.weight')}") for module in modules):
            raise ModelError(f"{folder / CONFIG} targets {target}, and {PEFT_WEIGHTS} holds nothing of it.")
    if layers is not None:
        wanted = {layers} if isinstance(layers, int) else set(layers)
        if wanted != set(found.places):
            odd = min(wanted ^ set(found.places))
            raise ModelError(f"{folder}: layer {odd} is in {CONFIG} or in {PEFT_WEIGHTS}, but not in both.")


def convert_adapter(source: Path, target: Path, to: Ecosystem) -> ForeignAdapter:
    """Write the adapter of `source` as a folder that mlx-lm or PEFT opens, whole or not at all.

    Raises UserError if `target` is not empty or cannot be written, ModelError if the adapter cannot be converted."""
    check_new(target)
    found = read_any(source)
    if found.spec.fine_tune_type == "full":
        raise UserError(
            f"{source} holds weights that were trained in full, not an adapter.",
            hint="`rir-mlx convert fuse` makes a model of them.",
        )
    check_space(target, sum(tensor.nbytes for tensor in found.tensors.values()))
    with replacing(target) as temporary:
        temporary.mkdir()
        write = _write_peft if to == "peft" else _write_mlx
        config = write(found, temporary)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return found


def _write_mlx(found: ForeignAdapter, folder: Path) -> dict[str, Any]:
    """mlx-lm counts layers from the last, and gives layers and modules missing from the file a zero update."""
    spec = found.spec
    save_weights(found.tensors, folder / MLX_WEIGHTS, "mlx")
    parameters = {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": found.keys}
    return {
        "fine_tune_type": spec.fine_tune_type,
        "num_layers": _layers_from_the_end(found),
        "lora_parameters": parameters,
        "model": found.base,
        "revision": found.revision,
    }


def _layers_from_the_end(found: ForeignAdapter) -> int:
    """-1 (all) if the base, and so its number of layers, is not on this machine."""
    if found.base is None or not Path(found.base).is_dir():
        return -1
    return ModelShape.of(read_config(Path(found.base))).layers - min(found.places)


def _write_peft(found: ForeignAdapter, folder: Path) -> dict[str, Any]:
    spec, places = found.spec, found.places
    save_weights(to_peft(found.tensors), folder / PEFT_WEIGHTS)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": found.base,
        "revision": found.revision,
        "r": spec.rank,
        "lora_alpha": spec.scale * spec.rank,
        "lora_dropout": spec.dropout,
        "use_dora": spec.fine_tune_type == "dora",
        "bias": "none",
        "fan_in_fan_out": False,
    } | _targets(places, found)


def _targets(places: Mapping[int, set[str]], found: ForeignAdapter) -> dict[str, Any]:
    """Modules by the end of their names and layers by number, or, if layers differ, every module by its full name."""
    if all(modules == set(found.keys) for modules in places.values()):
        return {
            "target_modules": sorted({key.rpartition(".")[2] for key in found.keys}),
            "layers_to_transform": sorted(places),
            "layers_pattern": "layers",
        }
    return {"target_modules": sorted(f"model.layers.{n}.{key}" for n, keys in places.items() for key in keys)}
