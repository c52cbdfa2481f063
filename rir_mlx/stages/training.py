"""Stage 1, R-Gen, and stage 2, the classifier's arms: what each learns from, and one way to train them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from rir_mlx import __version__
from rir_mlx.augmentation.augmented_rows import digest_of_rows, read_reasonings
from rir_mlx.backends.base import Model
from rir_mlx.backends.processes import decide_on_main, run_on_main
from rir_mlx.classification.scoring import LabelScorer
from rir_mlx.data.loading import refuse_test_rows
from rir_mlx.data.rows import Row, Triple
from rir_mlx.data.splits import draw_rows, nested_part
from rir_mlx.errors import NoReasonings, UserError
from rir_mlx.models import adapters
from rir_mlx.prompting.ablations import as_learned
from rir_mlx.prompting.arms import LearningOptions, examples_of, training_examples
from rir_mlx.prompting.batches import LossWeights
from rir_mlx.prompting.examples import Lesson, TrainingExample, TrainingExamples, encode_examples, joined
from rir_mlx.prompting.prompts import Prompt, answers_twice, reasons_first
from rir_mlx.prompting.room import check_room
from rir_mlx.stages.checking import warn_about_data
from rir_mlx.stages.context import NOT_THE_RESULT, Context, check_number_formats, exclusive, is_due, training_inputs
from rir_mlx.stages.reasoning_model import own_reasonings, rgen_inputs
from rir_mlx.storage.digests import digest_of
from rir_mlx.storage.layout import Stage
from rir_mlx.training.checkpoints import Checkpoints, earlier_training
from rir_mlx.training.cost import training_cost
from rir_mlx.training.job import TrainingJob, TrainingOutputs, steps_for
from rir_mlx.training.loop import train as run_training
from rir_mlx.training.memory import Stored, Trained
from rir_mlx.training.trackers import check_installed
from rir_mlx.types import CONTROLS, Arm

_NOT_OF_THIS_ARM = {"arms", "seeds", "learning_curve"}
CURVE_PARTS = (25, 50)
"""Percent of the training rows that a learning curve is trained on, beside all of them."""
_MEASURED = 200
"""Validation rows on which an arm that reasons first is measured during training: each costs a generation."""


@exclusive
def train_rgen(context: Context) -> None:
    """Stage 1: train the base model to write a reasoning from a question and its answer, on the triples and on the
    rows that have a reasoning of their own. Rows that `augment_rows` would refuse are refused here already."""
    refuse_test_rows(context.recipe.data)
    stage, options, seed = context.run.rgen, context.recipe.rgen, context.recipe.seed
    inputs = rgen_inputs(context, context.data.triples.digest)
    if not _training_due(context, stage, inputs, "R-Gen"):
        return
    if not own_reasonings(context, "train") and not context.data.triples.train:
        raise UserError(
            "R-Gen has nothing to learn from: there is no reasoning.source, and no row has a reasoning of its own.",
            hint="Name triples in reasoning.source, or the column of your own reasonings in data.reasoning_column.",
        )
    train = rgen_examples(context, "train")
    job = TrainingJob(
        train=train,
        validation=rgen_examples(context, "validation"),
        options=options,
        seed=seed,
        steps=steps_for(train, options, seed=seed),
        name="R-Gen",
    )
    _train(context, stage, inputs, job, {"what": "R-Gen"})


def rgen_examples(context: Context, part: str) -> TrainingExamples:
    """What R-Gen learns from: the triples' part, and the rows' own reasonings behind the prompt that it will get."""
    codec, question, limit = context.model.codec, context.question, context.recipe.max_seq_length

    def lesson(prompt: Prompt, reasoning: str | None, row_id: str) -> list[Lesson]:
        answer = (*codec.given(reasoning or ""), codec.terminator)
        return [(prompt, TrainingExample((), (), answer, id=row_id, text=prompt.text))]

    triples: Sequence[Triple] = getattr(context.data.triples, part)
    from_triples = (
        lesson(question.of_triple(triple.question, triple.answer), triple.reasoning, f"triple {number}")
        for number, triple in enumerate(triples, 1)
    )
    from_rows = (
        lesson(question.of_row(row.text, row.label), row.reasoning, row.id) for row in own_reasonings(context, part)
    )
    return joined(*(encode_examples(codec, rows, limit) for rows in (from_triples, from_rows)))


@exclusive
def train_classifier(context: Context, arm: Arm) -> None:
    """Stage 2: train one arm of the classifier, once for each of the recipe's seeds."""
    for seed in context.recipe.classifier.seeds:
        _train_arm(context, arm, seed)


@exclusive
def train_learning_curve(context: Context) -> None:
    """Train the arm of `classifier.learning_curve` on parts of the training rows, with the first seed and for as many
    steps as on all of them. Does nothing without that key, and ends with a note where a part has no reasonings."""
    if (arm := context.recipe.classifier.learning_curve) is not None:
        for percent in CURVE_PARTS:
            try:
                _train_arm(context, arm, context.recipe.classifier.seeds[0], percent)
            except NoReasonings:
                what = f"{percent} % of the training rows have no reasoning that {arm} could learn."
                context.progress.say(f"note: there is no learning curve: {what}")
                break


def _train_arm(context: Context, arm: Arm, seed: int, percent: int = 100) -> None:
    """`percent` of the training rows are learned from."""
    stage, name = context.trained(arm, seed), f"classifier {arm}" + context.seed_suffix(seed)
    if arm != "qa":
        _check_reasonings(context)
    inputs = arm_inputs(context, arm, seed)
    if percent < 100:
        stage, name = context.run.curve(arm, percent), f"classifier {arm} on {percent} % of the rows"
        inputs["percent"] = percent
    if not _training_due(context, stage, inputs, name):
        return
    warn_about_data(context)
    check_room(context.model.codec, context.task, arm)
    options = context.recipe.classifier
    train, alpha = _arm_examples(context, arm, "train", seed, percent), options.multitask_alpha
    learned = [row for task in (train, train.second) if task is not None for row in task.rows]
    if arm != "qa" and not train.dropped and not any(len(row.reasoning) > row.kept for row in learned):
        raise NoReasonings(
            f"No reasoning of this run passed the filters; {context.run.rejected_rows} says why.",
            hint="Train R-Gen longer, or raise augment.max_tokens.",
        )
    job = TrainingJob(
        train=train,
        validation=_arm_examples(context, arm, "validation", seed),
        options=options,
        seed=seed,
        steps=steps_for(train, options, rows=examples_of(context.data.train), seed=seed),
        weights=LossWeights(alpha, 1 - alpha) if arm == "multitask" else LossWeights(1.0, options.reasoning_weight),
        accuracy=_accuracy_of(context, arm) if context.data.held_out else None,
        curriculum=options.curriculum if arm == "curriculum" else None,
        name=name,
    )
    _train(context, stage, inputs, job, {"what": name, "arm": arm, "seed": seed, "task": asdict(context.task)})


def train_chooser(context: Context, half: int, rows: Sequence[Row]) -> Stage:
    """Train a classifier to read the label off a text and its reasoning, the arm `qra`, on one half of the training
    rows: it then chooses among reasonings of rows whose labels it has not seen. There are no validation rows: the last
    weights are kept. A stopped training is resumed."""
    stage, options, seed = context.run.chooser(half), context.recipe.classifier, context.recipe.seed
    inputs = training_inputs(context) | {
        "chooser": half,
        "rows": digest_of([[row.text, row.label, row.reasoning, *map(list, row.shares)] for row in rows]),
        "task": asdict(replace(context.task, no_label=None)),
        "classifier": options.model_dump(mode="json", exclude=NOT_THE_RESULT | _NOT_OF_THIS_ARM | {"multitask_alpha"}),
    }
    if stage.why_not_done(inputs) is None and not context.force:
        return stage
    stage.begin()
    try:
        _checkpoints(context, stage, inputs).check()
    except UserError:  # of other reasonings than these
        _checkpoints(context, stage, inputs).clear()
    train, name = training_examples(context.model.codec, context.task, rows, "qra"), f"chooser {half + 1} of 2"
    job = TrainingJob(
        train=train,
        validation=TrainingExamples((), ()),
        options=options,
        seed=seed,
        steps=steps_for(train, options, rows=examples_of(rows), seed=seed),
        weights=LossWeights(1.0, options.reasoning_weight),
        name=name,
    )
    _train(context, stage, inputs, job, {"what": name, "arm": "qra", "seed": seed, "task": asdict(context.task)})
    return stage


def arm_inputs(context: Context, arm: Arm, seed: int) -> dict[str, Any]:
    """What decides the weights of an arm. The augmentation of an arm that learns reasonings is finished."""
    recipe = context.recipe
    unused = NOT_THE_RESULT | _NOT_OF_THIS_ARM | _keys_unused(arm)
    inputs = training_inputs(context) | {
        "seed": seed,
        "arm": arm,
        "data": context.data.digest,
        "instruction": recipe.data.instruction,
        "classifier": recipe.classifier.model_dump(mode="json", exclude=unused),
    }
    if arm != "qa":
        parts = ("train", "validation")
        inputs["augmented"] = digest_of([digest_of_rows(context.run.augmented_rows(part)) for part in parts])
    if copied := int(context.data.copied.sum()):
        inputs["copied"] = copied  # validation rows that choose no weights
    if reasons_first(arm) and context.data.validation:  # accuracy is measured with reasonings of that length
        inputs["max_reasoning_tokens"] = recipe.evaluate.max_reasoning_tokens
    if arm in CONTROLS:
        inputs["shuffled"] = recipe.seed
    return inputs


def _check_reasonings(context: Context) -> None:
    """Raise UserError unless the run has reasonings for just these rows."""
    done = context.run.augmented.done()
    if done is None:
        raise UserError(
            "The augmentation of this run is not finished.", hint="Run `rir-mlx augment` with the same recipe first."
        )
    if done["inputs"]["data"] != context.data.digest:
        raise UserError(
            "The reasonings of this run were written for other rows, labels or splits than these.",
            hint="Run `rir-mlx augment` with the same recipe again.",
        )
    if done["inputs"].get("row_ids") != context.data.row_ids_digest():
        raise UserError(
            "The reasonings of this run do not name the rows they belong to: an earlier version wrote them, or the "
            "rows have moved within their files.",
            hint="Run `rir-mlx augment` with the same recipe again: it keeps the reasonings, and writes the ids.",
        )


def _accuracy_of(context: Context, arm: Arm) -> Callable[[Model], float]:
    """How accurate an arm is during training, as it is used: with reasonings of its own. The loss would not do: it
    grows as a model becomes overconfident, which calibration corrects later, and it sees only R-Gen's reasonings."""
    rows, size = context.data.held_out, context.recipe.evaluate.batch_size
    if reasons_first(arm) and len(rows) > _MEASURED:
        rows = draw_rows(rows, _MEASURED, "measured")

    def accuracy(model: Model) -> float:
        scorer = LabelScorer(model, context.model.codec, context.task, arm)
        texts = [row.text for row in rows]
        scores = (scorer.reasoned(texts, size) if reasons_first(arm) else scorer.direct(texts, size)).scores
        names = context.task.names
        correct = (names[best] == row.label for best, row in zip(scores.argmax(1), rows, strict=True))
        return float(sum(correct)) / len(rows)

    return accuracy


def _keys_unused(arm: Arm) -> set[str]:
    """Keys of some arms that do not affect this one."""
    used = {"multitask_alpha"} if arm == "multitask" else set() if arm == "qa" else {"reasoning_weight"}
    used |= {"wrong_first"} if answers_twice(arm) else {"curriculum"} if arm == "curriculum" else set()
    return {"reasoning_weight", "multitask_alpha", "wrong_first", "curriculum"} - used


def _arm_examples(context: Context, arm: Arm, part: str, seed: int, percent: int = 100) -> TrainingExamples:
    """The rows of a part, or `percent` of them, as an arm learns them with a seed, their labels weighted as the recipe
    says."""
    rows: Sequence[Row] = getattr(context.data, part)
    if arm != "qa":
        reasonings = as_learned(arm, read_reasonings(context.run.augmented_rows(part), rows), context.recipe.seed)
        rows = [replace(row, reasoning=reasoning) for row, reasoning in zip(rows, reasonings, strict=True)]
    if part == "validation" and context.data.copied.any():
        rows = [row for row, copy in zip(rows, context.data.copied, strict=True) if not copy]
    if percent < 100:
        rows = nested_part(rows, percent, context.recipe.seed, context.data.labelled.strata)
    weights: dict[str, float] = {}
    if context.recipe.classifier.class_weight == "balanced":
        counts: dict[str, float] = defaultdict(float)
        for row in context.data.train:
            for label, share in row.divided:
                counts[label] += share
        weights = {label: len(context.data.train) / (len(counts) * count) for label, count in counts.items()}
    options = LearningOptions(weights, context.recipe.classifier.wrong_first, seed)
    return training_examples(context.model.codec, context.task, rows, arm, options)


def _training_due(context: Context, stage: Stage, inputs: dict[str, Any], what: str) -> bool:
    """Whether a training has to run. The main process decides for all.

    Raises UserError if a training with other inputs was interrupted, or if the recipe asks for float16."""
    if context.recipe.dtype == "float16" and context.recipe.fine_tune_type != "full":
        raise UserError(
            "dtype float16 is for inference: small gradients are lost in it.", hint="Train with -s dtype=bfloat16."
        )

    def decide() -> bool:
        checkpoints = _checkpoints(context, stage, inputs)
        if stage.done() is not None:  # left by a training that was killed just as it finished
            checkpoints.clear()
        if context.force or stage.why_not_done(inputs) is None:
            return is_due(context, stage, inputs, what)
        if (earlier := earlier_training(stage, inputs, checkpoints)) is not None:
            context.lock.lock()
            stage.put_back(earlier)
            context.progress.say(f"{what}: an earlier training with these inputs is used again → {stage.folder}")
            if stage.done() is not None:
                context.save_recipe()
                return False
        checkpoints.check()
        return is_due(context, stage, inputs, what)

    return decide_on_main(context.processes, decide)


def _checkpoints(context: Context, stage: Stage, inputs: dict[str, Any]) -> Checkpoints:
    """What a training may resume from. Checkpoints of another backend, number format (which `dtype: auto` may mean
    elsewhere) or version would not lead to the same bytes."""
    more: dict[str, Any] = {
        "backend": context.backend.name,
        "number_format": context.model.number_format,
        "rir_mlx": __version__,
    }
    if context.model.adapter_spec.dropout:  # whose draws depend on how a step is computed
        section = context.recipe.rgen if stage.folder == context.run.rgen.folder else context.recipe.classifier
        more |= {key: getattr(section, key) for key in ("shared_prefix", "grad_checkpoint", "compile")}
        more["processes"] = context.processes.size
    return Checkpoints(stage.checkpoints, inputs | more)


def _train(context: Context, stage: Stage, inputs: dict[str, Any], job: TrainingJob, about: dict[str, Any]) -> None:
    progress, what = context.progress, str(about["what"])
    if not job.train.rows:
        raise UserError(f"{what}: no row fits into max_seq_length.", hint="Raise max_seq_length.")
    if job.train.trimmed:
        progress.warn(f"{job.train.trimmed:,} texts are longer than max_seq_length; their ends are cut off.")
    if job.train.dropped:
        progress.warn(
            f"{job.train.dropped:,} rows are left out: their reasoning and label do not fit into max_seq_length."
        )
    check_number_formats(context)
    checkpoints = _checkpoints(context, stage, inputs)

    def begin() -> None:
        check_installed(job.options.report_to)
        if stage.why_not_done(inputs):  # finished, with other inputs
            progress.say(f"{what}: the earlier one is kept in {stage.keep_earlier()}")
        stage.begin()
        if context.force:
            checkpoints.clear()
        checkpoints.begin()

    run_on_main(context.processes, begin)
    model = context.model.load_to_train()
    rest = replace(job, steps=job.steps - checkpoints.step())
    run_on_main(context.processes, lambda: _say_cost(context, model, rest, stage, what))
    model.add_adapter(context.model.adapter_spec, job.seed)

    def save() -> None:
        adapter = adapters.Adapter(context.model.adapter_spec, model.trained_tensors(), about)
        adapters.write_adapter(stage.adapter, adapter, context.model.files)

    outputs = TrainingOutputs(stage.metrics, save, checkpoints)
    outcome = run_training(model, job, outputs, progress=progress, processes=context.processes)

    def finish() -> None:
        made_with = {"backend": context.backend.name, "number_format": context.model.number_format}
        rows = len({example.id for example in job.train.rows})  # a divided label gives an example for each of its parts
        stage.finish(inputs, **asdict(outcome), rows=rows, **made_with)
        checkpoints.clear()

    run_on_main(context.processes, finish)
    speed = outcome.tokens / max(outcome.seconds, 1e-9)
    progress.say(f"{what}: {outcome.steps:,} steps, {speed:,.0f} tokens/s → {stage.adapter}")


def _say_cost(context: Context, model: Model, job: TrainingJob, stage: Stage, name: str) -> None:
    section, rows = ("rgen", "reasoning") if stage.folder == context.run.rgen.folder else ("classifier", "data")
    smaller = f"{section}.iters" if job.options.iters else f"{rows}.max_samples, {section}.epochs"
    device = context.backend.device()
    files = context.model.files
    stored = Stored.of(files.folder, device)
    what = Trained(model, context.model.adapter_spec, files.config, context.processes.size, stored)
    cost = training_cost(what, job, device, section, smaller)
    context.progress.say(cost.text(name, device))
    if warning := cost.warning(device):
        context.progress.warn(warning)
