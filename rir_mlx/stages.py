"""One plain function a stage. Each checks whether it is done, says what it costs, works, and writes its artifacts."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rir_mlx import adapters, augment, metrics, training
from rir_mlx.backends.base import AdapterSpec, Backend, Model, Request, Sampling
from rir_mlx.checkpoints import Checkpoints
from rir_mlx.classifier import Classifier, Prediction, Task, training_examples
from rir_mlx.data import LabelledData, Row, TripleData, load_labelled, load_triples
from rir_mlx.errors import UserError
from rir_mlx.estimate import Trained, generation_cost, training_cost
from rir_mlx.models import ModelFiles, resolve_model
from rir_mlx.progress import Progress, Silent
from rir_mlx.prompts import Arm, rgen_prompt, rgen_row_prompt
from rir_mlx.recipe import Recipe, SourceSpec
from rir_mlx.reporting import check_installed
from rir_mlx.run import RunDir, Stage, digest_of_file, read_json, read_jsonl, write_json, write_jsonl
from rir_mlx.tokens import Codec, Examples, encode_examples

_CHUNK = 256
_NOT_THE_RESULT = {"steps_per_report", "save_every", "report_to", "grad_checkpoint", "compile", "shared_prefix"}
"""Keys of a training that change how it runs, and not what comes out."""


@dataclass
class Context:
    """What every stage needs. `force` runs a stage again even where nothing changed."""

    run: RunDir
    recipe: Recipe
    backend: Backend
    progress: Progress = field(default_factory=Silent)
    force: bool = False

    @cached_property
    def base(self) -> ModelFiles:
        return resolve_model(self.recipe.model, self.recipe.revision)

    @cached_property
    def codec(self) -> Codec:
        return Codec(self.base.folder, self.recipe.date)

    @cached_property
    def data(self) -> LabelledData:
        data = load_labelled(self.recipe.data, self.recipe.seed)
        for note in data.notes:
            self.progress.say(f"note: {note}")
        return data

    @cached_property
    def triples(self) -> TripleData:
        triples = load_triples(self.recipe.reasoning, self.recipe.seed)
        for note in triples.notes:
            self.progress.say(f"note: {note}")
        return triples

    @cached_property
    def spec(self) -> AdapterSpec:
        lora = self.recipe.lora_parameters
        return AdapterSpec(
            self.recipe.fine_tune_type, self.recipe.num_layers, lora.rank, lora.scale, lora.dropout, lora.keys
        )

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes: the only one, or the first of several ranks."""
        return self.backend.world.rank == 0

    def agree(self, value: bool = True) -> bool:
        """What the first rank says. All ranks wait here for each other."""
        return bool(self.backend.world.all_sum(np.array([float(value and self.first)]))[0])

    @property
    def task(self) -> Task:
        return Task(
            self.data.labels,
            self.recipe.data.instruction,
            self.recipe.max_seq_length,
            self.recipe.evaluate.max_reasoning_tokens,
        )

    def test_rows(self) -> tuple[Row, ...]:
        if not self.data.test:
            raise UserError("There are no test rows.", mend="Name data.test, or set data.test_size.")
        return self.data.test

    def load(self, adapter: adapters.Adapter | None = None) -> Model:
        """The base model, with an adapter over it."""
        if adapter is None:
            dtype = "float32" if self.spec.fine_tune_type == "full" else self.recipe.dtype
            return self.backend.load(self.base.folder, dtype=dtype)
        return self.backend.load(self.base.folder, dtype=self.recipe.dtype, adapter=(adapter.spec, adapter.tensors))

    def training_inputs(self) -> dict[str, Any]:
        """What decides the weights of every trained model alike. The backend does not: both compute the same."""
        recipe = self.recipe
        lora = {} if recipe.fine_tune_type == "full" else recipe.lora_parameters.model_dump(mode="json")
        return {
            "model": self.base.fingerprint,
            "fake": self.backend.name == "fake",
            "dtype": recipe.dtype,
            "seed": recipe.seed,
            "max_seq_length": recipe.max_seq_length,
            "date": recipe.date,
            "fine_tune_type": recipe.fine_tune_type,
            "num_layers": recipe.num_layers,
            "lora_parameters": lora,
        }


def resolve_recipe(context: Context) -> None:
    """Make the recipe mean the same from any folder and on any day: local paths absolute, the revision fixed."""
    recipe = context.recipe
    data = {part: _absolute(getattr(recipe.data, part)) for part in ("train", "validation", "test")}
    context.recipe = recipe.model_copy(
        update={
            "model": str(context.base.folder.resolve()) if Path(recipe.model).is_dir() else recipe.model,
            "revision": context.base.revision,
            "data": recipe.data.model_copy(update=data),
            "reasoning": recipe.reasoning.model_copy(update={"source": _absolute(recipe.reasoning.source)}),
        }
    )


T = TypeVar("T")


def _by_the_first(stage: Callable[[Context], T]) -> Callable[[Context], T | None]:
    """A stage that runs in one process: the other ranks wait for it, and get None."""

    @wraps(stage)
    def run(context: Context) -> T | None:
        result = stage(context) if context.first else None
        context.agree()
        return result

    return run


def _absolute(source: SourceSpec | None) -> SourceSpec | None:
    if source is None or not (Path(source.path).exists() or glob.has_magic(source.path)):
        return source
    return source.model_copy(update={"path": str(Path(source.path).absolute())})


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


@_by_the_first
def augment_rows(context: Context) -> None:
    """R-Gen writes a reasoning for each training and validation row; those that pass the gates are kept."""
    run, recipe = context.run, context.recipe
    if run.rgen.done() is None:
        raise UserError("R-Gen has not been trained in this run.", mend="Run `rir-mlx train-rgen` first.")
    adapter = digest_of_file(run.rgen.adapter / adapters.MLX_WEIGHTS)
    options = recipe.augment
    inputs = {
        "rgen": adapter,
        "data": context.data.digest,
        "instruction": recipe.data.instruction,
        "seed": recipe.seed,
        "max_seq_length": recipe.max_seq_length,
        "augment": options.model_dump(mode="json", exclude={"batch_size"}),
    }
    if not _due(context, run.augmented, inputs, "augmentation"):
        return
    run.augmented.begin()
    job = augment.Job(
        labels=list(context.data.labels),
        instruction=recipe.data.instruction,
        sampling=Sampling(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            stop=tuple((token,) for token in context.codec.stops),
            batch_size=options.batch_size,
        ),
        seed=recipe.seed,
        adapter=adapter,
        max_seq_length=recipe.max_seq_length,
    )
    model = context.load(adapters.read_adapter(run.rgen.adapter, context.base))
    _say_generation_cost(context, model, job)
    rejected, results = [], {}
    for part, rows in (("train", context.data.train), ("validation", context.data.validation)):
        results[part] = augment.write_reasonings(
            model, context.codec, rows, job, journal=run.journal(), progress=context.progress, what=f"augment {part}"
        )
        kept = [row for row in results[part] if row["rejected"] is None]
        write_jsonl(run.augmented_rows(part), [{k: row[k] for k in ("text", "label", "reasoning")} for row in kept])
        rejected += [row | {"part": part} for row in results[part] if row["rejected"] is not None]
    write_jsonl(run.rejected_rows(), rejected)
    stats = {part: augment.statistics(rows) for part, rows in results.items()}
    write_json(run.stats(), stats)
    run.augmented.finish(inputs, **stats["train"])
    context.progress.say(
        f"Kept {stats['train']['kept']:,} of {stats['train']['rows']:,} reasonings → {run.augmented.folder}"
    )


def _say_generation_cost(context: Context, model: Model, job: augment.Job) -> None:
    rows, codec = context.data.train, context.codec
    limit = job.max_seq_length - job.sampling.max_tokens
    encoded = [
        codec.encode(rgen_row_prompt(row.text, row.label, job.labels, job.instruction), limit) for row in rows[:_CHUNK]
    ]
    requests = [Request(index, one.row) for index, one in enumerate(encoded)]
    cost = generation_cost(model, requests, encoded[0].head, job.sampling, context.base.config)
    times = len(rows) / len(requests)
    whole = replace(cost, rows=len(rows), tokens=round(cost.tokens * times), seconds=cost.seconds * times)
    context.progress.say("At most, " + whole.text("augmentation", context.backend.device()))


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


def _due(context: Context, stage: Stage, inputs: dict[str, Any], what: str) -> bool:
    why = stage.why_not_done(inputs)
    context.run.save_recipe(context.recipe)
    if why is None and not context.force:
        context.progress.say(f"{what}: done already with these inputs, skipped → {stage.folder}")
        return False
    reason = why or "--force was given"
    context.progress.say(f"{what}: runs, because {reason}.")
    return True


def _training_due(context: Context, stage: Stage, inputs: dict[str, Any], what: str) -> bool:
    """Whether a training is to run. The first rank decides and clears the way, the others follow."""
    due = False
    if context.first:
        checkpoints = _checkpoints(context, stage, inputs)
        if context.force:
            checkpoints.clear()
        elif stage.why_not_done(inputs) is not None:
            checkpoints.check()
        due = _due(context, stage, inputs, what)
        if due:
            stage.begin()
            checkpoints.begin()
        else:
            checkpoints.clear()
    return context.agree(due)


def _checkpoints(context: Context, stage: Stage, inputs: dict[str, Any]) -> Checkpoints:
    return Checkpoints(stage.checkpoints, inputs | {"backend": context.backend.name})


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
    if context.first:
        check_installed(job.options.report_to)
    model = context.load()
    if context.first:
        section, rows = ("rgen", "reasoning") if stage.folder == context.run.rgen.folder else ("classifier", "data")
        device, smaller = context.backend.device(), f"{rows}.max_samples, {section}.epochs"
        cost = training_cost(Trained(model, context.spec, context.base.config), job, device, section, smaller)
        progress.say(cost.text(what, device))
        if warning := cost.warning(device):
            progress.warn(warning)
    model.add_adapter(context.spec, context.recipe.seed)

    def save() -> None:
        adapter = adapters.Adapter(context.spec, model.trained_tensors(), about)
        adapters.write_adapter(stage.adapter, adapter, context.base)

    checkpoints = _checkpoints(context, stage, inputs)
    outputs = training.Outputs(stage.metrics, save, checkpoints)
    outcome = training.train(model, job, outputs, progress=progress, what=what, world=context.backend.world)
    if context.first:
        stage.finish(inputs, **asdict(outcome), rows=len(job.train.rows), backend=context.backend.name)
        checkpoints.clear()
        speed = outcome.tokens / max(outcome.seconds, 1e-9)
        progress.say(f"{what}: {outcome.steps:,} steps, {speed:,.0f} tokens/s → {stage.adapter}")
    context.agree()


def load_classifier(context: Context, arm: Arm) -> Classifier:
    stage = context.run.classifier(arm)
    if stage.done() is None:
        raise UserError(
            f"{context.run.folder} has no trained {arm} classifier.", mend="Run `rir-mlx train-classifier` first."
        )
    adapter = adapters.read_adapter(stage.adapter, context.base)
    task = replace(Task(**adapter.about["task"]), max_reasoning_tokens=context.recipe.evaluate.max_reasoning_tokens)
    return Classifier(context.load(adapter), context.codec, task, arm)


@_by_the_first
def evaluate(context: Context) -> dict[str, Any]:
    """Measure every trained arm on the test rows, compare them, and write it all down. Returns the comparison."""
    run = context.run
    arms: list[Arm] = [arm for arm in context.recipe.classifier.arms if run.classifier(arm).done() is not None]
    if not arms:
        raise UserError(f"{run.folder} has no trained classifier.", mend="Run `rir-mlx train-classifier` first.")
    test = context.test_rows()
    for arm in arms:
        if (run.classifier(arm).done() or {})["inputs"]["data"] != context.data.digest:
            raise UserError(
                f"The {arm} classifier was trained on other rows, labels or splits than these: some of these test rows "
                "may be among them.",
                mend="Run `rir-mlx train-classifier` again.",
            )
    measured = {arm: _evaluate_arm(context, arm) for arm in arms}
    truth = [row.label for row in test]
    common = metrics.majority([row.label for row in context.data.train])
    baseline = metrics.accuracy(truth, [common] * len(truth))
    comparison: dict[str, Any] = {
        "test_rows": len(test),
        "majority": {"label": common, "accuracy": asdict(baseline)},
        "arms": measured,
    }
    if "qa" in arms and "qra" in arms:
        labels = {arm: [row["predicted"] for row in read_jsonl(run.predictions(arm))] for arm in arms}
        paired = metrics.compare(("qa", labels["qa"]), ("qra", labels["qra"]), truth)
        steps = {arm: values["planned_steps"] for arm, values in measured.items()}
        unmatched = f"The arms were given different numbers of steps ({steps}): no verdict. Train both again."
        matched = len(set(steps.values())) == 1
        comparison |= {"paired": asdict(paired), "verdict": metrics.verdict(paired) if matched else unmatched}
    write_json(run.comparison, comparison)
    return comparison


def _evaluate_arm(context: Context, arm: Arm) -> dict[str, Any]:
    stage, test = context.run.evaluation(arm), context.data.test
    trained = context.run.classifier(arm)
    inputs = {
        "adapter": digest_of_file(trained.adapter / adapters.MLX_WEIGHTS),
        "data": context.data.digest,
        "evaluate": context.recipe.evaluate.model_dump(mode="json", exclude={"batch_size"}),
        "max_seq_length": context.recipe.max_seq_length,
    }
    measured = stage.folder / "metrics.json"
    if not _due(context, stage, inputs, f"evaluation {arm}"):
        return read_json(measured)
    stage.begin()
    classifier = load_classifier(context, arm)
    predictions = predict(context, classifier, [row.text for row in test], what=f"evaluate {arm}")
    write_jsonl(
        context.run.predictions(arm),
        (
            {"text": row.text, "label": row.label, "predicted": one.label, "reasoning": one.reasoning}
            | {"probabilities": one.probabilities, "mass": one.mass}
            for row, one in zip(test, predictions, strict=True)
        ),
    )
    truth, labels = [row.label for row in test], [one.label for one in predictions]
    done = trained.done() or {}
    values = {
        "accuracy": asdict(metrics.accuracy(truth, labels)),
        "macro_f1": metrics.macro_f1(truth, labels, list(context.data.labels)),
        "trimmed_texts": sum(one.trimmed > 0 for one in predictions),
        "mean_mass": sum(one.mass for one in predictions) / len(predictions),
        "training_steps": done["results"]["steps"],
        "planned_steps": done["results"]["planned"],
        "training_tokens": done["results"]["tokens"],
        "training_rows": done["results"]["rows"],
    }
    write_json(measured, values)
    stage.finish(inputs)
    return values


def predict(context: Context, classifier: Classifier, texts: Sequence[str], *, what: str) -> list[Prediction]:
    """Classify many texts, with progress."""
    predictions: list[Prediction] = []
    with context.progress.task(what, len(texts)) as task:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            predictions += classifier.predict(chunk, batch_size=context.recipe.evaluate.batch_size)
            task.advance(len(chunk))
    return predictions


def run_all(context: Context) -> dict[str, Any] | None:
    """Every stage in order; what is done is skipped. Faults of the data are found before any training."""
    arms = context.recipe.classifier.arms
    context.test_rows()
    if "qra" in arms:
        _ = context.triples
        train_rgen(context)
        augment_rows(context)
    for arm in arms:
        train_classifier(context, arm)
    return evaluate(context)
