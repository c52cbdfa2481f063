"""Arguments and options that several commands share. Choices come from `rir_mlx.types`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer

from rir_mlx.types import DEFAULT_RECIPE, SHIPPED, Arm, BackendChoice, ReasonMode


class ArmChoice(StrEnum):
    """The arms. typer takes a list of an enumeration, but not a list of a Literal."""

    vars().update({arm: arm for arm in get_args(Arm)})


_RECIPE = f"A recipe file, a shipped recipe ({', '.join(SHIPPED)}), or a run's folder."
RecipeArgument = Annotated[str | None, typer.Argument(help=f"{_RECIPE} Default: {DEFAULT_RECIPE}.")]
RunRecipeArgument = Annotated[
    str | None, typer.Argument(help=f"{_RECIPE} Default: the newest run, or {DEFAULT_RECIPE} if there is none.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a recipe key: rgen.epochs=1. May be repeated."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Run finished stages again.")]
RunOption = Annotated[str | None, typer.Option(help="A run's folder. Default: the newest run with a classifier.")]
_ARMS = ", ".join(get_args(Arm))
ArmOption = Annotated[
    Arm | None,
    typer.Option(
        metavar="ARM", help=f"The trained arm: {_ARMS}. Default: the one that the evaluation recommends, and says so."
    ),
]
ArmsOption = Annotated[
    list[ArmChoice] | None,
    typer.Option(
        "--arm", metavar="ARM", help=f"An arm to train; may be repeated: {_ARMS}. Default: the recipe's arms."
    ),
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs.")]
BackendOption = Annotated[
    BackendChoice | None,
    typer.Option(help="auto: MLX on Apple silicon, PyTorch elsewhere. Default: the recipe's, if there is one."),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")]
TrustRecipeOption = Annotated[
    bool, typer.Option("--trust-recipe", help="Send texts and the key to the server that the recipe names.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
TopKOption = Annotated[int | None, typer.Option(min=1, help="Print the TOP_K most probable labels.")]
TextColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Name of the text column in --file; several are joined. Default: as in training, or a usual name.",
    ),
]
DelimiterOption = Annotated[
    str | None, typer.Option(help="Character between the cells of --file: ; or tab. Default: found from the file.")
]
EncodingOption = Annotated[str | None, typer.Option(help="Encoding of --file, such as cp1252. Default: UTF-8.")]
QuotesOption = Annotated[
    bool | None,
    typer.Option("--quotes/--no-quotes", help="Quotation marks enclose cells of --file, or belong to its texts."),
]
FormulasOption = Annotated[
    bool, typer.Option("--formulas", help="Write new CSV cells as they are, even if they begin with =, +, - or @.")
]
ReasonOption = Annotated[
    ReasonMode, typer.Option(help="Whether to write reasonings. auto: only if the text alone leaves doubt.")
]
SamplesOption = Annotated[
    int, typer.Option(min=1, help="Reasonings per text. The label probabilities are averaged over them.")
]
MassOption = Annotated[
    bool, typer.Option("--mass/--no-mass", help="Tell the labels' share of the model's whole probability.")
]
ThresholdOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Give no label if its probability is below this.")
]
RetryRefusedOption = Annotated[
    bool, typer.Option("--retry-refused", help="Ask again for what the server refused or failed on.")
]
