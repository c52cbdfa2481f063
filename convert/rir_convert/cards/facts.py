"""The facts for a trained arm's model card, gathered from the run."""

from __future__ import annotations

import platform
from typing import Any

from rir_convert.cards.card import CardExample, CardFacts, CardForm, DataSource, base_licence
from rir_convert.cards.public import public_command, public_name, public_recipe
from rir_convert.trained_arm import TrainedArm
from rir_mlx import __version__


def card_facts(
    trained: TrainedArm, name: str, verification: dict[str, Any], example: CardExample, form: CardForm
) -> CardFacts:
    """The facts about a verified folder."""
    context, recipe, base = trained.context, trained.context.recipe, trained.context.model.files
    return CardFacts(
        name=name,
        base=public_name(base.name),
        base_revision=base.revision,
        base_licence=base_licence(base.folder),
        sources=_sources(trained),
        arm=trained.arm,
        task=trained.task,
        calibration=trained.calibration,
        recipe=public_recipe(recipe),
        example=example,
        verification=verification,
        comparison=trained.comparison,
        command=public_command(context.command),
        versions={"rir-mlx": __version__, "Python": platform.python_version()},
        form=form,
    )


def _sources(trained: TrainedArm) -> list[DataSource]:
    """Where the rows come from and, for an arm whose reasonings R-Gen wrote, what R-Gen learned from."""
    context, data = trained.context, trained.context.recipe.data
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    found = [
        DataSource(part, public_name(source.path), source.revision, data.license)
        for part, source in parts.items()
        if source
    ]
    triples = context.recipe.reasoning.source
    if triples and trained.arm != "qa" and context.data.needs_rgen():
        found.append(DataSource("reasoning", public_name(triples.path), triples.revision))
    return found
