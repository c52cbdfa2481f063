"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")


class BackendChoice(StrEnum):
    auto = "auto"
    mlx = "mlx"
    torch = "torch"
    fake = "fake"


class ArmChoice(StrEnum):
    qa = "qa"
    qra = "qra"
    qar = "qar"
    multitask = "multitask"
    qra_scrambled = "qra-scrambled"
    qra_words = "qra-words"


RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
BackendOption = Annotated[
    BackendChoice | None, typer.Option(help="auto: MLX on Apple silicon, PyTorch elsewhere.", show_default=False)
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use what is on this machine; contact no server.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
