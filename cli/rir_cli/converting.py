"""The commands that write models and adapters in other programs' formats."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rir_cli.options import RUNS, ArmChoice, BackendOption, JsonOption, OfflineOption, QuietOption, RunsOption


class FormatChoice(StrEnum):
    hf = "hf"
    mlx = "mlx"
    gguf = "gguf"
    adapter = "adapter"


class GgufChoice(StrEnum):
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"


class DtypeChoice(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class BitsChoice(StrEnum):
    four = "4"
    eight = "8"


class EcosystemChoice(StrEnum):
    peft = "peft"
    mlx = "mlx"


DtypeOption = Annotated[DtypeChoice, typer.Option(help="Number format of the weights of hf and mlx; auto: the base's.")]

convert = typer.Typer(
    no_args_is_help=True, help="Adapters and models that others trained: from one format to another, and fused."
)


def export(
    run: Annotated[str | None, typer.Argument(help="A run's folder; the newest with a classifier otherwise.")] = None,
    arm: Annotated[
        ArmChoice | None, typer.Option(help="The one that classifies, where none is named.", show_default=False)
    ] = None,
    to: Annotated[
        FormatChoice,
        typer.Option(
            help="hf: a folder for transformers and vLLM; mlx: one for mlx-lm; gguf: a file for llama.cpp, Ollama and "
            "LM Studio; adapter: a folder for PEFT and mlx-lm, without the base."
        ),
    ] = FormatChoice.hf,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; inside the run otherwise.")] = None,
    quantize: Annotated[
        BitsChoice | None, typer.Option(help="Bits of the weights, for --to mlx.", show_default=False)
    ] = None,
    gguf_type: Annotated[GgufChoice, typer.Option(help="Number format of a GGUF file.")] = GgufChoice.f16,
    dtype: DtypeOption = DtypeChoice.auto,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Upload it there, private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Upload it for everybody to see.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what --push-to-hub would upload, and contact nobody.")
    ] = False,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Write a classifier in a format of others, load it back, and prove that it is the same model."""
    from rir_cli.console import print_json
    from rir_cli.context import trained_context
    from rir_cli.exporting import Wanted, export_classifier
    from rir_mlx.classification.loading import default_arm
    from rir_mlx.errors import UserError

    if (public or dry_run) and not push_to_hub:
        raise UserError("--public and --dry-run say how to upload.", hint="Add --push-to-hub OWNER/NAME.")
    if push_to_hub and offline and not dry_run:
        raise UserError("--push-to-hub needs a network, and --offline forbids it.", hint="Leave one of them out.")
    context = trained_context(run, runs, backend, offline=offline, quiet=quiet)
    bits = int(quantize.value) if quantize else None
    wanted = Wanted(to.value, output, bits, gguf_type.value, dtype.value)
    folder, verification = export_classifier(context, arm.value if arm else default_arm(context.run), wanted)
    found = {"folder": str(folder)} | verification
    if push_to_hub:
        from rir_convert.hub import push_folder

        pushed = push_folder(folder, push_to_hub, private=not public, dry_run=dry_run, say=context.progress.say)
        found["pushed"] = pushed.as_dict()
    if json:
        print_json(found)
    else:
        typer.echo(f"{folder}")


@convert.command()
def adapter(
    source: Annotated[Path, typer.Argument(help="A folder that mlx-lm, PEFT or rir-mlx wrote an adapter to.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[EcosystemChoice, typer.Option(help="Whose format to write.")],
    quiet: QuietOption = False,
) -> None:
    """Convert a LoRA or DoRA adapter between mlx-lm's format and PEFT's."""
    from rir_convert.adapters import convert_adapter

    from rir_cli.console import ConsoleProgress

    found = convert_adapter(source, target, to.value)
    modules = sum(len(keys) for keys in found.places.values())
    kind = {"lora": "LoRA", "dora": "DoRA"}[found.spec.fine_tune_type]
    ConsoleProgress(quiet=quiet).say(
        f"{kind} of rank {found.spec.rank}, scale {found.spec.scale:g}, on {modules} modules of "
        f"{len(found.places)} layers."
    )
    typer.echo(f"{target}")


@convert.command()
def fuse(
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    model: Annotated[str, typer.Option(help="The base: a folder or a hub id.")],
    adapter: Annotated[Path, typer.Option(help="A folder that mlx-lm, PEFT or rir-mlx wrote an adapter to.")],
    dtype: DtypeOption = DtypeChoice.auto,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Merge any adapter into its base as a Hugging Face folder, and prove that it is the same model."""
    from rir_cli.console import ConsoleProgress, print_json
    from rir_cli.context import prepare
    from rir_cli.fusing import fuse_folders

    prepare(offline=offline)
    verification = fuse_folders(model, adapter, output, dtype.value, ConsoleProgress(quiet=quiet), offline=offline)
    if json:
        print_json({"folder": str(output)} | verification)
    else:
        typer.echo(f"{output}")
