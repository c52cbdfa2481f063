"""Exports a trained arm of a run to another program's format, loads it back, compares it, and hands it over."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from rir_convert.cards.card import CardExample, CardForm, model_card
from rir_convert.cards.example import RUNNABLE, ProgramResult, card_example, run_program
from rir_convert.cards.facts import card_facts
from rir_convert.gguf.export import export_gguf
from rir_convert.gguf.writer import BYTES, check_family, check_weights
from rir_convert.trained_arm import TrainedArm
from rir_convert.verification.comparison import EngineComparison
from rir_convert.verification.engines.libraries import Library, installed_libraries
from rir_convert.verification.record import comparison_line, record
from rir_convert.verification.staging import scratch_folder, verified_folder
from rir_convert.verification.verifier import Verifier, Written
from rir_convert.weights.disk import check_space
from rir_convert.weights.hf_folder import FolderMetadata, stored_as, write_about, write_hf_folder
from rir_convert.weights.merging import Fused
from rir_convert.weights.tensors import Weights, base_weights, size_of
from rir_mlx import __version__
from rir_mlx.backends import open_backend
from rir_mlx.classification.exported import ExportedClassifier, needed_keys, write_exported
from rir_mlx.classification.loading import default_arm, trained_at
from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import ModelError, UserError
from rir_mlx.json_text import parse_json
from rir_mlx.models.families import ModelShape
from rir_mlx.models.weight_files import only_its_weights
from rir_mlx.progress import Progress, Silent, counting_bytes
from rir_mlx.prompting.prompts import DELIMITER
from rir_mlx.stages import Context, OpenOptions, open_trained_run
from rir_mlx.storage.atomic import replace_folder
from rir_mlx.types import QUANTIZATION_GROUP, Arm, BackendName, Dtype, ExportFormat, GgufType, QuantizationBits


@dataclass(frozen=True)
class ExportOptions:
    """What is written, and how the run is opened.

    to        the format of the export
    output    the folder to write; None for one inside the run
    quantize  bits of the weights, 4 or 8, for `mlx` only; None keeps them as they are
    gguf      number format of a GGUF file
    dtype     number format of the weights of `hf` and `mlx`; `auto` is the base's
    backend   what runs the trained model; None: the recipe's
    offline   take the base model from this machine
    progress  where progress is shown
    """

    to: ExportFormat = "hf"
    output: Path | None = None
    quantize: QuantizationBits | None = None
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

    Raises UserError if there is no such run or arm, the options contradict each other, or another process writes the
    same folder, and Failure if the written folder does not answer as the trained model does; it is then kept as
    `.rejected`."""
    opening = OpenOptions(backend=options.backend, offline=options.offline, progress=options.progress)
    context = open_trained_run(run, opening)
    return export_arm(context, arm or default_arm(context.run), options)


def export_arm(context: Context, arm: Arm, options: ExportOptions) -> ExportResult:
    """`export` for a run that is open already."""
    folder = (options.output or context.run.export(options.name, arm)).absolute()
    folder = folder.resolve() if folder.is_symlink() else folder  # the link stays, and leads to the export
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; an export is a folder.", hint="Name a folder with --output.")
    if folder.exists() and any(folder.iterdir()) and not _is_export(folder):
        raise UserError(
            f"{folder} holds something that this command did not write.",
            hint="Choose another --output, or move it elsewhere.",
        )
    trained = TrainedArm(context, arm)
    if trained.calibration.answer_from == {}:
        context.progress.warn(
            "evaluate.wanted_accuracy was not measured for this classifier, so the export answers only with a "
            "threshold of the user's: run `rir-mlx evaluate` first."
        )
    work = _Export(trained, options, folder)
    work.check()
    with verified_folder(folder) as written:
        reference = trained.reference(example=work.form in RUNNABLE)
        comparisons = work.write(written, Verifier(context.progress, reference))
        if options.to != "gguf":
            write_exported(written, work.exported)
        example, program = work.example(written, comparisons, reference.example)
        facts = {"rir_mlx": __version__, "arm": arm, "format": options.name, "adapter_effect": reference.effect}
        facts["card_program"] = program.as_json()
        values = record(written, comparisons, faults=program.faults, **facts)
        card = model_card(card_facts(trained, work.name, values, example, work.form))
        (written / "README.md").write_text(card, encoding="utf-8")
    for line in (*map(comparison_line, comparisons), program.line):
        context.progress.say(line)
    return ExportResult(folder, values)


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

    @cached_property
    def card_example(self) -> CardExample:
        """The card's prompt and program, before the program has run."""
        return card_example(self.trained, self.form)

    def check(self) -> None:
        """Find what cannot work before anything is computed: impossible options, a model that the format has no place
        for, a full disk, and what the card is made of."""
        options = self.options
        _check_choices(options)
        if options.to == "adapter" and self.spec.fine_tune_type == "full":
            raise UserError("All weights were trained, so there is no adapter to export.", hint="Use --to hf.")
        if options.dtype != "auto" and options.to in ("gguf", "adapter"):
            raise UserError("--dtype is for --to hf and mlx.", hint="For GGUF use --gguf-type.")
        if options.quantize:
            self._check_quantising()
        if options.to == "gguf":
            check_family(self.base.config, self.base.folder / "tokenizer.json")
            check_weights(self.fused, self.base.config, options.gguf)
        if options.to != "adapter":
            copies = BYTES[options.gguf] / 4 if options.to == "gguf" else 2 if options.quantize else 1
            check_space(self.folder, round(copies * size_of(self.fused)))
        card_facts(self.trained, self.name, {}, self.card_example, self.form)

    def _check_quantising(self) -> None:
        if self.options.to != "mlx":
            raise UserError("--quantize is for --to mlx.", hint="Add --to mlx; for GGUF use --gguf-type q8_0.")
        if "mlx-lm" not in installed_libraries():
            raise UserError(
                "--quantize needs MLX and mlx-lm, which are not installed.",
                hint="Install them, or export without --quantize; --to gguf --gguf-type q8_0 needs neither.",
            )
        if (width := ModelShape.of(self.base.config).hidden) % QUANTIZATION_GROUP:
            raise ModelError(
                f"Layers of width {width} cannot be quantised in groups of {QUANTIZATION_GROUP}.",
                hint="Export without --quantize, or use --to gguf --gguf-type q8_0.",
            )
        open_backend("mlx")

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
        example = self.card_example
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
                **({"combinations": trained.task.names} if trained.task.combinations else {}),
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

    @property
    def exported(self) -> ExportedClassifier:
        """What `classify` asks the written folder."""
        trained, recipe, run = self.trained, self.context.recipe, self.context.run
        adapter = self.options.to == "adapter"
        return ExportedClassifier(
            name=run.name,
            arm=trained.arm,
            form=self.options.to,
            task=trained.task,
            calibration=trained.calibration,
            created=trained_at(run, recipe, trained.arm),
            base=self.base.name if adapter else None,
            revision=self.base.revision if adapter else None,
            recipe=needed_keys(recipe),
        )

    def _write_fused(self, folder: Path) -> None:
        with counting_bytes(self.context.progress, f"fuse into {self.base.name}", size_of(self.fused)) as advance:
            write_hf_folder(folder, self.fused, self.base, self.metadata, advance=advance)

    def _quantised(self, written: Path, verifier: Verifier) -> list[EngineComparison]:
        """Quantise, once the unquantised folder is verified; then measure how many labels that changes."""
        from rir_mlx.backends.mlx.weights import quantise

        bits, trained = self.options.quantize, self.trained
        assert bits is not None
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


def _check_choices(options: ExportOptions) -> None:
    """Raises UserError for a value that is none of the option's: Python's annotations refuse nothing."""
    choices: dict[str, Any] = {"to": ExportFormat, "quantize": QuantizationBits, "gguf": GgufType, "dtype": Dtype}
    for name, known in choices.items():
        value = getattr(options, name)
        if value not in get_args(known) and not (name == "quantize" and value is None):
            listed = ", ".join(map(str, get_args(known)))
            raise UserError(f"ExportOptions.{name} is {value!r}.", hint=f"Give one of {listed}.")


def _is_export(folder: Path) -> bool:
    """Whether this command wrote the folder: its verification.json says so. A damaged one says nothing."""
    try:
        values = parse_json((folder / "verification.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "rir_mlx" in values
