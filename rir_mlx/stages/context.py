"""What every stage needs, and whether it is to run."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from rir_mlx.backends import release_memory
from rir_mlx.backends.base import Backend, Model
from rir_mlx.data.audit import Audit
from rir_mlx.data.loading import (
    LabelledData,
    TripleData,
    load_labelled,
    load_triples,
)
from rir_mlx.data.rows import Row
from rir_mlx.errors import RirError, UserError
from rir_mlx.models import adapters
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.progress import Progress, Silent
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe, SourceSpec
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.types import Arm

T = TypeVar("T")
P = ParamSpec("P")


@dataclass
class Context:
    """What every stage needs. `force` runs a stage again even where nothing changed; `command` is what was typed."""

    run: RunDir
    recipe: Recipe
    backend: Backend
    progress: Progress = field(default_factory=Silent)
    force: bool = False
    command: str = ""

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
    def audit(self) -> Audit:
        """What there is to know about the rows as used."""
        from rir_mlx.stages.checking import audit_used  # which needs a context

        return audit_used(self)

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

    def of_seed(self, seed: int) -> str:
        """How a seed's artifacts are told from those of the first one, which classifies and is exported."""
        return "" if seed == self.recipe.classifier.seeds[0] else f"-seed{seed}"

    def trained(self, arm: Arm, seed: int) -> Stage:
        return self.run.classifier(arm + self.of_seed(seed))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes: the only one, or the first of several ranks."""
        return self.backend.processes.rank == 0

    def of_first(self, work: Callable[[], T]) -> T | None:
        """What `work` gives in the first rank; None in the others, which wait for it, and stop where it fails."""
        all_sum = self.backend.processes.all_sum
        if not self.first:
            if all_sum([0.0])[0]:
                raise UserError("The first process has said why it stopped.")
            return None
        try:
            result = work()
        except RirError:
            all_sum([1.0])
            raise
        all_sum([0.0])
        return result

    def says_first(self, question: Callable[[], bool]) -> bool:
        """The first rank's answer, in all of them."""
        answer = bool(self.of_first(question))
        return self.backend.processes.all_sum([float(answer)])[0] > 0

    @property
    def task(self) -> ClassificationTask:
        return ClassificationTask(
            self.data.labels,
            self.recipe.data.instruction,
            self.recipe.max_seq_length,
            self.recipe.evaluate.max_reasoning_tokens,
        )

    def needs_rgen(self) -> bool:
        """Whether some row gets its reasoning from R-Gen: not from the user, and not from a server's model."""
        rows = (*self.data.train, *self.data.validation)
        return self.recipe.augment.engine != "openai" and any(row.reasoning is None for row in rows)

    def test_rows(self) -> tuple[Row, ...]:
        if not self.data.test:
            raise UserError("There are no test rows.", hint="Name data.test, or set data.test_size.")
        return self.data.test

    def load(self, adapter: adapters.Adapter | None = None) -> Model:
        """The base model, with an adapter over it."""
        release_memory()  # of the model before, which its optimizer points back to
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


def _absolute(source: SourceSpec | None) -> SourceSpec | None:
    if source is None or not (Path(source.path).exists() or glob.has_magic(source.path)):
        return source
    return source.model_copy(update={"path": str(Path(source.path).absolute())})


def on_main_process(stage: Callable[Concatenate[Context, P], T]) -> Callable[Concatenate[Context, P], T | None]:
    """A stage that runs in one process: the other ranks wait for it, and get None."""

    @wraps(stage)
    def run(context: Context, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        return context.of_first(lambda: stage(context, *args, **kwargs))

    return run


def is_due(context: Context, stage: Stage, inputs: dict[str, Any], what: str, *, begins: bool = True) -> bool:
    """Whether a stage is to run, and why; then the run's recipe is the one that it runs with, unless the stage
    `begins` later."""
    why = stage.why_not_done(inputs)
    if why is None and not context.force:
        context.progress.say(f"{what}: done already with these inputs, skipped → {stage.folder}")
        return False
    reason = why or "--force was given"
    context.progress.say(f"{what}: runs, because {reason}.")
    if begins:
        context.run.save_recipe(context.recipe)
    return True
