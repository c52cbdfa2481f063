"""The facts for a trained arm's model card, gathered from the run."""

from __future__ import annotations

import platform
from typing import Any

from rir_convert.cards.card import CardExample, CardFacts, CardForm, DataSource, base_licence
from rir_convert.cards.public import public_command, public_name, public_recipe
from rir_convert.trained_arm import TrainedArm
from rir_mlx import __version__
from rir_mlx.evaluation.schema import read_comparison
from rir_mlx.recipe.schema import Recipe


def card_facts(
    trained: TrainedArm, name: str, verification: dict[str, Any], example: CardExample, form: CardForm
) -> CardFacts:
    """The facts about a verified folder."""
    context, recipe, base = trained.context, trained.context.recipe, trained.context.model.files
    comparison = context.run.comparison
    return CardFacts(
        name=name,
        base=public_name(base.name),
        base_revision=base.revision,
        base_licence=base_licence(base.folder),
        sources=_sources(recipe),
        arm=trained.arm,
        task=trained.task,
        calibration=trained.calibration,
        recipe=public_recipe(recipe),
        example=example,
        verification=verification,
        comparison=read_comparison(comparison) if comparison.is_file() else None,
        command=public_command(context.command),
        versions={"rir-mlx": __version__, "Python": platform.python_version()},
        form=form,
    )


def _sources(recipe: Recipe) -> list[DataSource]:
    parts = {"train": recipe.data.train, "validation": recipe.data.validation, "test": recipe.data.test}
    return [
        DataSource(part, public_name(source.path), source.revision, recipe.data.license)
        for part, source in parts.items()
        if source
    ]
