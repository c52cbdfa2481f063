"""Exports a trained arm of a run to another program's format, loads it back, compares it, and hands it over."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rir_convert.cards.card import CardExample, CardForm, model_card
from rir_convert.cards.example import RUNNABLE, ProgramResult, card_example, run_program
from rir_convert.cards.facts import card_facts
from rir_convert.gguf.export import export_gguf
from rir_convert.gguf.writer import BYTES, check_family
from rir_convert.trained_arm import TrainedArm
from rir_convert.verification.comparison import EngineComparison
from rir_convert.verification.engines.libraries import Library, installed_libraries
from rir_convert.verification.probe import Reference
from rir_convert.verification.record import comparison_line, record
from rir_convert.verification.staging import scratch_folder, verified_folder
from rir_convert.verification.verifier import Verifier, Written
from rir_convert.weights.hf_folder import FolderMetadata, stored_as, write_about, write_hf_folder
from rir_convert.weights.merging import Fused
from rir_convert.weights.tensors import Weights, base_weights, check_space, size_of
from rir_mlx import __version__
from rir_mlx.backends import open_backend
from rir_mlx.classification.loading import default_arm
from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import UserError
from rir_mlx.models.weight_files import only_its_weights
from rir_mlx.progress import Progress, Silent, counting_bytes
from rir_mlx.prompting.prompts import DELIMITER
from rir_mlx.stages import Context, OpenOptions, open_trained_run
from rir_mlx.storage.atomic import read_json, replace_folder
from rir_mlx.types import Arm, BackendName, Dtype, ExportFormat, GgufType


@dataclass(frozen=True)
class ExportOptions:
    """What is written, and how the run is opened.

    to        the format of the export
    output    the folder to write; None for one inside the run
    quantize  bits of the weights, 4 or 8, for `mlx` only; None keeps them as they are
    gguf      number format of a GGUF file
    dtype     number format of the weights of `hf` and `mlx`; `auto` is the base's
    backend   what runs the trained model; None for the one that the run was trained on
    offline   take the base model from this machine
    progress  where progress is shown
    """

    to: ExportFormat = "hf"
    output: Path | None = None
    quantize: int | None = None
    gguf: GgufType = "f16"
    dtype: Dtype = "auto"
    backend: BackendName | None = None
    offline: bool = True
    progress: Progress = field(default_factory=Silent)

    @property
    def name(self) -> str:
        """The suffix that tells the export's folder in a run from other exports."""
        if self.to == "gguf":
            return f"gguf-{self.gguf}"
        parts = [self.to, f"{self.quantize}bit" if self.quantize else "", "" if self.dtype == "auto" else self.dtype]
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class ExportResult:
    """The written `folder`, and what its verification.json says."""

    folder: Path
    verification: dict[str, Any]


_DEFAULTS = ExportOptions()


def export(run: str | Path | None = None, arm: Arm | None = None, options: ExportOptions = _DEFAULTS) -> ExportResult:
    """Export an arm of a run's folder (None: the newest run with a classifier) and verify the export. `arm` None is the
    arm that `classify` uses.

    Raises UserError if there is no such run or arm or the options contradict each other, and Failure if the written
    folder does not answer as the trained model does; it is then kept as `.rejected`."""
    opening = OpenOptions(backend=options.backend, offline=options.offline, progress=options.progress)
    context = open_trained_run(run, opening)
    return export_arm(context, arm or default_arm(context.run), options)


def export_arm(context: Context, arm: Arm, options: ExportOptions) -> ExportResult:
    """`export` for a run that is open already."""
    folder = (options.output or context.run.export(options.name, arm)).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; an export is a folder.", hint="Name a folder with --output.")
    if folder.exists() and any(folder.iterdir()) and not _is_export(folder):
        raise UserError(f"{folder} holds something that this command did not write.", hint="Choose another --output.")
    trained = TrainedArm(context, arm)
    work = _Export(trained, options, folder)
    work.check()
    with verified_folder(folder) as written:
        reference = trained.reference(example=work.form in RUNNABLE)
        comparisons = work.write(written, Verifier(context.progress, reference))
        example, program = work.example(written, comparisons, reference.example)
        facts = {"rir_mlx": __version__, "arm": arm, "format": options.name, "adapter_effect": reference.effect}
        facts["card_program"] = program.as_json()
        values = record(written, comparisons, faults=program.faults, **facts)
        card = model_card(card_facts(trained, work.name, values, example, work.form))
        (written / "README.md").write_text(card, encoding="utf-8")
    for line in (*map(comparison_line, comparisons), program.line):
        context.progress.say(line)
    return ExportResult(folder, values)


def verify_folder(trained: TrainedArm, reference: Reference, folder: Path) -> list[EngineComparison]:
    """Compare a folder in Hugging Face format with the trained arm."""
    return Verifier(trained.context.progress, reference).of_folder(folder, trained.prompts, trained.codec)


class _Export:
    """One arm in one format, written and loaded back."""

    def __init__(self, trained: TrainedArm, options: ExportOptions, folder: Path) -> None:
        self.trained, self.options, self.folder = trained, options, folder
        self.context, self.base = trained.context, trained.context.model.files
        self.spec = trained.adapter.spec
        self.name = re.sub(r"[^\w.-]+", "-", f"{self.context.recipe.name}-{trained.arm}")

    @cached_property
    def fused(self) -> Fused:
        """The base's weights with the adapter merged in."""
        weights = base_weights(self.base.folder, self.base.config)
        dtype = "float32" if self.options.to == "gguf" else self.options.dtype  # GGUF has number formats of its own
        return Fused(weights, self.spec, self.trained.adapter.tensors, dtype=dtype)

    def check(self) -> None:
        """Refuse impossible options before anything is computed."""
        options = self.options
        if options.quantize and options.to != "mlx":
            raise UserError("--quantize is for --to mlx.", hint="Add --to mlx; for GGUF use --gguf-type q8_0.")
        if options.quantize:
            open_backend("mlx")
        if options.to == "adapter" and self.spec.fine_tune_type == "full":
            raise UserError("All weights were trained, so there is no adapter to export.", hint="Use --to hf.")
        if options.dtype != "auto" and options.to in ("gguf", "adapter"):
            raise UserError("--dtype is for --to hf and mlx.", hint="For GGUF use --gguf-type.")
        if options.to == "gguf":
            check_family(self.base.config, self.base.folder / "tokenizer.json")
        if options.to != "adapter":
            copies = BYTES[options.gguf] / 4 if options.to == "gguf" else 2 if options.quantize else 1
            check_space(self.folder, round(copies * size_of(self.fused)))

    def write(self, written: Path, verifier: Verifier) -> list[EngineComparison]:
        """Write the format to the folder `written` and compare it in every installed engine."""
        match self.options.to:
            case "adapter":
                shutil.copytree(self.trained.folder, written)
                with only_its_weights(self.base.folder) as base:
                    return verifier.by(installed_libraries(), Written(base, "float32", adapter=written))
            case "gguf":
                with scratch_folder(written) as source:
                    source.mkdir(parents=True)
                    write_about(source, self.base, self.metadata, "float32")
                    target = written / f"{self.name}.{self.options.gguf}.gguf"
                    return export_gguf(source, self.fused, target, verifier, self.trained)
            case "mlx" if self.options.quantize:
                return self._quantised(written, verifier)
            case _:
                self._write_fused(written)
                made_for: Library = "mlx-lm" if self.options.to == "mlx" else "transformers"
                return verifier.of_folder(written, self.trained.prompts, self.trained.codec, made_for=made_for)

    def example(
        self, written: Path, comparisons: Sequence[EngineComparison], expected: Prediction | None
    ) -> tuple[CardExample, ProgramResult]:
        """The card's example, with what its program printed in the folder `written`. It is not run in a folder that is
        wrong."""
        example = card_example(self.trained, self.form)
        if any(comparison.faults for comparison in comparisons):
            return example, ProgramResult(note="the folder is another model")
        number_format = stored_as(Weights(written)) if example.code else "float32"
        output, program = run_program(example, written, self.trained, expected, number_format)
        return replace(example, output=output), program

    @property
    def metadata(self) -> FolderMetadata:
        trained, recipe = self.trained, self.context.recipe
        extra = {
            "rir_mlx": {
                "version": __version__,
                "arm": trained.arm,
                "labels": trained.task.labels,
                "instruction": trained.task.instruction,
                "date": recipe.date,
                "delimiter": DELIMITER,
                "terminator": trained.codec.terminator,
            }
        }
        made_for = "mlx" if self.options.to == "mlx" else "pt"
        return FolderMetadata(list(trained.codec.stops), trained.task.names, recipe.date, extra, made_for)

    @property
    def form(self) -> CardForm:
        return "mlx-quantised" if self.options.quantize else self.options.to

    def _write_fused(self, folder: Path) -> None:
        with counting_bytes(self.context.progress, f"fuse into {self.base.name}", size_of(self.fused)) as advance:
            write_hf_folder(folder, self.fused, self.base, self.metadata, advance=advance)

    def _quantised(self, written: Path, verifier: Verifier) -> list[EngineComparison]:
        """Quantise, once the unquantised folder is verified; then measure how many labels that changes."""
        from rir_mlx.backends.mlx.weights import quantise

        bits, trained = self.options.quantize or 8, self.trained
        with scratch_folder(written) as full:
            self._write_fused(full)
            before = verifier.of_folder(
                full, trained.prompts, trained.codec, made_for="mlx-lm", suffix=", before quantising"
            )
            if any(comparison.faults for comparison in before):
                replace_folder(full, written)
                return before
            written.mkdir()
            for path in full.iterdir():
                if not path.name.startswith("model"):
                    shutil.copyfile(path, written / path.name)
            quantise(full, written, bits)
        quantised = Written(written, f"{bits} bits", made_for="mlx-lm", suffix=f", {bits} bits", every_row=True)
        after = verifier.by(["mlx-lm"], quantised)
        agreement, rows = after[0].label_agreement or 0.0, after[0].label_rows
        self.context.progress.say(f"{bits} bits change {1 - agreement:.1%} of the labels of {rows} rows.")
        return [*before, *after]


def _is_export(folder: Path) -> bool:
    path = folder / "verification.json"
    return path.is_file() and "rir_mlx" in read_json(path)
