"""What an adapter_config.json of PEFT or mlx-lm may say, and what it must not.

PEFT grows new kinds of LoRA with every release, each a key that older readers would pass over. So the keys that are
understood are listed here, and any other that is set is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import regex

from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json
from rir_mlx.models.adapters import CONFIG

_READ = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "target_parameters", "layers_to_transform"),
    *("base_model_name_or_path", "revision", "init_lora_weights"),
}
_WITHOUT_EFFECT = {
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "runtime_config", "megatron_core"),
    # They narrow which modules are trained, and the tensors' names say which those are.
    *("exclude_modules", "layers_pattern"),
    # Settings of an initialisation, which init_lora_weights names, or of a kind that another key switches on.
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying"),
    # mlx-lm's keys and ours, in a folder that carries both.
    *("fine_tune_type", "num_layers", "lora_parameters", "rir_mlx"),
}
_WHY = {
    "modules_to_save": "trains modules in full",
    "trainable_token_indices": "trains single tokens' embeddings",
    "bias": "trains biases",
    "lora_bias": "trains biases",
    "fan_in_fan_out": "is stored transposed",
    "layer_replication": "repeats layers of the base",
    "alora_invocation_tokens": "acts from certain tokens on only",
}
_TOO_OLD = "adapters.npz comes from mlx-lm before 0.6, which stored neither rank nor scale. Train the adapter again."
_KEPT_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that keep the base's weights. Others (pissa, olora, corda, loftq, lora_ga) change them, and the base
that such an adapter belongs to is not stored."""
_LARGEST_RANK = 1_000_000
_PATTERN_SECONDS = 0.02
"""Of the processor; a pattern that PEFT writes takes microseconds."""
Holds = Callable[[Any], bool]
_MERGE = "Merge it with PEFT's merge_and_unload() and use the merged model."


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Raises ModelError if there is none, or it cannot be read."""
    path = folder / CONFIG
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        old = (folder / "adapters.npz").is_file()
        raise ModelError(
            f"{folder} holds no {CONFIG}, so it is no adapter of mlx-lm or PEFT.", hint=_TOO_OLD if old else ""
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object.")
    _check(path, config, ["base_model_name_or_path", "model", "revision"], "a text", _or_none(_is_text))
    return config


def check_peft_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ModelError for a config that sets anything that cannot be expressed as factors, one rank and one scale."""
    path = folder / CONFIG
    if config.get("peft_type") != "LORA":
        raise ModelError(f"The adapter in {folder} is {config.get('peft_type')}, not LoRA.", hint=_MERGE)
    for key, value in config.items():
        if key in _READ | _WITHOUT_EFFECT or not value or (key, value) == ("bias", "none"):
            continue
        why = _WHY.get(key, "is of a kind that is unknown here")
        raise ModelError(
            f"The adapter in {folder} {why} ({key}: {json.dumps(value)[:60]}) and cannot be converted.", hint=_MERGE
        )
    start = config.get("init_lora_weights")
    if start not in _KEPT_BASE:
        raise ModelError(
            f"The adapter in {folder} was initialised by {start} (init_lora_weights), which changes the base.",
            hint="Convert it with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…).",
        )
    _check(path, config, ["r"], "a whole number from 1 on", _is_rank)
    _check(path, config, ["lora_alpha"], "a number", _is_number)
    _check(path, config, ["lora_dropout"], "a number", _or_none(_is_number))
    _check(path, config, ["rank_pattern"], "ranks by pattern", _or_none(_by_name(_is_rank)))
    _check(path, config, ["alpha_pattern"], "numbers by pattern", _or_none(_by_name(_is_number)))
    _check(path, config, ["target_modules"], "names", _or_none(lambda value: _is_text(value) or _all(_is_text)(value)))
    _check(path, config, ["target_parameters"], "a list of names", _or_none(_all(_is_text)))
    layers = _or_none(lambda value: _is_whole(value) or _all(_is_whole)(value))
    _check(path, config, ["layers_to_transform"], "numbers of layers", layers)


def _check(path: Path, given: Mapping[str, Any], keys: Iterable[str], what: str, holds: Holds) -> None:
    """Raises ModelError for a value that is not what it has to be: a stranger's file may hold anything."""
    for key in keys:
        if not holds(given.get(key)):
            raise ModelError(f"{path}: {key} is {given.get(key)!r:.60}, not {what}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e308 < value < 1e308


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_rank(value: Any) -> bool:
    return _is_number(value) and 1 <= value <= _LARGEST_RANK and int(value) == value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _all(holds: Holds) -> Holds:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _by_name(holds: Holds) -> Holds:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _or_none(holds: Holds) -> Holds:
    return lambda value: value is None or holds(value)


def own_value(config: Mapping[str, Any], key: str, names: Iterable[str], default: Any) -> Any:
    """A module's own rank or alpha. PEFT treats its key as a pattern for the end of the name. `names` are the module's
    in the file and in transformers.

    Raises ModelError for an invalid pattern, or one that takes too long: a stranger's file must not stall us."""
    for pattern, value in (config.get(key) or {}).items():
        for name in names:
            try:
                if regex.match(rf"(.*\.)?({pattern})$", name, timeout=_PATTERN_SECONDS):
                    return value
            except regex.error as error:
                raise ModelError(f"{CONFIG}: {key} holds {pattern!r:.80}, which is no pattern: {error}.") from error
            except TimeoutError as error:
                raise ModelError(
                    f"{CONFIG}: the pattern {pattern!r:.80} in {key} takes too long to match {name}.",
                    hint="Write the module's name in its place.",
                ) from error
    return default


def mlx_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """`kind`, `layers`, `rank`, `scale`, `dropout` and `keys` of an adapter of mlx-lm.

    Before 0.19 it wrote `lora_layers` for `num_layers` and `use_dora` for `fine_tune_type`. Up to 0.14.1 it multiplied
    by `scale · alpha / rank`, since then by `scale` alone, although it kept writing the `alpha`. So `alpha` is not read
    beside `num_layers`; beside `lora_layers` nothing tells the two apart. Raises ModelError for what is missing,
    unknown or ambiguous."""
    path, given = folder / CONFIG, config.get("lora_parameters")
    kind = config.get("fine_tune_type") or ("dora" if config.get("use_dora") else "lora")
    if kind not in ("lora", "dora"):
        raise ModelError(f"{path}: fine_tune_type is {kind!r}, not lora, dora or full.")
    if not isinstance(given, dict) or not _is_number(given.get("scale")) or not _is_number(given.get("rank")):
        alpha = isinstance(given, dict) and "alpha" in given
        raise ModelError(
            f"{path} lacks rank or scale in lora_parameters.",
            hint="mlx-lm multiplies by `scale` and reads no `alpha`: write scale as it was in training."
            if alpha
            else "",
        )
    if unknown := [key for key in given if key not in ("rank", "scale", "dropout", "keys", "alpha") and given[key]]:
        raise ModelError(f"{path}: lora_parameters has {unknown[0]}, which is unknown here.")
    _check(path, config, ["num_layers", "lora_layers"], "a number of layers", _or_none(_is_whole))
    _check(path, given, ["rank"], "a whole number from 1 on", _is_rank)
    _check(path, given, ["dropout"], "a number", _or_none(_is_number))
    _check(path, given, ["keys"], "a list of names", _or_none(_all(_is_text)))
    layers = config.get("num_layers", config.get("lora_layers"))
    if "num_layers" not in config and "lora_layers" in config:
        _check_alpha(path, given)
    return {
        "kind": kind,
        "layers": -1 if layers is None else layers,
        "rank": int(given["rank"]),
        "scale": float(given["scale"]),
        "dropout": float(given.get("dropout") or 0),
        "keys": given.get("keys"),
    }


def _check_alpha(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raises ModelError if an `alpha` of mlx-lm before 0.19 changes the scale in one of its versions only."""
    _check(path, parameters, ["alpha"], "a number", _or_none(_is_number))
    rank, scale, alpha = (parameters.get(key) for key in ("rank", "scale", "alpha"))
    if alpha is None or alpha == rank:
        return
    older = f"{scale * alpha / rank:g}"
    raise ModelError(
        f"{path}: lora_parameters has an alpha of {alpha:g} beside a scale of {scale:g}. mlx-lm up to 0.14.1 "
        f"multiplied by scale · alpha / rank = {older}, since 0.14.2 by {scale:g}; both wrote this config.",
        hint=f"Remove alpha. If mlx-lm up to 0.14.1 trained the adapter, set scale to {older} as well.",
    )
