"""The commands that write models and adapters in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rir_cli.groups import Command, Group
from rir_cli.options import ArmOption, BackendOption, JsonOption, OfflineOption, QuietOption, RunsOption
from rir_mlx.types import RUNS, Dtype, Ecosystem, ExportFormat, GgufType, QuantizationBits

DtypeOption = Annotated[
    Dtype, typer.Option(help="Number format of the weights in hf and mlx folders. auto: the base model's.")
]
_ADAPTER_HELP = "A folder with an adapter from mlx-lm, PEFT or rir-mlx."

convert = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Convert adapters that other programs trained, or fuse them into their base model.",
)


def export(
    run: Annotated[
        str | None, typer.Argument(help="A run's folder. Default: the newest run with a classifier.")
    ] = None,
    arm: ArmOption = None,
    to: Annotated[
        ExportFormat,
        typer.Option(
            help="hf: a folder for transformers and vLLM; mlx: one for mlx-lm; gguf: a file for llama.cpp, Ollama and "
            "LM Studio; adapter: a folder for PEFT and mlx-lm, without the base."
        ),
    ] = "hf",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write. Default: in the run.")] = None,
    quantize: Annotated[
        QuantizationBits | None, typer.Option(help="Quantize the weights to this many bits, with --to mlx.")
    ] = None,
    gguf_type: Annotated[GgufType, typer.Option(help="Number format of the weights in a GGUF file.")] = "f16",
    dtype: DtypeOption = "auto",
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Upload to the Hugging Face hub, privately."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make the uploaded repository public.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what --push-to-hub would upload, and contact no server.")
    ] = False,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Export a classifier to another format, load it back, and verify that it is the same model."""
    from rir_convert.exporting import ExportOptions, export_arm
    from rir_convert.upload import check_push, push_folder

    from rir_cli.console import print_json
    from rir_cli.context import arm_of, multiply_exactly, trained_context
    from rir_mlx.errors import UserError

    multiply_exactly()
    if (public or dry_run) and not push_to_hub:
        raise UserError("--public and --dry-run are options of an upload.", hint="Add --push-to-hub OWNER/NAME.")
    if push_to_hub and offline and not dry_run:
        raise UserError("--push-to-hub needs a network, which --offline forbids.", hint="Remove one of the two.")
    context = trained_context(run, runs, backend, offline=offline, quiet=quiet)
    if push_to_hub:
        check_push(push_to_hub, dry_run=dry_run)
    options = ExportOptions(to, output, quantize, gguf_type, dtype)
    exported = export_arm(context, arm_of(context, arm), options)
    found = {"folder": str(exported.folder)} | exported.verification
    if push_to_hub:
        pushed = push_folder(
            exported.folder, push_to_hub, private=not public, dry_run=dry_run, progress=context.progress
        )
        found["pushed"] = pushed.as_dict()
    if json:
        print_json(found)
    else:
        typer.echo(f"{exported.folder}")


@convert.command(cls=Command)
def adapter(
    source: Annotated[Path, typer.Argument(help=_ADAPTER_HELP)],
    target: Annotated[Path, typer.Argument(help="The folder to write; it must be new or empty.")],
    to: Annotated[Ecosystem, typer.Option(help="The format to write.")],
    quiet: QuietOption = False,
) -> None:
    """Convert a LoRA or DoRA adapter between mlx-lm's format and PEFT's."""
    from rir_convert.adapters import convert_adapter

    from rir_cli.console import ConsoleProgress
    from rir_mlx.progress import counted

    found = convert_adapter(source, target, to)
    modules = sum(len(keys) for keys in found.places.values())
    kind = {"lora": "LoRA", "dora": "DoRA"}[found.spec.fine_tune_type]
    ConsoleProgress(quiet=quiet).say(
        f"{kind} of rank {found.spec.rank}, scale {found.spec.scale:g}, on {counted(modules, 'module')} of "
        f"{counted(len(found.places), 'layer')}."
    )
    typer.echo(f"{target}")


@convert.command(cls=Command)
def fuse(
    output: Annotated[Path, typer.Argument(help="The folder to write; it must be new or empty.")],
    model: Annotated[str, typer.Option(help="The base model: a folder or a Hugging Face id.")],
    adapter: Annotated[Path, typer.Option(help=_ADAPTER_HELP)],
    dtype: DtypeOption = "auto",
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Fuse an adapter into its base model as a Hugging Face folder, and verify that it is the same model."""
    from rir_convert.fusing import FuseOptions
    from rir_convert.fusing import fuse as fuse_adapter

    from rir_cli.console import ConsoleProgress, print_json
    from rir_cli.context import prepare

    prepare(offline=offline)
    options = FuseOptions(dtype, offline, ConsoleProgress(quiet=quiet))
    verification = fuse_adapter(model, adapter, output, options)
    if json:
        print_json({"folder": str(output)} | verification)
    else:
        typer.echo(f"{output}")
