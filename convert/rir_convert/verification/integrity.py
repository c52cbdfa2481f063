"""What a folder in Hugging Face format must agree on with itself and with how the model was trained.

With any of these faults a folder loads without an error, but gives another model, prompt or end of text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rir_convert.weights.tensors import Weights
from rir_mlx.backends.base import Tokens
from rir_mlx.errors import RirError
from rir_mlx.json_text import parse_json
from rir_mlx.models.config import read_config, read_settings
from rir_mlx.models.families import rope_for_both, ties_head
from rir_mlx.models.weight_files import INDEX, weight_files
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt
from rir_mlx.prompting.templates import frozen

_WEIGHT_FORMATS = ("pt", "mlx")


def folder_faults(folder: Path, codec: Codec, prompts: Sequence[tuple[Prompt, Tokens]]) -> list[str]:
    """What is wrong with a written folder; `prompts` are with the ids that training had for them."""
    try:
        config = read_config(folder)
        found = [*_rotary(config), *_embeddings(folder, config), *_weight_files(folder)]
        own = Codec(folder, codec.date)
    except RirError as error:
        return [error.what]
    return [*found, *_ends(folder, config, own, codec), *_prompts(own, codec, prompts)]


def _rotary(config: Mapping[str, Any]) -> list[str]:
    """transformers 5 reads `rope_parameters`; mlx-lm, llama.cpp and older vLLM the other two, and take theta 10000
    without scaling where those are missing."""
    wanted = rope_for_both(dict(config))
    if odd := [key for key, value in wanted.items() if config.get(key, ...) != value]:
        return [f"config.json has no {odd[0]} that agrees with its other rotary keys"]
    return []


def _embeddings(folder: Path, config: Mapping[str, Any]) -> list[str]:
    weights, tied = Weights(folder), ties_head(config)
    if tied and "lm_head.weight" in weights:
        return ["the config ties the head to the embedding, and the weights hold a head of their own"]
    if not tied and "lm_head.weight" not in weights:
        return ["the config does not tie the head to the embedding, and the weights hold no head"]
    return []


def _weight_files(folder: Path) -> list[str]:
    """transformers refuses a file without `format`, and reads of several files those that the index names."""
    weights, files = Weights(folder), weight_files(folder)
    found = [f"{path.name} lies beside the weights" for path in folder.glob("*.safetensors") if path not in files]
    if buffers := sorted(weights.buffers()):
        found.append(f"the weights hold {buffers[0]}, which is no weight")
    for path in files:
        with path.open("rb") as file:
            header = parse_json(file.read(int.from_bytes(file.read(8), "little")))
        if (header.get("__metadata__") or {}).get("format") not in _WEIGHT_FORMATS:
            found.append(f"{path.name} does not say its format")
    index = folder / INDEX
    if index.is_file() and set(parse_json(index.read_text(encoding="utf-8"))["weight_map"]) != set(weights):
        found.append("the index does not name the weights that are there")
    return found


def _ends(folder: Path, config: Mapping[str, Any], own: Codec, codec: Codec) -> list[str]:
    found = []
    generation = read_settings(folder / "generation_config.json")
    named = {"config.json": config.get("eos_token_id"), "generation_config.json": generation.get("eos_token_id")}
    for name, value in named.items():
        ids = set(value) if isinstance(value, list) else {value}
        if not set(codec.stops) <= ids:
            ends = " and ".join(map(str, codec.stops))
            found.append(f"{name}: eos_token_id is {value}; it must include {ends}, the tokens that end a text")
    if own.tokenizer.eos_token_id not in codec.stops:
        found.append(f"the tokenizer's end of text is {own.tokenizer.eos_token_id}, which the model never learned")
    if own.terminator != codec.terminator:
        found.append(f"a message ends with token {own.terminator}, not {codec.terminator} as in training")
    return found


def _prompts(own: Codec, codec: Codec, prompts: Sequence[tuple[Prompt, Tokens]]) -> list[str]:
    if bool(own.template) != bool(codec.template):
        return ["the chat template is lost"]
    if prompts and own.template:
        message = [{"role": "user", "content": "x"}]
        then = {"chat_template": frozen(own.template, codec.date), "date_string": codec.date}
        plain = own.tokenizer.apply_chat_template(message, tokenize=False)
        if plain != own.tokenizer.apply_chat_template(message, tokenize=False, **then):
            return ["the chat template prints today's date, not that of training"]
    for prompt, ids in prompts:
        encoded = own.encode(prompt, len(ids))
        if encoded.prefix + encoded.row != ids:
            return ["the tokenizer and chat template give other ids for a prompt than in training"]
    return []
