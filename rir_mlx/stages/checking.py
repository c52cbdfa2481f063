"""The audit of a recipe's data: in full and before anything else, or in a few lines as a training begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rir_mlx.data.audit import (
    Audit,
    Material,
    Ruler,
    audit,
)
from rir_mlx.data.scan import scan_sources
from rir_mlx.errors import RirError
from rir_mlx.models.hub import local_tokenizer
from rir_mlx.prompting.arms import label_tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER, answer_format, classifier_prompt
from rir_mlx.stages.context import Context
from rir_mlx.types import Arm

_ARMS: tuple[Arm, ...] = ("qa", "qra")
"""The arm whose prompt leaves the most room for a text, and the one that must keep room for a reasoning."""
_BATCH = 2000
_FEW = 4


def check(context: Context) -> Audit:
    """Look over every row of the recipe's data, those included that `max_samples` leaves out of a training.

    Fetches no model: where its tokenizer is not on this machine, the audit says that lengths were not counted, and why.
    Raises DataError where a file is not there, or cannot be read at all."""
    section = context.recipe.data
    material = scan_sources(section, context.recipe.seed)
    labels = dict(section.labels) or dict.fromkeys(sorted({row.label for row in material.parts["train"]}), "")
    if not labels:
        return audit(material)
    try:
        folder = local_tokenizer(context.recipe.model, context.recipe.revision)
        codec = Codec(folder, context.recipe.date)
        ruler = _ruler(context, codec, labels)
    except RirError as error:
        return replace(audit(material), unmeasured=str(error))
    return audit(material, ruler)


def warn(context: Context) -> None:
    """Say, once a context, what in the rows that it uses would spoil a training or its figures. Token lengths are
    counted only where the tokenizer is in use anyway."""
    if not context.first or "audit" in vars(context):
        return
    found = context.audit.of("error", "warning")
    for finding in found[:_FEW]:
        context.progress.warn(finding.what)
    if found:
        more = f"{len(found) - _FEW:,} more findings like these; " if len(found) > _FEW else ""
        context.progress.warn(f"{more}`rir-mlx check` shows where, and what helps.")


def audit_used(context: Context) -> Audit:
    """Look over the rows as a training uses them."""
    data = context.data
    material = Material(
        {"train": data.train, "validation": data.validation, "test": data.test}, tuple(context.recipe.data.labels)
    )
    return audit(material, _ruler(context, context.codec, data.labels) if "codec" in vars(context) else None)


def _ruler(context: Context, codec: Codec, labels: Mapping[str, str]) -> Ruler:
    """Token counts with a codec, and the room that a classifier has for a text when it predicts."""
    recipe = context.recipe

    def count(texts: Sequence[str]) -> list[int]:
        lengths: list[int] = []
        with context.progress.task("Counting tokens", len(texts)) as task:
            for start in range(0, len(texts), _BATCH):
                lengths += codec.lengths(texts[start : start + _BATCH])
                task.advance(min(_BATCH, len(texts) - start))
        return lengths

    longest = max(len(label_tokens(codec, label)) for label in labels)
    room: dict[str, int] = {}
    for arm in _ARMS:
        empty = codec.encode(
            classifier_prompt("", labels, recipe.data.instruction, answer_format(arm)), recipe.max_seq_length + _BATCH
        )
        reasoning = recipe.evaluate.max_reasoning_tokens + len(codec.constant(DELIMITER)) if arm == "qra" else 0
        room[arm] = recipe.max_seq_length - longest - reasoning - len(empty.prefix) - len(empty.row)
    return Ruler(count, room, codec.control_words())
