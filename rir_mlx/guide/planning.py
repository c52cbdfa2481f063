"""How long a whole run will take, before its first stage: a few rows are timed on the loaded model, and scaled up.

Rough, and said to be: how long reasonings get is taken from R-Gen's examples, and the time of a step from one batch.
Each stage measures again before it begins. Coarser still is what `init` chooses a recipe's sizes from, before any model
is loaded: speeds that were measured on two processor cores, scaled by the model's weights and the number of cores.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from rir_mlx.augmentation.across.information import GROUP
from rir_mlx.augmentation.engines.local import LocalLikelihoods
from rir_mlx.backends.base import Model, Request, Sampling
from rir_mlx.errors import DataError, RirError, UserError
from rir_mlx.guide.draft import Draft
from rir_mlx.prompting.arms import training_examples
from rir_mlx.prompting.prompts import answer_format, reasons_first
from rir_mlx.prompting.room import rgen_room
from rir_mlx.recipe.schema import Recipe, TrainingSection
from rir_mlx.stages.context import Context
from rir_mlx.stages.training import CURVE_PARTS, rgen_examples
from rir_mlx.storage.layout import Stage
from rir_mlx.training.checkpoints import Checkpoints
from rir_mlx.training.cost import duration, generation_cost, timed, training_cost
from rir_mlx.training.job import DEFAULT_EPOCHS, TrainingJob, steps_for
from rir_mlx.training.memory import Loaded, Trained
from rir_mlx.types import Arm

_ROWS = 64
"""Rows that are timed and scaled up."""
_PROBED, _MEASURED = 500, 200
"""Test rows whose reasonings are replaced, and validation rows that get a reasoning at each validation."""
_FORWARD_SHARE = 0.35
"""Share of a training step that its forward pass takes."""


@dataclass(frozen=True)
class StageTime:
    """A stage that is not finished, and its seconds; None if they depend on a server."""

    name: str
    seconds: float | None


def plan(context: Context) -> list[StageTime]:
    """The stages that are not finished, with an estimate of each; empty without any, or if several processes train.
    The loaded model is kept for the first stage. Raises DataError if the rows cannot be used."""
    try:
        context.data.test_rows()
        names = list(_unfinished(context))
        if not names or context.processes.size > 1:
            return []
        model = context.model.load()
        timed = _Timing(context, model)
        found = [StageTime(name, timed.seconds(name)) for name in names]
    except DataError:
        raise
    except RirError:
        return []  # the stage that it belongs to says so, with its hint
    context.model.keep(model)
    return found


def plan_text(stages: Sequence[StageTime], device: str) -> str:
    """`About 9 min for 6 stages on …: R-Gen 2 min, augmentation 3 min, …`."""
    known = [stage for stage in stages if stage.seconds is not None]
    each = ", ".join(f"{stage.name} {duration(stage.seconds or 0)}" for stage in known)
    count = f"{len(stages)} stage{'s' * (len(stages) != 1)}"
    unknown = [stage.name for stage in stages if stage.seconds is None]
    beside = f" Beside that, {', '.join(unknown)}: that depends on the server." if unknown else ""
    return f"About {duration(sum(stage.seconds or 0 for stage in known))} for {count} on {device}: {each}.{beside}"


def _unfinished(context: Context) -> Iterator[str]:
    recipe = context.recipe
    arms, seeds = recipe.classifier.arms, recipe.classifier.seeds
    if set(arms) != {"qa"}:
        if context.data.needs_rgen() and (context.force or context.run.rgen.done() is None):
            yield "R-Gen"
        if context.force or context.run.augmented.done() is None:
            yield "augmentation"
    for arm in arms:
        if context.force or any(context.trained(arm, seed).done() is None for seed in seeds):
            yield f"classifier {arm}"
    if (curve := recipe.classifier.learning_curve) is not None and (
        context.force or any(context.run.curve(curve, percent).done() is None for percent in CURVE_PARTS)
    ):
        yield "learning curve"
    if context.force or not context.run.comparison.is_file():
        yield "evaluation"


class _Timing:
    """What a row costs in each kind of work, measured once."""

    def __init__(self, context: Context, model: Model) -> None:
        self.context, self.model = context, model
        self.device = context.backend.device()
        self.trained = Trained(model, context.model.adapter_spec, context.model.files.config)
        self.rows = context.data.train[:_ROWS]
        self.validation, self.test = len(context.data.validation), len(context.data.test)
        self._generation: float | None = None
        self._forwards: dict[Arm, float] = {}
        self._arms: dict[Arm, float] = {}
        self._counts: dict[Arm, int] = {}

    def seconds(self, stage: str) -> float | None:
        recipe = self.context.recipe
        if stage == "R-Gen":
            return self._rgen()
        if stage == "augmentation":
            if recipe.augment.engine == "openai":
                return None
            rows = self.context.data.train + self.context.data.validation
            return self._augmentation(sum(row.reasoning is None for row in rows))
        if stage == "evaluation":
            return self._evaluation()
        if stage == "learning curve" and recipe.classifier.learning_curve is not None:
            return len(CURVE_PARTS) * self._arm(recipe.classifier.learning_curve) / len(recipe.classifier.seeds)
        return sum(
            self._arm(arm) * self._arm_left(arm) for arm in recipe.classifier.arms if stage == f"classifier {arm}"
        )

    def _rgen(self) -> float:
        options, seed = self.context.recipe.rgen, self.context.recipe.seed
        examples = rgen_examples(self.context, "train")
        few = replace(examples, rows=examples.rows[:_ROWS])
        job = TrainingJob(few, few, options, seed, steps_for(examples, options, seed=seed))
        seconds = training_cost(self.trained, job, self.device, "rgen", "").seconds
        return seconds * self._left(self.context.run.rgen, job.steps)

    def _arm(self, arm: Arm) -> float:
        if arm not in self._arms:
            self._arms[arm] = self._trained_arm(arm)
        return self._arms[arm]

    def _arm_left(self, arm: Arm) -> float:
        """The share of an arm's training that is still to be done."""
        seeds = self.context.recipe.classifier.seeds
        return sum(self._left(self.context.trained(arm, seed), self._counts[arm]) for seed in seeds) / len(seeds)

    def _left(self, stage: Stage, steps: int) -> float:
        """The share of a training that is still to be done: one that was stopped resumes."""
        if self.context.force:
            return 1.0
        if stage.done() is not None:
            return 0.0
        return 1 - min(1.0, Checkpoints(stage.checkpoints, {}).step() / max(1, steps))

    def _trained_arm(self, arm: Arm) -> float:
        """Every seed of an arm: its steps, and its validations with reasonings of its own."""
        options, seeds = self.context.recipe.classifier, self.context.recipe.classifier.seeds
        steps, seconds = self._steps(arm)
        validations = 1 + steps // options.steps_per_eval
        each = self.validation * self._forward(arm)
        if reasons_first(arm):
            each += min(self.validation, _MEASURED) * self._generated_row()
        return len(seeds) * (seconds + validations * each)

    def _steps(self, arm: Arm) -> tuple[int, float]:
        """The steps of a training, and their seconds."""
        context, options = self.context, self.context.recipe.classifier
        rows = [replace(row, reasoning=why) for row, why in zip(self.rows, cycle(self._reasonings()), strict=False)]
        examples = training_examples(context.model.codec, context.task, rows, arm)
        steps = steps_for(examples, options, rows=len(context.data.train), seed=options.seeds[0])
        self._counts[arm] = steps
        job = TrainingJob(examples, examples, options, options.seeds[0], steps)
        cost = training_cost(self.trained, job, self.device, "classifier", "")
        self._forwards[arm] = _FORWARD_SHARE * cost.seconds / max(1, cost.rows)
        return steps, cost.seconds

    def _forward(self, arm: Arm) -> float:
        """Seconds to read a row."""
        if arm not in self._forwards:
            self._steps(arm)
        return self._forwards[arm]

    def _reasonings(self) -> list[str]:
        """Reasonings as long as those to come: the user's own, else those that R-Gen learns from."""
        own = [row.reasoning for row in self.rows if row.reasoning]
        if own or not self.context.data.needs_rgen():
            return own or ["because " * (self.context.recipe.augment.max_tokens // 2)]
        return [triple.reasoning for triple in self.context.data.triples.train[:_ROWS]] or ["because of its words"]

    def _generated_row(self) -> float:
        """Seconds to write a reasoning of usual length."""
        if self._generation is None:
            codec, task, limit = self.context.model.codec, self.context.task, self.context.recipe.augment.max_tokens
            prompts = [task.prompt(row.text, answer_format("qra")) for row in self.rows]
            encoded = codec.encode_many(prompts, max(1, task.max_seq_length - limit))
            requests = [Request(number, prompt.row) for number, prompt in enumerate(encoded)]
            usual = sum(codec.lengths(self._reasonings())) / len(self._reasonings())
            most = max(1, min(limit, round(usual)))
            sampling = Sampling(max_tokens=most, batch_size=self.context.recipe.augment.batch_size)
            loaded = Loaded(self.model, self.context.model.files.config)
            cost = generation_cost(loaded, requests, encoded[0].prefix, sampling)
            self._generation = cost.seconds / len(requests)
        return self._generation

    def _augmentation(self, rows: int) -> float:
        """So many rows get reasonings, whose mutual information with their texts may be measured, and one of which may
        be chosen."""
        options = self.context.recipe.augment
        workers = options.workers if options.engine == "ray" else 1
        seconds = rows * options.n * self._generated_row() / workers
        if measured := rows if "uninformative" in options.filters else min(rows, self.context.informed_rows):
            seconds += measured / GROUP * self._scored_group()
        if options.n > 1 and options.choose != "first":
            seconds += rows * options.n * self._forward("qra")
        if options.n > 1 and options.choose == "useful":  # a training of `qra` in two halves
            seconds += self._steps("qra")[1]
        return seconds

    def _scored_group(self) -> float:
        """Seconds to score the reasonings of a group of texts with each of them."""
        context, options, rows = self.context, self.context.recipe.augment, self.rows[:GROUP]
        room = rgen_room(context.recipe.max_seq_length, options.max_tokens)
        likelihoods = LocalLikelihoods(self.model, context.model.codec, context.question, room)
        reasonings = list(islice(cycle(self._reasonings()), len(rows) * options.n))

        def score() -> None:
            likelihoods.log_probabilities(rows[0].label, [row.text for row in rows], reasonings)

        score()  # warms up
        return timed(score)

    def _evaluation(self) -> float:
        recipe, rows = self.context.recipe, self.validation + self.test
        total = self.test * self._forward("qa") * ("untuned" in recipe.evaluate.baselines)
        for arm in recipe.classifier.arms:
            each = rows * self._forward(arm)
            if reasons_first(arm):
                drawn = recipe.evaluate.samples * rows if recipe.evaluate.samples > 1 else 0
                each += (rows + drawn) * self._generated_row()
                each += 2 * min(self.test, _PROBED) * self._forward(arm)
            total += len(recipe.classifier.seeds) * each
        return total


_MEASURED_WEIGHTS, _MEASURED_CORES = 1.24e9, 2
_LABEL_ROWS, _REASONED_ROWS, _TOKENS = 3.7, 1.65, 110.0
"""Training rows without and with a reasoning, and generated tokens, a second: Llama-3.2-1B's shape on two processor
cores, in bfloat16, as the benchmarks have it."""
_USUAL_TOKENS = 60
"""Of a reasoning."""
_FEWEST = 500
"""Rows that `init` leaves, however little time there is."""


@dataclass(frozen=True)
class Sizes:
    """Rows of each part, how many of those that are trained on have a reasoning of their own, and the model's
    weights."""

    train: int
    validation: int
    test: int
    own: int
    weights: float


def rough_seconds(recipe: Recipe, sizes: Sizes, cores: int) -> float:
    """How long a recipe may take, at the measured speeds."""
    train, classifier = min(sizes.train, recipe.data.max_samples or sizes.train), recipe.classifier
    tokens = 0.0
    learned = sizes.own if recipe.reasoning.source is None else (recipe.reasoning.max_samples or train)
    seconds = _rows_seen(recipe.rgen, learned) / _REASONED_ROWS
    if set(classifier.arms) != {"qa"}:
        tokens += recipe.augment.n * max(0, train + sizes.validation - sizes.own)
    measured = sizes.validation + sizes.test
    for arm in classifier.arms:
        speed = _LABEL_ROWS if arm == "qa" else _REASONED_ROWS
        each = _rows_seen(classifier, train) + _FORWARD_SHARE * measured
        seconds += len(classifier.seeds) * each / speed
        tokens += len(classifier.seeds) * measured * reasons_first(arm)
    seconds += tokens * _USUAL_TOKENS / _TOKENS
    return seconds * sizes.weights / _MEASURED_WEIGHTS * _MEASURED_CORES / max(1, cores)


def _rows_seen(options: TrainingSection, rows: int) -> float:
    """Rows that a training goes through."""
    if options.iters is not None:
        return options.iters * options.batch_size * options.grad_accumulation_steps
    return rows * (DEFAULT_EPOCHS if options.epochs is None else options.epochs)


def fit_into(draft: Draft, sizes: Sizes, limit: float, fixed: Collection[str] = (), cores: int | None = None) -> str:
    """Make a recipe smaller until it takes no longer than `limit` seconds, and say how long it takes. Keys in `fixed`
    stay as they are."""
    cores, shown = cores or os.cpu_count() or 1, duration(limit)
    for key, value in _smaller(draft, sizes):
        if rough_seconds(draft.recipe(), sizes, cores) <= limit:
            break
        if key not in fixed:
            draft.set(key, value, f"Reduced, so that all fits into {shown}.")
    taken = rough_seconds(draft.recipe(), sizes, cores)
    how = f"estimated from speeds that were measured on processor cores, {cores} here; a GPU takes less"
    if taken <= limit:
        return f"about {duration(taken)} of {shown} ({how}). `run` measures it before it starts."
    return (
        f"about {duration(taken)}, more than {shown} ({how}). Still fewer rows would teach it too little: a smaller "
        "model takes less (rir-mlx models), and --time sets another limit."
    )


def _smaller(draft: Draft, sizes: Sizes) -> Iterator[tuple[str, Any]]:
    """Keys with smaller values, those first that cost the least."""
    recipe = draft.recipe()
    if len(recipe.classifier.arms) > 2:
        yield "classifier.arms", ["qa", "qra"]
    if recipe.classifier.epochs is not None:
        for epochs in range(int(recipe.classifier.epochs) - 1, 1, -1):
            yield "classifier.epochs", epochs
    triples = recipe.reasoning.max_samples if recipe.reasoning.source is not None else None
    rows = min(sizes.train, recipe.data.max_samples or sizes.train)
    while (triples or 0) > _FEWEST or rows > _FEWEST:
        if triples is not None and triples > _FEWEST:
            triples = max(_FEWEST, triples // 2)
            yield "reasoning.max_samples", triples
        if rows > _FEWEST:
            rows = max(_FEWEST, rows // 2)
            yield "data.max_samples", rows


def seconds_of(text: str) -> float:
    """The seconds of `30m`, `2h` or `1d`. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(m|min|h|d)\s*", text)
    if match is None or not float(match[1]):
        raise UserError(f"{text!r} is no time.", hint="For example: 30m, 2h, 1d")
    return float(match[1]) * {"m": 60, "min": 60, "h": 3600, "d": 86400}[match[2]]
