"""Adapter folders and safetensors headers of strangers: read as they are, or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from rir_convert.adapters import read_any
from rir_convert.weights.tensors import Weights, save_weights
from safetensors import SafetensorError
from safetensors.numpy import load

from fuzz.cases import Loss, Outcome
from fuzz.mutations import VALUES, mutated_bytes, mutated_value
from rir_mlx.errors import ModelError

_MLX = {
    "fine_tune_type": "lora",
    "num_layers": 2,
    "model": "base",
    "lora_parameters": {"rank": 2, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
}
_PEFT = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 6,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj"],
    "bias": "none",
    "base_model_name_or_path": "base",
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
}


class Adapters:
    """Folders of mlx-lm's and PEFT's form with a mutated config, or mutated weights."""

    name = "adapter folders"

    def attempt(self, rng: random.Random, folder: Path) -> Outcome:
        peft = rng.random() < 0.6
        config, weights = folder / "adapter_config.json", folder / ("adapter_model" if peft else "adapters")
        weights = weights.with_suffix(".safetensors")
        tensors = _factors(peft=peft)
        save_weights(tensors, weights)
        mutates = rng.random()
        given: dict[str, Any] = _PEFT if peft else _MLX
        if mutates < 0.8:
            given = mutated_value(given, rng)
        text = json.dumps(given).encode()
        config.write_bytes(mutated_bytes(text, rng) if mutates > 0.95 else text)
        if 0.7 < mutates < 0.9:
            weights.write_bytes(mutated_bytes(weights.read_bytes(), rng))
        try:
            found = read_any(folder)
        except ModelError as error:
            if not any(name in str(error) for name in (str(folder), config.name, "q_proj", "The adapter holds")):
                raise Loss(f"the error names neither file nor tensor: {error}") from error
            return "refused"
        read = json.loads(config.read_text(encoding="utf-8"))
        if "zzz" in read and read["zzz"] and peft:
            raise Loss(f"an unknown key is passed over: {read}")
        scale = float(read["lora_alpha"]) / read["r"] if peft else float(read["lora_parameters"]["scale"])
        if peft and read.get("use_rslora"):
            scale = float(read["lora_alpha"]) / read["r"] ** 0.5
        plain = not peft or not (read.get("rank_pattern") or read.get("alpha_pattern"))
        if plain and not np.isclose(found.spec.scale, scale):
            raise Loss(f"the scale is {found.spec.scale}, not {scale}")
        if len(found.tensors) != len(Weights(weights).places):
            raise Loss(f"{sorted(found.tensors)} are not all of {sorted(Weights(weights).places)}")
        return "read"


def _factors(*, peft: bool) -> dict[str, np.ndarray]:
    tensors = {}
    for layer in range(2):
        module = f"model.layers.{layer}.self_attn.q_proj"
        if peft:
            tensors[f"base_model.model.{module}.lora_A.weight"] = np.ones((2, 4), np.float32)
            tensors[f"base_model.model.{module}.lora_B.weight"] = np.ones((4, 2), np.float32)
        else:
            tensors[f"{module}.lora_a"] = np.ones((4, 2), np.float32)
            tensors[f"{module}.lora_b"] = np.ones((2, 4), np.float32)
    return tensors


def _is_readable(path: Path) -> bool:
    try:
        load(path.read_bytes())
    except Exception:  # of several kinds, one of them a panic
        return False
    return True


class Headers:
    """Safetensors files whose header or bytes are mutated. What is read is what the format's own library reads, and
    nothing that it reads is refused but a name that comes twice, of which it keeps the last."""

    name = "safetensors headers"

    def attempt(self, rng: random.Random, folder: Path) -> Outcome:
        path = folder / "model.safetensors"
        shapes = rng.sample([(4, 4), (3,), (2, 0), (), (5, 2)], rng.randint(1, 4))
        numbers = np.random.default_rng(rng.randrange(2**32))
        save_weights({f"w{n}": numbers.random(shape, np.float32) for n, shape in enumerate(shapes)}, path)
        data = path.read_bytes()
        match rng.randrange(10):
            case 0:
                path.write_bytes(mutated_bytes(data, rng))
            case number if number > 3:
                path.write_bytes(_with_header(data, rng))
        try:
            found = Weights(path)
            read = {name: np.array(found[name]) for name in found}
        except ModelError as error:
            if str(path) not in str(error):
                raise Loss(f"the error names no file: {error}") from error
            if "names a tensor twice" not in str(error) and _is_readable(path):
                raise Loss(f"the format's own library reads what is refused here: {error}") from error
            return "refused"
        try:
            theirs = load(path.read_bytes())
        except (SafetensorError, KeyError, TypeError) as error:
            raise Loss(f"the format's own library refuses what is read here: {error}") from error
        same = theirs.keys() == read.keys() and all(
            theirs[name].shape == read[name].shape and theirs[name].tobytes() == read[name].tobytes() for name in read
        )
        if not same:
            raise Loss(f"{sorted(read)} are not what the format's own library reads: {sorted(theirs)}")
        return "read"


def _with_header(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    match rng.randrange(5):
        case 0:
            header = mutated_value(header, rng)
        case 1:
            entry = rng.choice([entry for name, entry in header.items() if name != "__metadata__"])
            entry[rng.choice(list(entry))] = rng.choice(VALUES)
        case 2:
            entry = rng.choice([entry for name, entry in header.items() if name != "__metadata__"])
            entry["data_offsets"] = [offset + rng.choice((-4, 4, 64)) for offset in entry["data_offsets"]]
        case 3:
            body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body + b"\0" * rng.randint(1, 8)
        case 4:
            header["__metadata__"] = None  # as MLX writes it
    text = json.dumps(header).encode()
    if rng.random() < 0.2:  # a key twice
        text = text[:-1] + b", " + text[1:]
    text += b" " * (-len(text) % 8)
    return (len(text) if rng.random() < 0.9 else rng.choice((0, 1, 2**63, 2**31))).to_bytes(8, "little") + text + body
