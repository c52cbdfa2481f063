"""Adapters of mlx-lm, of PEFT and of this toolkit, read into one form and written in either.

Every adapter is read into mlx-lm's names and layout, with one rank and one scale. If PEFT gave layers different ranks
or alphas, smaller factors are padded with zeros and the scale is folded into `lora_b`, which changes no result.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import regex

from rir_convert.weights.tensors import Weights, check_space, save_weights
from rir_mlx.errors import ModelError, UserError
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors
from rir_mlx.models.adapters import (
    CONFIG,
    MLX_WEIGHTS,
    PEFT_WEIGHTS,
    to_peft,
)
from rir_mlx.models.config import read_config
from rir_mlx.storage.atomic import replacing
from rir_mlx.types import Ecosystem

_LEAVES = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_magnitude_vector": "m"}
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)$")
_PEFT_NAME = re.compile(
    r"^(?:base_model\.model\.)?(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?$"
)
_PATTERN_SECONDS = 0.02
"""Of the processor; a pattern that PEFT writes takes microseconds."""
_REPLACED = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base's weights. Such an adapter belongs to a base that is not stored."""


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter of mlx-lm's or PEFT's form, and what it was trained on. `base` is a folder or a hub id, if the adapter
    says so."""

    spec: AdapterSpec
    tensors: Tensors
    ecosystem: Ecosystem
    base: str | None = None
    revision: str | None = None

    @property
    def places(self) -> dict[int, set[str]]:
        """The adapted module names (`self_attn.q_proj`) by layer."""
        found: dict[int, set[str]] = {}
        for name in self.tensors:
            if name.endswith(".lora_a"):
                layer, module = _place(name)
                found.setdefault(layer, set()).add(module.removesuffix(".lora_a"))
        return found

    @property
    def keys(self) -> list[str]:
        return sorted(set().union(*self.places.values()))


def read_any(folder: Path) -> ForeignAdapter:
    """The adapter in a folder of mlx-lm's or PEFT's. If both are there, mlx-lm's is read.

    Raises ModelError if the folder does not match its config, or if only its own library can run the adapter."""
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no {CONFIG}, so it is no adapter of mlx-lm or PEFT.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if (folder / MLX_WEIGHTS).is_file() and ("lora_parameters" in config or config.get("fine_tune_type") == "full"):
        return _read_mlx(folder, config)
    if (folder / PEFT_WEIGHTS).is_file() and "peft_type" in config:
        return _read_peft(folder, config)
    if (folder / "adapter_model.bin").is_file():
        raise ModelError(
            f"{folder} holds adapter_model.bin, a pickle, which can run code when it is read.",
            hint="Save it again with PEFT's safe_serialization=True.",
        )
    raise ModelError(f"{folder} holds neither {MLX_WEIGHTS} beside mlx-lm's keys nor {PEFT_WEIGHTS} beside PEFT's.")


def _load(path: Path) -> dict[str, np.ndarray]:
    weights = Weights(path)
    return {name: np.asarray(weights[name]).astype(np.float32) for name in weights}


def _read_mlx(folder: Path, config: Mapping[str, Any]) -> ForeignAdapter:
    tensors, kind = _load(folder / MLX_WEIGHTS), config.get("fine_tune_type", "lora")
    base = config.get("base_model_name_or_path") or config.get("model")
    revision = config.get("revision")
    if kind == "full":
        return ForeignAdapter(AdapterSpec("full"), tensors, "mlx", base, revision)
    given = config["lora_parameters"]
    if "scale" not in given or "rank" not in given:
        raise ModelError(f"{folder / CONFIG} lacks rank or scale in lora_parameters.")
    wanted = {"lora_a", "lora_b", "m"} if kind == "dora" else {"lora_a", "lora_b"}
    modules: dict[str, set[str]] = {}
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        if leaf not in ("lora_a", "lora_b", "m"):
            raise ModelError(f"{folder / MLX_WEIGHTS} holds {name}, which is no part of a low-rank adapter.")
        modules.setdefault(module, set()).add(leaf)
    for module, leaves in modules.items():
        if leaves != wanted:
            raise ModelError(f"The {kind} adapter of {module} holds {', '.join(sorted(leaves))}.")
    layers, rank, scale = int(config.get("num_layers", -1)), int(given["rank"]), float(given["scale"])
    spec = AdapterSpec(kind, layers, rank, scale, float(given.get("dropout", 0)))
    found = ForeignAdapter(spec, tensors, "mlx", base, revision)
    _check_shapes(found, folder / MLX_WEIGHTS)
    wanted_keys = set(given.get("keys") or found.keys)
    if set(found.keys) != wanted_keys:
        odd = min(wanted_keys ^ set(found.keys))
        raise ModelError(f"{folder}: {odd} is in {CONFIG} or in {MLX_WEIGHTS}, but not in both.")
    if 0 < spec.num_layers < max(found.places) - min(found.places) + 1:
        raise ModelError(f"{folder / CONFIG} says {spec.num_layers} layers, {MLX_WEIGHTS} holds more.")
    return _with_keys(found)


def _with_keys(found: ForeignAdapter) -> ForeignAdapter:
    return replace(found, spec=replace(found.spec, keys=tuple(found.keys)))


def _place(name: str) -> tuple[int, str]:
    match = _LAYER.search(name)
    if match is None:
        raise ModelError(
            f"The adapter trains {name}, outside the layers.",
            hint="Where the embedding is tied to the head, merging it would change both; train without it.",
        )
    return int(match[1]), match[2]


def _check_shapes(found: ForeignAdapter, path: Path) -> None:
    """Check that every factor has the same rank, on the correct side: a square layer would load either way."""
    for name, tensor in found.tensors.items():
        _place(name)
        leaf = name.rpartition(".")[2]
        rank = {"lora_a": tensor.shape[-1], "lora_b": tensor.shape[0], "m": found.spec.rank}[leaf]
        if tensor.ndim != (1 if leaf == "m" else 2) or rank != found.spec.rank:
            raise ModelError(f"{path}: {name} is {tensor.shape}, which is not of rank {found.spec.rank}.")


def _read_peft(folder: Path, config: Mapping[str, Any]) -> ForeignAdapter:
    _refuse_what_mlx_lacks(folder, config)
    kind: Literal["lora", "dora"] = "dora" if config.get("use_dora") else "lora"
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in _load(folder / PEFT_WEIGHTS).items():
        match = _PEFT_NAME.match(name)
        if match is None:
            raise ModelError(f"{folder / PEFT_WEIGHTS} holds {name}, which is no part of a low-rank adapter.")
        leaf = _LEAVES[match[2]]
        parts.setdefault(match[1], {})[leaf] = tensor.reshape(-1) if leaf == "m" else tensor.T
    wanted = {"lora_a", "lora_b", "m"} if kind == "dora" else {"lora_a", "lora_b"}
    for module, leaves in parts.items():
        if set(leaves) != wanted:
            raise ModelError(f"The {kind} adapter of {module} holds {', '.join(sorted(leaves))}.")
        rank = _own(config, "rank_pattern", module, config["r"])
        shapes = leaves["lora_a"].shape, leaves["lora_b"].shape
        if shapes[0][-1] != rank or shapes[1][0] != rank:
            raise ModelError(f"{module}: factors {shapes[0]} and {shapes[1]} are not of rank {rank}, as {CONFIG} says.")
    tensors, rank, scale = _evened(parts, config)
    spec = AdapterSpec(kind, -1, rank, scale, float(config.get("lora_dropout") or 0))
    found = ForeignAdapter(spec, tensors, "peft", config.get("base_model_name_or_path"), config.get("revision"))
    _check_shapes(found, folder / PEFT_WEIGHTS)
    _check_targets(found, folder, config)
    return _with_keys(found)


def _evened(
    parts: Mapping[str, dict[str, np.ndarray]], config: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], int, float]:
    """One rank and one scale for all modules. PEFT's scale is alpha / rank, or alpha / √rank (rsLoRA,
    arXiv:2312.03732)."""
    ranks = {module: leaves["lora_a"].shape[1] for module, leaves in parts.items()}
    alphas = {module: _own(config, "alpha_pattern", module, config["lora_alpha"]) for module in parts}
    scales = {
        module: alphas[module] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        for module, rank in ranks.items()
    }
    rank, scale = max(ranks.values()), max(scales.values())
    tensors: dict[str, np.ndarray] = {}
    for module, leaves in parts.items():
        missing, ratio = rank - ranks[module], scales[module] / scale if scale else 1.0
        b = leaves["lora_b"] if ratio == 1.0 else leaves["lora_b"] * np.float32(ratio)
        tensors[f"{module}.lora_a"] = np.pad(leaves["lora_a"], ((0, 0), (0, missing)))
        tensors[f"{module}.lora_b"] = np.pad(b, ((0, missing), (0, 0)))
        if "m" in leaves:
            tensors[f"{module}.m"] = leaves["m"]
    return tensors, rank, float(scale)


def _own(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """A module's own rank or alpha. PEFT treats its key as a pattern for the end of the name.

    Raises ModelError for an invalid pattern, or one that takes too long: a stranger's file must not stall us."""
    for pattern, value in (config.get(key) or {}).items():
        try:
            if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATTERN_SECONDS):
                return value
        except regex.error as error:
            raise ModelError(f"{CONFIG}: {key} holds {pattern!r:.80}, which is no pattern: {error}.") from error
        except TimeoutError as error:
            raise ModelError(
                f"{CONFIG}: the pattern {pattern!r:.80} in {key} takes too long to match {module}.",
                hint="Write the module's name in its place.",
            ) from error
    return default


def _refuse_what_mlx_lacks(folder: Path, config: Mapping[str, Any]) -> None:
    start = str(config.get("init_lora_weights", "")).lower()
    for found, what in (
        (config.get("peft_type") != "LORA", f"is {config.get('peft_type')}, not LoRA"),
        (config.get("modules_to_save"), f"trains {config.get('modules_to_save')} in full"),
        (config.get("trainable_token_indices"), "trains single tokens' embeddings"),
        (config.get("bias", "none") != "none" or config.get("lora_bias"), "trains biases"),
        (config.get("fan_in_fan_out"), "is stored with fan_in_fan_out"),
        (start.startswith(_REPLACED), f"was initialised by {start}, which changes the base's weights"),
    ):
        if found:
            raise ModelError(
                f"The adapter in {folder} {what}, which mlx-lm's adapters cannot hold.",
                hint="Merge it with PEFT's merge_and_unload() and use the merged model.",
            )


def _check_targets(found: ForeignAdapter, folder: Path, config: Mapping[str, Any]) -> None:
    """Check that the file holds every module that the config targets: PEFT only warns and fills gaps with zeros."""
    targets, layers = config.get("target_modules"), config.get("layers_to_transform")
    modules = [f".{name.removesuffix('.lora_a')}" for name in found.tensors if name.endswith(".lora_a")]
    for target in targets if isinstance(targets, list) else []:
        if not any(module.endswith(f".{target}") for module in modules):
            raise ModelError(f"{folder / CONFIG} targets {target}, and {PEFT_WEIGHTS} holds nothing of it.")
    if layers is not None:
        wanted = {layers} if isinstance(layers, int) else set(layers)
        if wanted != set(found.places):
            odd = min(wanted ^ set(found.places))
            raise ModelError(f"{folder}: layer {odd} is in {CONFIG} or in {PEFT_WEIGHTS}, but not in both.")


def convert_adapter(source: Path, target: Path, to: Ecosystem) -> ForeignAdapter:
    """Write the adapter of `source` as a folder that mlx-lm or PEFT opens, whole or not at all.

    Raises UserError if `target` is not empty, ModelError if the adapter cannot be converted."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already, and is not empty.", hint="Name a new folder.")
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
    }


def _layers_from_the_end(found: ForeignAdapter) -> int:
    """-1 (all) if the base, and so its number of layers, is not on this machine."""
    if found.base is None or not Path(found.base).is_dir():
        return -1
    return int(read_config(Path(found.base))["num_hidden_layers"]) - min(found.places)


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
