"""Which classifier of a run answers, and what decides its answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rir_mlx import __version__, adapters
from rir_mlx.decoding import Decoding
from rir_mlx.errors import UserError
from rir_mlx.prompts import Arm
from rir_mlx.run import digest_of, digest_of_file
from rir_mlx.stages.context import Context


def default_arm(context: Context) -> Arm:
    """The arm that answers where none is named: `qra` where it is trained, else `qa`.

    Raises UserError where the run has no trained classifier."""
    trained = context.run.trained_arms()
    if not trained:
        raise UserError(
            f"{context.run.folder} holds no trained classifier.",
            mend="`rir-mlx demo` makes one in two minutes; `rir-mlx run RECIPE` makes yours.",
        )
    return "qra" if "qra" in trained else "qa"


def classifier_identity(context: Context, arm: Arm, how: Decoding) -> str:
    """A short hash of everything that decides what a classifier answers. The backend does: its last digits are its
    own."""
    stage = context.run.classifier(arm)
    values: dict[str, Any] = {
        "adapter": digest_of_file(stage.adapter / adapters.MLX_WEIGHTS),
        "made": {path.name: digest_of_file(path) for path in sorted(stage.folder.glob("*.json"))},
        "base": context.base.fingerprint,
        "backend": context.backend.name,
        "dtype": context.recipe.dtype,
        "date": context.recipe.date,
        "evaluate": context.recipe.evaluate.model_dump(mode="json"),
        "arm": arm,
        "how": asdict(how),
        "rir_mlx": __version__,
    }
    return digest_of(values)
