"""The facts for a trained arm's model card, gathered from the run."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from rir_convert.cards.card import CardExample, CardFacts, CardForm, DataSource, base_licence
from rir_convert.cards.program import example_code, example_prompt, run_example
from rir_convert.cards.public import public_command, public_name, public_recipe
from rir_convert.gguf.modelfile import without_first_token
from rir_convert.trained_arm import TrainedArm
from rir_mlx import __version__
from rir_mlx.evaluation.schema import read_comparison
from rir_mlx.recipe.schema import Recipe
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import read_json

_EXAMPLE_SECONDS = 1800.0


def card_facts(
    trained: TrainedArm, written: Path, name: str, verification: dict[str, Any], form: CardForm
) -> CardFacts:
    """The facts about the verified folder `written`. The card's program is run there if transformers reads the folder.

    Raises Failure if the program fails."""
    context, recipe, base = trained.context, trained.context.recipe, trained.context.model.files
    calibration = _calibration(trained)
    comparison = context.run.comparison
    return CardFacts(
        name=name,
        base=public_name(base.name),
        base_revision=base.revision,
        base_licence=base_licence(base.folder),
        sources=_sources(recipe),
        arm=trained.arm,
        task=trained.task,
        calibration=calibration,
        recipe=public_recipe(recipe),
        example=_example(trained, written, calibration, form),
        verification=verification,
        comparison=read_comparison(comparison) if comparison.is_file() else None,
        command=public_command(context.command),
        versions={"rir-mlx": __version__, "Python": platform.python_version()},
        form=form,
    )


def _calibration(trained: TrainedArm) -> Calibration:
    path = trained.context.run.classifier(trained.arm).calibration
    return Calibration.from_dict(read_json(path)["calibration"]) if path.is_file() else Calibration()


def _example(trained: TrainedArm, written: Path, calibration: Calibration, form: CardForm) -> CardExample:
    """The prompt of a made-up text, and for transformers a program with what it printed."""
    prompt = example_prompt(trained.arm, trained.task, trained.codec)
    if form == "gguf":
        return CardExample(without_first_token(trained.codec, prompt))
    if form not in ("hf", "mlx"):
        return CardExample(prompt)
    code = example_code(trained.arm, trained.task, trained.codec, calibration=calibration)
    trained.context.progress.say("Running the model card's program …")
    return CardExample(prompt, code, run_example(written, code, _EXAMPLE_SECONDS))


def _sources(recipe: Recipe) -> list[DataSource]:
    parts = {"train": recipe.data.train, "validation": recipe.data.validation, "test": recipe.data.test}
    return [
        DataSource(part, public_name(source.path), source.revision, recipe.data.license)
        for part, source in parts.items()
        if source
    ]
