"""What `rir-mlx export` does: write what was trained in a format of others, load it back, compare, hand it over."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rir_convert.card import CardFacts, DataSource, Example, Form, base_licence, model_card
from rir_convert.example import example_code, example_prompt, run_example
from rir_convert.fuse import Fused
from rir_convert.gate import (
    ROWS,
    Answers,
    Comparison,
    Probe,
    ask,
    ask_rows,
    compare,
    mean_difference,
    record,
    unreadable,
)
from rir_convert.gguf import BYTES, check_installed
from rir_convert.hf import About, stored_as, write_about, write_hf_folder
from rir_convert.integrity import faults
from rir_convert.ollama import without_first_token
from rir_convert.weights import Weights, base_weights, check_space, size_of

from rir_mlx import __version__
from rir_mlx.backends import open_backend, release_memory
from rir_mlx.backends.base import Model, Tokens
from rir_mlx.classification.classifier import Classifier
from rir_mlx.data.rows import Row
from rir_mlx.errors import Failure, UserError
from rir_mlx.evaluation.schema import read_comparison
from rir_mlx.models import adapters
from rir_mlx.progress import Progress, counting_bytes
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.prompts import (
    DELIMITER,
    Prompt,
    answer_format,
    classifier_prompt,
)
from rir_mlx.recipe.loading import dump_recipe
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import read_json, read_jsonl, replace_folder
from rir_mlx.types import Arm, Dtype, ExportFormat, GgufType

if TYPE_CHECKING:
    from rir_mlx.stages import Context

_EFFECT_ROWS = 16
_EXAMPLE_SECONDS = 1800.0
_NEEDS = {"torch": ("torch", "peft"), "mlx": ("mlx_lm",)}


@dataclass(frozen=True)
class Wanted:
    """What is to be written. `quantize` are bits for MLX, `gguf` the number format of a GGUF file, `dtype` that of the
    other weights."""

    to: ExportFormat = "hf"
    output: Path | None = None
    quantize: int | None = None
    gguf: GgufType = "f16"
    dtype: Dtype = "auto"

    @property
    def name(self) -> str:
        """How its folder in a run is told from those of other exports."""
        if self.to == "gguf":
            return f"gguf-{self.gguf}"
        parts = [self.to, f"{self.quantize}bit" if self.quantize else "", "" if self.dtype == "auto" else self.dtype]
        return "-".join(part for part in parts if part)


def installed_engines() -> list[str]:
    """The backends whose frameworks are here."""
    return [name for name, modules in _NEEDS.items() if all(importlib.util.find_spec(one) for one in modules)]


class Exam:
    """What the trained model is asked, and what it answers: the measure of everything that is exported from it."""

    def __init__(self, context: Context, arm: Arm) -> None:
        self.context, self.arm = context, arm
        stage = context.run.classifier(arm)
        if stage.done() is None:
            arms = ", ".join(context.run.trained_arms())
            raise UserError(f"{context.run.folder} has no {arm} classifier.", hint=f"Trained arms: {arms}.")
        self.folder = stage.adapter
        self.adapter = adapters.read_adapter(stage.adapter, context.model.files)
        self.task = ClassificationTask(**self.adapter.about["task"])

    @cached_property
    def rows(self) -> list[tuple[Row, str]]:
        """Rows of the run with the reasoning that the arm wrote for them, where it was evaluated."""
        data = self.context.data
        rows = (data.test or data.validation or data.train)[:ROWS]
        path = self.context.run.predictions(self.arm)
        written = {one["text"]: one["reasoning"] for one in read_jsonl(path)} if path.is_file() else {}
        return [(row, written.get(row.text) or "") for row in rows]

    @cached_property
    def prompts(self) -> list[tuple[Prompt, Tokens]]:
        """Prompts with the ids that training had for them."""
        asked, task, made = answer_format(self.arm), self.task, []
        for row, _ in self.rows:
            prompt = classifier_prompt(row.text, task.labels, task.instruction, asked)
            encoded = self.context.model.codec.encode(prompt, task.max_seq_length)
            made.append((prompt, encoded.prefix + encoded.row))
        return made

    def answer(self) -> tuple[Probe, Answers, float]:
        """The probe, the adapter model's answers in float32, and how far they are from the base's."""
        context, spec = self.context, self.adapter.spec
        context.progress.say(f"Asking the trained model for {len(self.rows)} rows …")
        model = context.backend.load(context.model.files.folder, dtype="float32", adapter=(spec, self.adapter.tensors))
        classifier = Classifier(model, context.model.codec, self.task, self.arm)
        head, prompts = classifier.prompts([row.text for row, _ in self.rows], [reason for _, reason in self.rows])
        probe = Probe(head, prompts, classifier.label_tokens)
        answers = ask(model, probe)
        del model, classifier
        release_memory()
        base = ask_rows(context.backend.load(context.model.files.folder, dtype="float32"), probe, _EFFECT_ROWS)
        release_memory()
        return probe, answers, mean_difference(base, answers.rows)


def export_classifier(context: Context, arm: Arm, wanted: Wanted) -> tuple[Path, dict[str, Any]]:
    """Export one arm and prove the export. Returns the folder and what stands in its verification.json.

    Raises Failure where the written folder is not the model that was trained; it is kept aside as `.rejected`."""
    folder = (wanted.output or context.run.export(wanted.name, arm)).absolute()
    if folder.exists() and any(folder.iterdir()) and not _ours(folder):
        raise UserError(f"{folder} holds something that this command did not write.", hint="Choose another --output.")
    exam = Exam(context, arm)
    work = _Export(exam, wanted, folder)
    work.check()
    with aside(folder) as written:
        probe, reference, effect = exam.answer()
        comparisons = work.write(written, probe, reference, effect)
        facts = {"rir_mlx": __version__, "arm": arm, "format": wanted.name, "adapter_effect": effect}
        values = record(written, comparisons, **facts)
        work.finish(written, values)
    for one in comparisons:
        context.progress.say(in_words(one))
    return folder, values


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A folder that takes the place of `folder` when the block ends well, and is kept as `.rejected` where it was not
    the model that was trained."""
    written = folder.with_name(folder.name + ".unverified")
    shutil.rmtree(written, ignore_errors=True)  # of a process that was stopped
    try:
        yield written
    except Failure:
        if (written / "verification.json").is_file():
            replace_folder(written, folder.with_name(folder.name + ".rejected"))
        raise
    finally:
        if written.exists() and not (written / "verification.json").is_file():
            shutil.rmtree(written, ignore_errors=True)
    replace_folder(written, folder)


def in_words(one: Comparison) -> str:
    """A line about a comparison."""
    if one.max_difference is None:
        return f"Read back: the tensors differ by {one.mean_difference:.2g} of their size at most."
    labels = "" if one.label_agreement is None else f", the likeliest label is the same in {one.label_agreement:.1%}"
    chance = "" if one.probability_difference is None else f" (probabilities within {one.probability_difference:.2g})"
    return (
        f"Loaded back with {one.engine}: log-probabilities differ by {one.mean_difference:.2g} on average, "
        f"{one.max_difference:.2g} at most, over {one.positions:,} positions of {one.rows} rows{labels}{chance}."
    )


class _Export:
    """One format of one arm, written and asked."""

    def __init__(self, exam: Exam, wanted: Wanted, folder: Path) -> None:
        self.exam, self.wanted, self.folder = exam, wanted, folder
        self.context = exam.context
        self.spec = exam.adapter.spec
        self.name = re.sub(r"[^\w.-]+", "-", f"{self.context.recipe.name}-{exam.arm}")

    @cached_property
    def fused(self) -> Fused:
        base = base_weights(self.context.model.files.folder, self.context.model.files.config)
        dtype = "float32" if self.wanted.to == "gguf" else self.wanted.dtype  # GGUF has formats of its own
        return Fused(base, self.spec, self.exam.adapter.tensors, dtype=dtype)

    def check(self) -> None:
        """What can be refused before anything is computed."""
        wanted = self.wanted
        if wanted.quantize and wanted.to != "mlx":
            raise UserError("--quantize is for --to mlx.", hint="Add --to mlx; for GGUF use --gguf-type q8_0.")
        if wanted.quantize:
            open_backend("mlx")
        if wanted.to == "adapter" and self.spec.fine_tune_type == "full":
            raise UserError("All weights were trained, so there is no adapter to export.", hint="Use --to hf.")
        if wanted.dtype != "auto" and wanted.to in ("gguf", "adapter"):
            raise UserError("--dtype is for --to hf and mlx.", hint="For GGUF use --gguf-type.")
        if wanted.to == "gguf":
            check_installed()
        if wanted.to != "adapter":
            copies = BYTES[wanted.gguf] / 4 if wanted.to == "gguf" else 2 if wanted.quantize else 1
            check_space(self.folder, round(copies * size_of(self.fused)))

    def write(self, written: Path, probe: Probe, reference: Answers, effect: float) -> list[Comparison]:
        """Write the format at `written` and compare it in every engine that is installed."""
        asked = Asked(self.context.progress, probe, reference, effect)
        match self.wanted.to:
            case "adapter":
                shutil.copytree(self.exam.folder, written)
                base = self.context.model.files.folder
                return asked.by(installed_engines(), "float32", lambda engine: engine.load_as_is(base, written))
            case "gguf":
                from rir_cli.gguf import export_gguf

                with _scratch(written) as source:
                    source.mkdir(parents=True)
                    write_about(source, self.context.model.files, self.about, "float32")
                    return export_gguf(source, self.fused, written, self.wanted.gguf, asked, self.exam, self.name)
            case "mlx" if self.wanted.quantize:
                return self._quantised(written, asked)
            case _:
                self._write_fused(written)
                return asked.of_folder(written, self.exam)

    @property
    def about(self) -> About:
        exam, context = self.exam, self.context
        extra = {
            "rir_mlx": {
                "version": __version__,
                "arm": exam.arm,
                "labels": exam.task.labels,
                "instruction": exam.task.instruction,
                "date": context.recipe.date,
                "delimiter": DELIMITER,
                "terminator": context.model.codec.terminator,
            }
        }
        return About(list(context.model.codec.stops), exam.task.names, context.recipe.date, extra)

    def _write_fused(self, folder: Path) -> None:
        context, made_for = self.context, "mlx" if self.wanted.to == "mlx" else "pt"
        what = f"fuse into {context.model.files.name}"
        with counting_bytes(context.progress, what, size_of(self.fused)) as advance:
            write_hf_folder(folder, self.fused, context.model.files, self.about, made_for=made_for, advance=advance)

    def _quantised(self, written: Path, asked: Asked) -> list[Comparison]:
        """Quantised only once the unquantised folder has been proven, and the cost in labels is known."""
        from rir_mlx.backends.mlx.quantisation import quantise

        bits = self.wanted.quantize or 8
        with _scratch(written) as full:
            self._write_fused(full)
            before = asked.of_folder(full, self.exam, suffix=", before quantising")
            if any(one.faults for one in before):
                replace_folder(full, written)
                return before
            written.mkdir()
            for path in full.iterdir():
                if not path.name.startswith("model"):
                    shutil.copyfile(path, written / path.name)
            quantise(full, written, bits)
        after = asked.by(["mlx"], f"{bits} bits", lambda engine: engine.load_as_is(written), suffix=f", {bits} bits")
        agreement = after[0].label_agreement or 0.0
        self.context.progress.say(f"Quantised to {bits} bits, {1 - agreement:.1%} of the labels change.")
        return [*before, *after]

    def finish(self, written: Path, verification: dict[str, Any]) -> None:
        """The model card of a proven folder. Its program is run where transformers reads the folder."""
        exam, context = self.exam, self.context
        form: Form = "mlx-quantised" if self.wanted.quantize else self.wanted.to
        stage, recipe = context.run.classifier(exam.arm), context.recipe
        calibration = Calibration()
        if stage.calibration.is_file():
            calibration = Calibration.from_dict(read_json(stage.calibration)["calibration"])
        prompt = example_prompt(exam.arm, exam.task, context.model.codec)
        example = Example(without_first_token(context.model.codec, prompt) if form == "gguf" else prompt)
        if form in ("hf", "mlx"):
            code = example_code(exam.arm, exam.task, context.model.codec, calibration=calibration)
            context.progress.say("Running the model card's program …")
            example = replace(example, code=code, output=run_example(written, code, _EXAMPLE_SECONDS))
        comparison = context.run.comparison
        own = recipe.augment.model_copy(update={"base_url": None})  # a server's address is nobody else's business
        facts = CardFacts(
            name=self.name,
            base=context.model.files.name,
            base_revision=context.model.files.revision,
            base_licence=base_licence(context.model.files.folder),
            sources=self._sources(),
            arm=exam.arm,
            task=exam.task,
            calibration=calibration,
            recipe=dump_recipe(recipe.model_copy(update={"augment": own})),
            example=example,
            verification=verification,
            comparison=read_comparison(comparison) if comparison.is_file() else None,
            command=context.command,
            versions={"rir-mlx": __version__, "Python": platform.python_version()},
            form=form,
        )
        (written / "README.md").write_text(model_card(facts), encoding="utf-8")

    def _sources(self) -> list[DataSource]:
        data = self.context.recipe.data
        given = {part: getattr(data, part) for part in ("train", "validation", "test")}
        return [
            DataSource(part, source.path, source.revision, data.license) for part, source in given.items() if source
        ]


class Asked:
    """The answers that an export has to give."""

    def __init__(self, progress: Progress, probe: Probe, reference: Answers, effect: float) -> None:
        self.progress, self.probe, self.reference, self.effect = progress, probe, reference, effect

    def by(
        self, engines: list[str], kind: str, load: Any, found: list[str] | None = None, *, suffix: str = ""
    ) -> list[Comparison]:
        """A comparison for each of the engines, whose model `load` gives."""
        compared = []
        for name in engines:
            self.progress.say(f"Loading it back with {name}{suffix} …")
            try:
                model: Model = load(open_backend(name))  # type: ignore[arg-type]
            except UserError as error:
                compared.append(unreadable(name + suffix, error.what))
                continue
            answers = ask(model, self.probe)
            del model
            release_memory()
            compared.append(self.judge(name + suffix, answers, kind, found or []))
        return compared

    def of_folder(self, folder: Path, exam: Exam, *, suffix: str = "") -> list[Comparison]:
        """A folder in Hugging Face format: what it holds, and what each installed engine makes of it."""
        found = faults(folder, exam.context.model.codec, exam.prompts)
        kind = stored_as(Weights(folder))
        return self.by(installed_engines(), kind, lambda engine: engine.load_as_is(folder), found, suffix=suffix)

    def judge(self, name: str, answers: Answers, kind: str, found: list[str]) -> Comparison:
        return compare(name, self.reference, answers, effect=self.effect, kind=kind, faults=found)


def judge_folder(exam: Exam, folder: Path, answered: tuple[Probe, Answers, float]) -> list[Comparison]:
    """What the gate says of any folder that is to be the exam's model, `answered` by the exam."""
    return Asked(exam.context.progress, *answered).of_folder(folder, exam)


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    folder = beside.with_name(beside.name + ".full")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ours(folder: Path) -> bool:
    path = folder / "verification.json"
    return path.is_file() and "rir_mlx" in read_json(path)
