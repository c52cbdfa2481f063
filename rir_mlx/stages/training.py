"""Stage 1, R-Gen, and stage 2, the classifier's arms: what each learns from, and one way to train them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rir_mlx import __version__, adapters, training
from rir_mlx.backends.base import Model
from rir_mlx.checkpoints import Checkpoints
from rir_mlx.classifier import training_examples
from rir_mlx.data import Row
from rir_mlx.errors import UserError
from rir_mlx.estimate import Trained, training_cost
from rir_mlx.prompts import Arm, rgen_prompt
from rir_mlx.reporting import check_installed
from rir_mlx.run import Stage, digest_of_file, read_jsonl
from rir_mlx.stages.context import Context, is_due
from rir_mlx.tokens import Examples, encode_examples

_NOT_THE_RESULT = {"steps_per_report", "save_every", "report_to", "grad_checkpoint", "compile", "shared_prefix"}
"""Keys of a training that change how it runs, and not what comes out."""


def train_rgen(context: Context) -> None:
    """Stage 1: teach the base model to write a reasoning from a question and its answer."""
    stage, options = context.run.rgen, context.recipe.rgen
    inputs = context.training_inputs() | {
        "triples": context.triples.digest,
        "rgen": options.model_dump(mode="json", exclude=_NOT_THE_RESULT),
    }
    if not _training_due(context, stage, inputs, "R-Gen"):
        return

    def encode(triples: Sequence[Any]) -> Examples:
        codec = context.codec
        return encode_examples(
            codec,
            (
                (rgen_prompt(one.question, one.answer), (), (*codec.given(one.reasoning), codec.terminator))
                for one in triples
            ),
            context.recipe.max_seq_length,
        )

    train = encode(context.triples.train)
    job = training.Job(
        train=train,
        validation=encode(context.triples.validation),
        options=options,
        seed=context.recipe.seed,
        steps=training.steps_for(train, options, seed=context.recipe.seed),
        texts=[one.question for one in context.triples.train],
    )
    _train(context, stage, inputs, job, {"what": "R-Gen"})


def train_classifier(context: Context, arm: Arm) -> None:
    """Stage 2: teach the base model to write the label, or a reasoning and the label, from the text alone."""
    stage, recipe = context.run.classifier(arm), context.recipe
    options = recipe.classifier
    inputs = context.training_inputs() | {
        "arm": arm,
        "data": context.data.digest,
        "instruction": recipe.data.instruction,
        "classifier": options.model_dump(
            mode="json", exclude=_NOT_THE_RESULT | {"arms"} | ({"reasoning_weight"} if arm == "qa" else set())
        ),
    }
    if arm == "qra":
        augmented = context.run.augmented.done()
        if augmented is None:
            raise UserError("The rows of this run have no reasonings yet.", mend="Run `rir-mlx augment` first.")
        if augmented["inputs"]["data"] != context.data.digest:
            raise UserError(
                "The reasonings of this run were written for other rows, labels or splits than these.",
                mend="Run `rir-mlx augment` again.",
            )
        inputs["augmented"] = digest_of_file(context.run.augmented_rows("train"))
    if not _training_due(context, stage, inputs, f"classifier {arm}"):
        return

    def encode(part: str, rows: Sequence[Row]) -> Examples:
        if arm == "qa":
            return training_examples(context.codec, context.task, ((r.text, r.label, None) for r in rows), arm)
        kept = read_jsonl(context.run.augmented_rows(part))
        return training_examples(
            context.codec, context.task, ((r["text"], r["label"], r["reasoning"]) for r in kept), arm
        )

    train = encode("train", context.data.train)
    if arm == "qra" and not train.rows and not train.dropped:
        raise UserError(
            f"No reasoning of this run passed the gates; {context.run.rejected_rows()} says why.",
            mend="Train R-Gen longer, or raise augment.max_tokens.",
        )
    job = training.Job(
        train=train,
        validation=encode("validation", context.data.validation),
        options=options,
        seed=recipe.seed,
        steps=training.steps_for(train, options, rows=len(context.data.train), seed=recipe.seed),
        texts=[row.text for row in context.data.train] if arm == "qa" else [],
        reasoning_weight=options.reasoning_weight,
    )
    _train(context, stage, inputs, job, {"what": f"classifier {arm}", "arm": arm, "task": asdict(context.task)})


def _training_due(context: Context, stage: Stage, inputs: dict[str, Any], what: str) -> bool:
    """Whether a training is to run. The first rank decides, the others follow.

    Raises UserError where one of other inputs was stopped half-way."""

    def decide() -> bool:
        checkpoints = _checkpoints(context, stage, inputs)
        if stage.done() is not None:  # a finished training leaves checkpoints only where it was killed just then
            checkpoints.clear()
        elif not context.force:
            checkpoints.check()
        return is_due(context, stage, inputs, what)

    return context.says_first(decide)


def _checkpoints(context: Context, stage: Stage, inputs: dict[str, Any]) -> Checkpoints:
    """What a training may go on from: one that another backend or version began would not end with the same bytes."""
    more: dict[str, Any] = {"backend": context.backend.name, "rir_mlx": __version__}
    if context.spec.dropout:  # whose draws depend on how a step is computed
        section = context.recipe.rgen if stage.folder == context.run.rgen.folder else context.recipe.classifier
        more |= {key: getattr(section, key) for key in ("shared_prefix", "grad_checkpoint", "compile")}
        more["processes"] = context.backend.world.size
    return Checkpoints(stage.checkpoints, inputs | more)


def _train(context: Context, stage: Stage, inputs: dict[str, Any], job: training.Job, about: dict[str, Any]) -> None:
    progress, what = context.progress, str(about["what"])
    if not job.train.rows:
        raise UserError(f"{what}: no row fits into max_seq_length.", mend="Raise max_seq_length.")
    if job.train.trimmed:
        progress.warn(f"{job.train.trimmed:,} texts are longer than max_seq_length and are trimmed at their end.")
    if job.train.dropped:
        progress.warn(
            f"{job.train.dropped:,} rows are left out: what they are to learn does not fit into max_seq_length."
        )
    checkpoints = _checkpoints(context, stage, inputs)

    def begin() -> None:
        check_installed(job.options.report_to)
        stage.begin()
        if context.force:
            checkpoints.clear()
        checkpoints.begin()

    context.of_first(begin)
    model = context.load()
    rest = replace(job, steps=job.steps - checkpoints.step())
    context.of_first(lambda: _say_cost(context, model, rest, stage, what))
    model.add_adapter(context.spec, context.recipe.seed)

    def save() -> None:
        adapter = adapters.Adapter(context.spec, model.trained_tensors(), about)
        adapters.write_adapter(stage.adapter, adapter, context.base)

    outputs = training.Outputs(stage.metrics, save, checkpoints)
    outcome = training.train(model, job, outputs, progress=progress, what=what, world=context.backend.world)

    def finish() -> None:
        stage.finish(inputs, **asdict(outcome), rows=len(job.train.rows), backend=context.backend.name)
        checkpoints.clear()

    context.of_first(finish)
    speed = outcome.tokens / max(outcome.seconds, 1e-9)
    progress.say(f"{what}: {outcome.steps:,} steps, {speed:,.0f} tokens/s → {stage.adapter}")


def _say_cost(context: Context, model: Model, job: training.Job, stage: Stage, name: str) -> None:
    section, rows = ("rgen", "reasoning") if stage.folder == context.run.rgen.folder else ("classifier", "data")
    smaller = f"{section}.iters" if job.options.iters else f"{rows}.max_samples, {section}.epochs"
    device = context.backend.device()
    what = Trained(model, context.spec, context.base.config, context.backend.world.size)
    cost = training_cost(what, job, device, section, smaller)
    context.progress.say(cost.text(name, device))
    if warning := cost.warning(device):
        context.progress.warn(warning)
