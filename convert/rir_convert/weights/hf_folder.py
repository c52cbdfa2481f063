"""A model as a folder in Hugging Face format, which transformers, vLLM and mlx-lm open: written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rir_convert.weights.disk import check_space
from rir_convert.weights.tensors import SHARD_BYTES, Advance, Tensors, size_of, write_shards
from rir_mlx.errors import ModelError
from rir_mlx.models.config import read_settings
from rir_mlx.models.families import mlx_config, of_short_sequences, rope_for_both, ties_head
from rir_mlx.models.fingerprint import TOKENIZER_FILES
from rir_mlx.models.hub import ModelFiles
from rir_mlx.prompting.templates import DEFAULT, SETTINGS, TEMPLATE, frozen, stored_templates
from rir_mlx.storage.atomic import replacing

_COPIED = (*TOKENIZER_FILES, "LICENSE*", "USE_POLICY*")
_QUANTISED = ("quantization", "quantization_config")


@dataclass(frozen=True)
class FolderMetadata:
    """Metadata of the folder besides its weights.

    eos_token_id  every token that ends a text, including the one learned in training
    labels        names of the labels, in the order of the label map
    date          the date that the chat template prints by default
    extra         keys for config.json
    made_for      what the weight files name as their framework, `pt` or `mlx`
    shard_bytes   the largest weight file
    """

    eos_token_id: Sequence[int]
    labels: Sequence[str] = ()
    date: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    made_for: str = "pt"
    shard_bytes: int = SHARD_BYTES


def write_hf_folder(
    folder: Path,
    tensors: Tensors,
    base: ModelFiles,
    about: FolderMetadata,
    *,
    advance: Advance = lambda _: None,
) -> None:
    """Write weights, config, generation config, tokenizer and chat template at `folder`.

    Raises UserError, before anything is written, if the disk has no room for them."""
    check_space(folder, size_of(tensors))
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_shards(tensors, temporary, made_for=about.made_for, advance=advance, shard_bytes=about.shard_bytes)
        write_about(temporary, base, about, stored_as(tensors))


def write_about(folder: Path, base: ModelFiles, about: FolderMetadata, dtype: str) -> None:
    """All but the weights: config, generation config, tokenizer and chat template. `dtype` is the weights'."""
    write_values(folder / "config.json", _config(base.config, dtype, about))
    write_values(folder / "generation_config.json", _generation_config(base.folder, about.eos_token_id))
    for pattern in _COPIED:
        for path in base.folder.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    write_templates(folder, base.folder, about.date)


def _config(base: Mapping[str, Any], dtype: str, about: FolderMetadata) -> dict[str, Any]:
    config = {key: value for key, value in base.items() if key not in _QUANTISED}
    short = of_short_sequences(config) if about.made_for == "mlx" else {}  # which mlx-lm would read as of long ones
    config |= (
        _for_mlx(config) | rope_for_both(config) | short | {"eos_token_id": list(about.eos_token_id), **about.extra}
    )
    config["tie_word_embeddings"] = ties_head(base)  # libraries differ in what they take where it is missing
    config["dtype"] = dtype  # transformers 5
    config["torch_dtype"] = dtype  # 4, and vLLM
    if about.labels:
        config |= {
            "id2label": dict(enumerate(about.labels)),
            "label2id": {label: index for index, label in enumerate(about.labels)},
        }
    return config


def _for_mlx(config: Mapping[str, Any]) -> dict[str, Any]:
    """What mlx-lm reads under names of its own. Nothing for a model that it cannot run."""
    try:
        return {key: value for key, value in mlx_config(config).items() if key not in of_short_sequences(config)}
    except ModelError:
        return {}


def _generation_config(folder: Path, eos: Sequence[int]) -> dict[str, Any]:
    return read_settings(folder / "generation_config.json") | {"eos_token_id": list(eos)}


def write_templates(folder: Path, base: Path, date: str | None) -> None:
    """The base's chat templates, beside its tokenizer_config.json, wherever the base has one: the same in both places,
    though the base's may differ, because programs differ in which they read. Where there are several, a list with names
    holds them. With a `date` they print it as today's: another date would be another prompt than the one learned."""
    templates, settings = stored_templates(base), folder / SETTINGS
    if not templates:
        return
    if date is not None:
        templates = {name: frozen(template, date) for name, template in templates.items()}
    values = read_settings(settings)
    if set(templates) != {DEFAULT}:
        named = [{"name": name, "template": template} for name, template in sorted(templates.items())]
        write_values(settings, values | {"chat_template": named})
        return
    if "chat_template" in values:
        write_values(settings, values | {"chat_template": templates[DEFAULT]})
    if (base / TEMPLATE).is_file():
        (folder / TEMPLATE).write_text(templates[DEFAULT], encoding="utf-8")


def write_values(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def stored_as(tensors: Tensors) -> str:
    """The number format of the layers' weights."""
    return str(tensors.form(next(name for name in tensors if name.endswith("proj.weight")))[0])
