"""What every stage works with: a run, its model and its data, and whether a stage is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import Backend, ProcessGroup
from rir_mlx.backends.limits.memory import give_back
from rir_mlx.backends.processes import all_equal, is_main, run_on_main
from rir_mlx.classification.loading import seed_suffix, trained_stage
from rir_mlx.data.loading import LabelledData, TripleData, load_labelled, load_triples
from rir_mlx.data.rows import Row, Rows, chosen
from rir_mlx.data.splits import draw_rows
from rir_mlx.data.tables.sources import files_of
from rir_mlx.errors import UserError
from rir_mlx.evaluation.cleaning import copies
from rir_mlx.evaluation.score_cache import MadeWith
from rir_mlx.progress import Progress, Silent, counted
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.prompts import LabelQuestion, ReasonedText
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.digests import digest_of, digest_of_list
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.storage.run_lock import RunLock
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import Arm

NOT_THE_RESULT = {"steps_per_report", "save_every", "report_to", "grad_checkpoint", "compile", "shared_prefix"}
"""Keys of a training that change how it runs, not what comes out."""
_FORMATS = ("float32", "bfloat16", "float16", "as stored")

T = TypeVar("T")
P = ParamSpec("P")


class RunData:
    """A recipe's rows and reasoning triples, read when they are first needed. `warned`: the user has been told what the
    audit found in the rows."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe, self.progress = recipe, progress
        self.warned = False

    @cached_property
    def labelled(self) -> LabelledData:
        """The labelled rows. Raises DataError with all faults of all files."""
        data = load_labelled(self.recipe.data, self.recipe.seed)
        give_back()
        self._say(data.notes)
        return data

    @cached_property
    def triples(self) -> TripleData:
        """What R-Gen learns from. Raises DataError with all faults of all files."""
        triples = load_triples(self.recipe.reasoning, self.recipe.seed)
        self._say(triples.notes)
        return triples

    @cached_property
    def copied(self) -> NDArray[np.bool_]:
        """[validation rows] whether each is a copy of a training row."""
        return copies([row.text for row in self.validation], [row.text for row in self.train])

    @cached_property
    def held_out(self) -> Rows:
        """The validation rows that are no copies of training rows, which a model may know by heart: these alone choose
        weights, temperatures and thresholds."""
        copied = self.copied
        return self.validation.chosen(np.flatnonzero(~copied).tolist()) if copied.any() else self.validation

    def _say(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.progress.say(f"note: {note}")

    @property
    def labels(self) -> dict[str, str]:
        """Descriptions by label."""
        return self.labelled.labels

    @property
    def names(self) -> list[str]:
        """The answers that there are: the labels, or where a text may have several, their combinations."""
        return list(self.labelled.combinations or self.labelled.labels)

    @property
    def single(self) -> list[str]:
        """Where a text may have several labels, these, of which the answers are combinations."""
        return list(self.labels) if self.labelled.combinations else []

    @property
    def train(self) -> Rows:
        return self.labelled.train

    @property
    def validation(self) -> Rows:
        return self.labelled.validation

    @property
    def test(self) -> Rows:
        return self.labelled.test

    @property
    def digest(self) -> str:
        """SHA-256 over the labels and the rows of all parts."""
        return self.labelled.digest

    def test_rows(self) -> Rows:
        """The test rows. Raises UserError if there are none."""
        if not self.test:
            raise UserError("There are no test rows.", hint="Name data.test, or set data.test_size.")
        return self.test

    def needs_rgen(self) -> bool:
        """Whether R-Gen writes some row's reasoning, rather than the user or a server's model."""
        return self.recipe.augment.engine != "openai" and any(
            row.reasoning is None for row in self.train + self.validation
        )

    def triples_digest(self) -> str | None:
        """A short hash of the triples, without what the user should know of how they were read. None for a data set of
        the hub that was not read: it is not fetched for this. Raises DataError."""
        section = self.recipe.reasoning
        if "triples" in vars(self):
            return self.triples.digest
        if section.source is not None and not files_of(section.source):
            return None
        return load_triples(section, self.recipe.seed).digest

    def row_ids_digest(self) -> str:
        """A short hash of the ids of the rows that get a reasoning."""
        return digest_of_list(row.id for row in self.train + self.validation)

    def test_ids_digest(self) -> str:
        """A short hash of the ids of the test rows."""
        return digest_of_list(row.id for row in self.test)


@dataclass(frozen=True)
class Context:
    """A run's folder, the model and data of its recipe, and how the user wants to hear about it. `force` runs a stage
    again even if nothing changed; `command` is what was typed. `trusts_server`: the user, and not only the recipe,
    named the server that texts and the key are sent to. `overrides` are saved with the recipe. Of about `informed_rows`
    an augmentation measures the mutual information of reasoning and text, even where it rejects none by it."""

    run: RunDir
    model: RecipeModel
    progress: Progress = field(default_factory=Silent)
    force: bool = False
    command: str = ""
    trusts_server: bool = False
    overrides: tuple[str, ...] = ()
    informed_rows: int = 0
    measured_with: dict[Path, set[MadeWith]] = field(default_factory=dict, compare=False, repr=False)
    """What the scores that were read or computed so far were made with, by the folder of their stage."""

    @property
    def recipe(self) -> Recipe:
        return self.model.recipe

    @cached_property
    def data(self) -> RunData:
        return RunData(self.recipe, self.progress)

    @cached_property
    def lock(self) -> RunLock:
        return RunLock(self.run.folder, self.command)

    @property
    def backend(self) -> Backend:
        return self.model.backend

    @property
    def processes(self) -> ProcessGroup:
        return self.backend.processes

    @property
    def task(self) -> ClassificationTask:
        """What the recipe's classifiers are asked."""
        return ClassificationTask(
            self.data.labels,
            self.recipe.data.instruction,
            self.recipe.max_seq_length,
            self.recipe.evaluate.max_reasoning_tokens,
            self.data.labelled.combinations,
            self.recipe.data.no_label if self.data.single else None,
        )

    @cached_property
    def question(self) -> LabelQuestion:
        """What R-Gen is asked for a reasoning. Raises UserError if fewer rows have one than it is to be shown."""
        return label_question(self.recipe, self.data.train, list(self.data.labels), self.data.labelled.combinations)

    def question_inputs(self) -> dict[str, str]:
        """How R-Gen is asked, where that is not the usual way: a part of what decides its training and its rows."""
        asked, examples = self.question.asked, self.question.examples
        inputs: dict[str, str] = {"prompt": asked} if asked != "steps" else {}
        inputs |= {"several": "labels"} if self.question.several else {}
        return inputs | ({"examples": digest_of([asdict(example) for example in examples])} if examples else {})

    def made_with(self) -> MadeWith:
        """What scores of now are computed with."""
        return MadeWith(self.backend.name, self.backend.device().name, self.model.number_format)

    def save_recipe(self) -> None:
        """Write down what the run is from now on."""
        self.run.save_recipe(self.recipe, self.overrides)

    def trained(self, arm: Arm, seed: int) -> Stage:
        """The folder of an arm that was trained with a seed."""
        return trained_stage(self.run, self.recipe, arm, seed)

    def seed_suffix(self, seed: int) -> str:
        return seed_suffix(self.recipe, seed)


def label_question(
    recipe: Recipe, train: Sequence[Row], labels: Sequence[str], together: Sequence[str] = ()
) -> LabelQuestion:
    """What R-Gen is asked for a reasoning of rows with these labels; `together` are the answers where a text may have
    several. Raises UserError if fewer of the training rows have a reasoning than it is to be shown."""
    count = recipe.reasoning.examples
    own: Sequence[Row] = ()
    if count:
        own = chosen(train, (place for place, row in enumerate(train) if row.reasoning is not None))
    if count > len(own):
        raise UserError(
            f"reasoning.examples is {count}, and {counted(len(own), 'training row')} with a reasoning of their own "
            "can be shown.",
            hint="Lower it, or name the column of your own reasonings in data.reasoning_column.",
        )
    shown = draw_rows(own, count, f"{recipe.seed}/examples", at_least=int(count >= len(together or labels)))
    examples = tuple(ReasonedText(row.text, row.label, row.reasoning or "") for row in shown)
    return LabelQuestion(labels, recipe.data.instruction, recipe.reasoning.prompt, examples, bool(together))


def training_inputs(context: Context) -> dict[str, Any]:
    """What decides the weights of every trained model alike. The backend does not: both compute the same."""
    recipe = context.recipe
    lora = {} if recipe.fine_tune_type == "full" else recipe.lora_parameters.model_dump(mode="json")
    return {
        "model": context.model.files.fingerprint,
        "fake": context.backend.name == "fake",
        "dtype": recipe.dtype,
        "seed": recipe.seed,
        "max_seq_length": recipe.max_seq_length,
        "date": recipe.date,
        "fine_tune_type": recipe.fine_tune_type,
        "num_layers": recipe.num_layers,
        "lora_parameters": lora,
    }


def exclusive(stage: Callable[Concatenate[Context, P], T]) -> Callable[Concatenate[Context, P], T]:
    """A stage during which no other call writes the same run: raises UserError if one does already."""

    @wraps(stage)
    def run(context: Context, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with _locked(context):
            return stage(context, *args, **kwargs)

    return run


@contextmanager
def _locked(context: Context) -> Iterator[None]:
    """Hold the run's lock, in the main process for all."""
    run_on_main(context.processes, context.lock.begin)
    try:
        yield
    finally:
        if is_main(context.processes):
            context.lock.end()


def on_main_process(stage: Callable[Concatenate[Context, P], T]) -> Callable[Concatenate[Context, P], T | None]:
    """A stage that runs in one process: the other ranks wait for it, and get None."""

    @wraps(stage)
    def run(context: Context, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        return run_on_main(context.processes, lambda: stage(context, *args, **kwargs))

    return run


def is_due(context: Context, stage: Stage, inputs: dict[str, Any], what: str, *, begins: bool = True) -> bool:
    """Whether a stage has to run; says why. The run's recipe is then saved, unless the stage `begins` later."""
    why = stage.why_not_done(inputs)
    if why is None and not context.force:
        context.progress.say(f"{what}: already done with these inputs, skipped → {stage.folder}")
        _say_other_format(context, stage, what)
        _keep_place_of_model(context)
        return False
    reason = "--force was given" if why is None else why
    context.progress.say(f"{what}: runs" + (f", because {reason}." if reason else "."))
    context.lock.lock()
    if begins:
        context.save_recipe()
    return True


def _keep_place_of_model(context: Context) -> None:
    """Where the same base model is named otherwise now, the run names it so: its folder may have moved."""
    run = context.run
    if run.recipe_file.is_file() and run.recipe().model != context.recipe.model:
        context.lock.lock()
        context.save_recipe()


def _say_other_format(context: Context, stage: Stage, what: str) -> None:
    done, here = stage.done(), context.model.number_format
    before = done["results"].get("number_format", here) if done else here
    if before != here:
        context.progress.say(f"note: {what} was trained in {before}; dtype: auto means {here} here.")


def check_number_formats(context: Context) -> None:
    """Raise UserError, in every process, if `dtype: auto` means different formats where they run."""
    if not all_equal(context.processes, _FORMATS.index(context.model.number_format)):
        raise UserError(
            "dtype: auto means different number formats on the machines of these processes.",
            hint="Name one, such as -s dtype=bfloat16.",
        )
