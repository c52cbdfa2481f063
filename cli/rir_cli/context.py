"""From a command's options to the run that it works on."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rir_mlx.stages import Context, OpenOptions


def context_for(
    recipe: str | None,
    overrides: list[str] | None,
    runs: Path,
    backend: str | None,
    *,
    offline: bool,
    quiet: bool,
    force: bool = False,
) -> Context:
    """The run that a command works on: the one named, the recipe's, or the newest."""
    prepare(offline=offline)
    from rir_mlx.stages import open_run

    options = open_options(overrides or (), runs, offline=offline, quiet=quiet, backend=backend, force=force)
    return open_run(recipe, options)


def trained_context(run: str | None, runs: Path, backend: str | None, *, offline: bool, quiet: bool) -> Context:
    """The named run, or the newest one, which must have a trained classifier."""
    prepare(offline=offline)
    from rir_mlx.stages import open_trained_run

    return open_trained_run(run, open_options((), runs, offline=offline, quiet=quiet, backend=backend))


def open_options(overrides: Sequence[str], runs: Path, *, offline: bool, quiet: bool, **more: Any) -> OpenOptions:
    """How a run is opened from the command line."""
    from rir_cli.console import ConsoleProgress
    from rir_mlx.stages import OpenOptions

    command = shlex.join(["rir-mlx", *sys.argv[1:]])
    progress = ConsoleProgress(quiet=quiet)
    return OpenOptions(runs, tuple(overrides), offline=offline, progress=progress, command=command, **more)


def prepare(*, offline: bool) -> None:
    """Before any library is imported that reads these: no telemetry, and no network where none is wanted."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # What libraries plan for later versions, and what PEFT finds odd in mlx-lm's keys: nothing that a user can mend.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Unexpected keyword arguments", category=UserWarning)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
