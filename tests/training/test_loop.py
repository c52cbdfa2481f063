"""The training loop, with a model that only writes down what it is asked to do."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from recorder import HEAD, Recorder, job_of, rows_of

from rir_mlx.backends import base
from rir_mlx.backends.base import (
    Batch,
    Execution,
    OptimizerSpec,
    StepResult,
    TrainingState,
)
from rir_mlx.backends.fake import FakeModel
from rir_mlx.errors import Failure, OutOfMemory, UserError
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.progress import Silent
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.recipe import schema as recipe
from rir_mlx.recipe.schema import TrainingSection
from rir_mlx.training.checkpoints import Checkpoints
from rir_mlx.training.job import TrainingJob, TrainingOutcome, TrainingOutputs, learning_rate_at, steps_for
from rir_mlx.training.loop import mean_loss, train
from rir_mlx.training.trackers import check_installed


def run(
    model: Any, job: TrainingJob, folder: Path, saved: list[int] | None = None
) -> tuple[TrainingOutcome, list[dict[str, Any]]]:
    path = folder / "metrics.jsonl"

    def save() -> None:
        if saved is not None:
            saved.append(len(model.steps))

    outcome = train(model, job, TrainingOutputs(path, save), progress=Silent())
    return outcome, [json.loads(line) for line in path.read_text().splitlines()]


def seen(model: Recorder) -> list[list[int]]:
    """Per step, the rows that it trained."""
    return [[int(row[row >= 100][0]) - 100 for batch in step for row in batch.tokens] for step in model.steps]


@pytest.mark.parametrize(
    ("rows", "batch_size", "accumulation", "per_epoch"), [(10, 4, 1, 3), (10, 4, 2, 2), (9, 2, 3, 2), (3, 8, 2, 1)]
)
def test_every_row_is_trained_once_an_epoch(
    tmp_path: Path, rows: int, batch_size: int, accumulation: int, per_epoch: int
) -> None:
    """mlx-lm never trains the last `rows % batch` rows, and loses the last partial window of accumulation."""
    model = Recorder()
    job = job_of(rows, 3 * per_epoch, batch_size=batch_size, grad_accumulation_steps=accumulation)
    run(model, job, tmp_path)
    steps = seen(model)
    assert len(steps) == 3 * per_epoch
    epochs = [[row for step in steps[at : at + per_epoch] for row in step] for at in range(0, len(steps), per_epoch)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(rows))] * 3
    if rows > batch_size:
        assert epochs[0] != epochs[1]
    assert max(len(batch.tokens) for step in model.steps for batch in step) <= batch_size
    assert max(len(step) for step in model.steps) <= accumulation


def test_each_step_is_normalised_by_its_own_tokens(tmp_path: Path) -> None:
    """Also the last and smaller one of an epoch: the weights of a step sum to 1 + reasoning_weight."""
    model = Recorder()
    job = job_of(10, 4, batch_size=4, grad_accumulation_steps=2)
    run(model, TrainingJob(job.train, job.validation, job.options, 0, 4, weights=LossWeights(reasoning=0.25)), tmp_path)
    sums = [sum(float(batch.weights.sum()) for batch in step) for step in model.steps]
    np.testing.assert_allclose(sums, 1.25, rtol=1e-5)
    assert len({len(step) for step in model.steps}) == 2


def test_the_same_seed_trains_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    orders = []
    for seed in (0, 0, 1):
        model = Recorder()
        job = job_of(20, 12, batch_size=4, grad_accumulation_steps=1)
        run(model, TrainingJob(job.train, job.validation, job.options, seed, 12), tmp_path)
        orders.append(seen(model))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("share", [True, False])
def test_the_option_says_whether_the_prefix_is_shared(tmp_path: Path, share: bool) -> None:
    model = Recorder()
    run(model, job_of(4, 1, shared_prefix=share, batch_size=4), tmp_path)
    assert {batch.prefix for step in model.steps for batch in step} == {HEAD if share else ()}


def test_the_optimizer_gets_the_options(tmp_path: Path) -> None:
    model = Recorder()
    run(model, job_of(4, 1, weight_decay=0.3, max_grad_norm=0.7), tmp_path)
    assert model.optimizer == OptimizerSpec(weight_decay=0.3, max_grad_norm=0.7)


@pytest.mark.parametrize(
    ("rows", "options", "steps"),
    [
        (100, {"batch_size": 8, "grad_accumulation_steps": 2}, 14),
        (100, {"batch_size": 8, "grad_accumulation_steps": 1, "epochs": 1}, 13),
        (100, {"batch_size": 10, "grad_accumulation_steps": 1, "epochs": 0.5}, 5),
        (3, {"epochs": 0.01}, 1),
        (100, {"iters": 7}, 7),
    ],
)
def test_steps_for(rows: int, options: dict[str, Any], steps: int) -> None:
    """Two epochs where nothing is said; the last partial batch and window count."""
    assert steps_for(rows_of(rows), TrainingSection(**options)) == steps


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_its_peak_and_falls_by_the_schedule(schedule: Any) -> None:
    options = TrainingSection(learning_rate=2e-3, lr_schedule=schedule, warmup=0.1)
    rates = [learning_rate_at(step, 100, options) for step in range(100)]
    np.testing.assert_allclose(rates[:10], [2e-3 * (step + 1) / 11 for step in range(10)])
    assert rates[10] == max(rates) == 2e-3
    assert min(rates) > 0
    middle = {"cosine": 1e-3, "linear": 1e-3, "constant": 2e-3}[schedule]
    assert rates[55] == pytest.approx(middle)
    assert rates[99] == pytest.approx({"cosine": 0, "linear": 2e-3 / 90, "constant": 2e-3}[schedule], abs=1e-6)
    if schedule != "constant":
        assert (np.diff(rates[10:]) < 0).all()


def test_a_cosine_falls_slowly_at_first() -> None:
    options = TrainingSection(learning_rate=1.0, lr_schedule="cosine", warmup=0)
    assert learning_rate_at(25, 100, options) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate_at(0, 1, options) == 1.0


def test_steps_get_the_rates_of_the_schedule(tmp_path: Path) -> None:
    model, job = Recorder(), job_of(8, 20, learning_rate=1e-3, warmup=0.2)
    run(model, job, tmp_path)
    assert model.rates == [learning_rate_at(step, 20, job.options) for step in range(20)]


def test_the_best_weights_by_validation_are_kept(tmp_path: Path) -> None:
    model, saved = Recorder(validation=[3.0, 2.0, 2.5, 1.0, 4.0]), []
    job = job_of(8, 10, validation=4, steps_per_eval=2)
    outcome, lines = run(model, job, tmp_path, saved)
    assert saved == [2, 4, 8]
    assert (outcome.best_step, outcome.validation_loss, outcome.steps) == (8, 1.0, 10)
    measured = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert measured == {2: 3.0, 4: 2.0, 6: 2.5, 8: 1.0, 10: 4.0}


def test_equally_good_weights_are_not_saved_again(tmp_path: Path) -> None:
    saved: list[int] = []
    run(Recorder(validation=[1.0]), job_of(8, 6, validation=2, steps_per_eval=2), tmp_path, saved)
    assert saved == [2]


def test_the_last_step_is_measured_too(tmp_path: Path) -> None:
    saved: list[int] = []
    outcome, _ = run(Recorder(validation=[2.0, 1.0]), job_of(8, 5, validation=2, steps_per_eval=4), tmp_path, saved)
    assert saved == [4, 5]
    assert outcome.best_step == 5


def test_without_validation_rows_the_last_weights_are_kept(tmp_path: Path) -> None:
    model, saved = Recorder(), []
    outcome, lines = run(model, job_of(8, 7, steps_per_eval=2), tmp_path, saved)
    assert saved == [7]
    assert (outcome.best_step, outcome.validation_loss, model.measured) == (7, None, 0)
    assert not [line for line in lines if "validation_loss" in line]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_rows(tmp_path: Path, loss: float) -> None:
    model, saved = Recorder(losses=[1.0, 1.0, 1.0, loss], validation=[2.0]), []
    with pytest.raises(Failure, match="not finite at step 4") as failed:
        run(model, job_of(20, 10, validation=2, batch_size=3, steps_per_eval=2, steps_per_report=1), tmp_path, saved)
    rows = failed.value.what.partition("training rows ")[2].partition(")")[0]
    assert sorted(int(row.removeprefix("train:")) for row in rows.split(", ")) == sorted(seen(model)[3])
    assert "learning_rate" in failed.value.hint
    assert saved == [2]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_validation_loss_that_is_never_finite_is_a_failure(tmp_path: Path) -> None:
    """NaN is below nothing: nothing is ever saved, and the stage was called done without an adapter."""
    saved: list[int] = []
    with pytest.raises(Failure):
        run(Recorder(validation=[math.nan]), job_of(8, 4, validation=2, steps_per_eval=2), tmp_path, saved)


@pytest.mark.parametrize(("report", "evaluate"), [(3, 4), (1, 1), (5, 5), (100, 100), (2, 100)])
def test_each_reported_step_has_one_line(tmp_path: Path, report: int, evaluate: int) -> None:
    job = job_of(8, 10, validation=2, steps_per_report=report, steps_per_eval=evaluate)
    _, lines = run(Recorder(), job, tmp_path)
    due = {step for step in range(1, 11) if step % report == 0 or step % evaluate == 0 or step == 10}
    assert [line["step"] for line in lines] == sorted(due)
    with_loss = [line["step"] for line in lines if "loss" in line]
    assert with_loss == [step for step in range(1, 11) if step % report == 0 or step == 10]


def test_a_reported_loss_is_the_mean_since_the_last_report(tmp_path: Path) -> None:
    model = Recorder(losses=[8.0, 6.0, 4.0, 2.0, 1.0])
    outcome, lines = run(model, job_of(8, 5, steps_per_report=2), tmp_path)
    assert [line["loss"] for line in lines] == [7.0, 3.0, 1.0]
    assert outcome.train_loss == 1.0
    assert [line["learning_rate"] for line in lines] == [model.rates[1], model.rates[3], model.rates[4]]


def test_processed_tokens_are_counted(tmp_path: Path) -> None:
    model = Recorder()
    outcome, lines = run(model, job_of(10, 6, steps_per_report=2), tmp_path)
    per_step = [sum(len(batch.prefix) + batch.tokens.size for batch in step) for step in model.steps]
    assert outcome.tokens == sum(per_step)
    assert [line["tokens"] for line in lines] == np.cumsum(per_step)[1::2].tolist()
    assert all(line["tokens_per_second"] > 0 for line in lines)


def test_a_new_training_starts_a_new_file_of_metrics(tmp_path: Path) -> None:
    run(Recorder(), job_of(8, 9, steps_per_report=1), tmp_path)
    _, lines = run(Recorder(), job_of(8, 2, steps_per_report=1), tmp_path)
    assert [line["step"] for line in lines] == [1, 2]


def test_validation_is_weighted_over_all_rows_at_once() -> None:
    """Not a mean of the batches' means: a last batch of one row would count as much as a full one."""
    rows = tuple(TrainingExample((10 + i,), (20,) * (1 + i), tuple(range(30, 31 + i % 3))) for i in range(5))
    examples = TrainingExamples((1, 2), rows)
    model = FakeModel(64)
    losses = [
        mean_loss(
            model,
            TrainingJob(examples, examples, TrainingSection(batch_size=size), 0, 1, weights=LossWeights(reasoning=0.5)),
        )
        for size in (1, 2, 5)
    ]
    whole = step_batches(examples, [range(5)], weights=LossWeights(reasoning=0.5))[0]
    np.testing.assert_allclose(losses, model.loss(whole), rtol=1e-6)


def test_training_lowers_the_validation_loss_of_what_can_be_learned(tmp_path: Path) -> None:
    model, saved = FakeModel(128), []
    examples = TrainingExamples((1, 2), tuple(TrainingExample((10 + i,), (), (40 + i % 3,)) for i in range(12)))
    options = TrainingSection(learning_rate=1e-2, steps_per_eval=20, max_grad_norm=100)
    job = TrainingJob(examples, examples, options, 0, 150)
    before = mean_loss(model, job)
    outcome = train(model, job, TrainingOutputs(tmp_path / "m", lambda: saved.append(1)), progress=Silent())
    assert outcome.validation_loss is not None
    assert outcome.validation_loss < 0.5 * before
    assert saved


class Small(Recorder):
    """Runs out of memory with more than so many rows in a batch."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def train_step(self, batches: Sequence[Batch], learning_rate: float, *, seed: int = 0) -> StepResult:
        if max(len(batch.tokens) for batch in batches) > self.rows:
            raise OutOfMemory("full")
        return super().train_step(batches, learning_rate, seed=seed)


class Hearing(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_where_memory_runs_out_the_batches_are_halved(tmp_path: Path) -> None:
    """The same rows with the same weights, in smaller batches; said once, and kept for the steps that follow."""
    job, progress = job_of(24, 6, batch_size=8, grad_accumulation_steps=2), Hearing()
    whole, small = Recorder(), Small(3)
    run(whole, job, tmp_path)
    train(small, job, TrainingOutputs(tmp_path / "m", lambda: None), progress=progress)
    assert [sorted(step) for step in seen(small)] == [sorted(step) for step in seen(whole)]
    assert {len(batch.tokens) for step in small.steps for batch in step} <= {1, 2}
    sums = [[sum(float(batch.weights.sum()) for batch in step) for step in model.steps] for model in (whole, small)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-6)
    assert len(progress.warnings) == 2
    assert "at most 2 rows" in progress.warnings[-1]


def test_a_single_row_that_does_not_fit_is_a_failure_with_a_mend(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="a single row") as failed:
        run(Small(0), job_of(24, 6, batch_size=8), tmp_path)
    assert "grad_checkpoint" in failed.value.hint


def test_a_row_that_is_not_finite_is_named_by_its_text(tmp_path: Path) -> None:
    job = job_of(4, 5, batch_size=1, grad_accumulation_steps=1)
    rows = tuple(replace(row, text=f"text {number}") for number, row in enumerate(job.train.rows))
    examples = TrainingExamples(HEAD, rows)
    model = Recorder(losses=[math.nan])
    with pytest.raises(Failure) as failed:
        run(model, TrainingJob(examples, rows_of(0), job.options, 0, 5), tmp_path)
    row = seen(model)[0][0]
    assert f"training rows train:{row}, starting with 'text {row}'" in failed.value.what


def test_dropout_has_a_seed_of_its_own_at_every_step(tmp_path: Path) -> None:
    model = Recorder()
    run(model, job_of(8, 20), tmp_path)
    assert len(set(model.seeds)) == 20


def test_the_options_say_how_a_step_is_computed(tmp_path: Path) -> None:
    model = Recorder()
    run(model, job_of(4, 1, optimizer="adafactor", grad_checkpoint=True, compile=False), tmp_path)
    assert model.optimizer == OptimizerSpec("adafactor", weight_decay=0.01, max_grad_norm=1.0)
    assert model.execution == Execution(grad_checkpoint=True, compile=False)


def test_recipe_and_seam_know_the_same_optimizers() -> None:
    assert get_args(recipe.OptimizerName) == get_args(base.OptimizerName)


def test_metrics_reach_tensorboard_once_each(tmp_path: Path) -> None:
    """Read back from its event file."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    run(Recorder(), job_of(8, 4, steps_per_report=2, report_to=["tensorboard"]), tmp_path)
    (file,) = (tmp_path / "tensorboard").iterdir()
    points: dict[str, list[tuple[int, float]]] = {}
    data = file.read_bytes()
    while data:  # a record is its length (8 bytes), a checksum (4), the event, a checksum (4)
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            points.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert points["loss"] == [(2, 1.0), (4, 1.0)]
    assert [step for step, _ in points["learning_rate"]] == [2, 4]


def test_a_reporter_that_is_not_installed_is_named_with_its_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match="trackio is not installed") as failed:
        check_installed(["trackio"])
    assert "rir-mlx[trackio]" in failed.value.hint


class Others:
    """A world whose other ranks give these numbers."""

    def __init__(self, rank: int, size: int, *gives: Sequence[float]) -> None:
        self.rank, self.size, self.gives = rank, size, list(gives)
        self.given: list[list[float]] = []

    def all_sum(self, values: Sequence[float]) -> list[float]:
        self.given.append(list(values))
        others = self.gives.pop(0) if self.gives else [0.0] * len(values)
        return [one + other for one, other in zip(values, others, strict=True)]


def test_a_rank_without_validation_rows_learns_the_loss_of_the_others() -> None:
    """Two batches for four ranks: the empty ranks gave integers, and got their sum cut off."""
    job = job_of(8, 1, validation=6, batch_size=3)
    processes = Others(3, 4, [2.75, 0.0])
    assert mean_loss(Recorder(), job, processes) == 2.75
    assert processes.given == [[0.0, 0.0]]
    assert all(isinstance(value, float) for value in processes.given[0])


def test_out_of_memory_on_another_rank_is_out_of_memory_here() -> None:
    with pytest.raises(OutOfMemory):
        mean_loss(Recorder(), job_of(8, 1, validation=6), Others(0, 2, [0.0, 1.0]))


def test_where_memory_runs_out_in_validation_the_batches_are_halved(tmp_path: Path) -> None:
    class Narrow(FakeModel):
        def loss(self, batch: Batch) -> float:
            if len(batch.tokens) > 2:
                raise OutOfMemory("full")
            return super().loss(batch)

    job, progress, ends = job_of(12, 4, validation=9, batch_size=4, steps_per_eval=2), Hearing(), []
    for model in (FakeModel(200), Narrow(200)):
        model.add_adapter(AdapterSpec(), seed=0)
        outputs = TrainingOutputs(tmp_path / "m", lambda: None)
        ends.append(train(model, job, outputs, progress=progress).validation_loss)
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    assert len(progress.warnings) == 1


def test_all_ranks_stop_where_one_was_asked_to(tmp_path: Path) -> None:
    """Otherwise the one that goes on waits for a rank that has gone, and loses what was not yet kept."""
    model, checkpoints = Recorder(), Checkpoints(tmp_path / "checkpoints", {})
    model.training_state = lambda: TrainingState({"w": np.zeros(1)})  # type: ignore[attr-defined]
    processes = Others(0, 2, [0.0], [10.0, 0.0], [10.0, 1.0])
    outputs = TrainingOutputs(tmp_path / "m", lambda: None, checkpoints)
    with pytest.raises(KeyboardInterrupt):
        train(model, job_of(20, 9), outputs, progress=Silent(), processes=processes)
    assert len(model.steps) == 2
    assert checkpoints.step() == 2


def test_an_interrupt_after_the_last_step_is_heard_too(tmp_path: Path) -> None:
    """While the last validation was measured, it was taken note of and forgotten: the next stage went on."""

    class Pressed(Recorder):
        weights = 0.0

        def training_state(self) -> TrainingState:
            return TrainingState({"steps": np.array([len(self.steps)])})

        def load_training_state(self, state: TrainingState) -> None:
            pass

        def loss(self, batch: Batch) -> float:
            if len(self.steps) == 6:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(batch)

    checkpoints = Checkpoints(tmp_path / "checkpoints", {})
    outputs = TrainingOutputs(tmp_path / "m", lambda: None, checkpoints)
    job = job_of(8, 6, validation=2, steps_per_eval=3)
    with pytest.raises(KeyboardInterrupt):
        train(Pressed(), job, outputs, progress=Silent())
    assert checkpoints.step() == 6
    model = Pressed()
    assert train(model, job, outputs, progress=Silent()).steps == 6
    assert model.steps == []


class Watching(Silent):
    """Counts what the progress bar is told."""

    def __init__(self) -> None:
        self.totals: list[float] = []
        self.amounts: list[float] = []
        self.fields: Counter[str] = Counter()

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[Watching]:
        self.totals.append(total)
        yield self

    def advance(self, amount: float = 1, **fields: float) -> None:
        self.amounts.append(amount)
        self.fields.update(fields.keys())


def test_progress_reaches_its_total(tmp_path: Path) -> None:
    progress = Watching()
    job = job_of(8, 9, steps_per_report=4)
    train(Recorder(), job, TrainingOutputs(tmp_path / "m", lambda: None), progress=progress)
    assert progress.totals == [9]
    assert sum(progress.amounts) == 9
    assert progress.fields == {"loss": 3, "tokens_per_second": 3}


class Accurate(Recorder):
    """Its accuracy after each number of steps is given."""

    def __init__(self, accuracies: dict[int, float], validation: Sequence[float] = (1.0,)) -> None:
        super().__init__(validation=validation)
        self.accuracies = accuracies


def accurate(model: Any) -> float:
    return float(model.accuracies[len(model.steps)])


def test_the_best_weights_are_those_that_are_right_most_often(tmp_path: Path) -> None:
    """Though the loss says otherwise: it grows where a model is too sure, long before the model is wrong."""
    model = Accurate({2: 0.5, 4: 0.8, 6: 0.7, 8: 0.9, 10: 0.6}, validation=[1.0, 2.0, 0.5, 3.0, 0.1])
    saved: list[int] = []
    job = replace(job_of(8, 10, validation=4, steps_per_eval=2), accuracy=accurate)
    outcome, lines = run(model, job, tmp_path, saved)
    assert saved == [2, 4, 8]
    assert (outcome.best_step, outcome.validation_accuracy, outcome.validation_loss) == (8, 0.9, 3.0)
    measured = {line["step"]: line["validation_accuracy"] for line in lines if "validation_accuracy" in line}
    assert measured == model.accuracies


def test_of_equally_right_weights_the_lower_loss_decides(tmp_path: Path) -> None:
    model = Accurate(dict.fromkeys((2, 4, 6, 8), 0.0), validation=[3.0, 2.0, 2.5, 2.0])
    saved: list[int] = []
    job = replace(job_of(8, 8, validation=4, steps_per_eval=2), accuracy=accurate)
    outcome, _ = run(model, job, tmp_path, saved)
    assert saved == [2, 4]
    assert (outcome.best_step, outcome.validation_accuracy, outcome.validation_loss) == (4, 0.0, 2.0)


def test_patience_counts_from_the_most_accurate(tmp_path: Path) -> None:
    falling = [1.0 / n for n in range(1, 20)]
    model = Accurate({2: 0.6, 4: 0.8, 6: 0.7, 8: 0.7, 10: 0.9}, validation=falling)
    job = replace(job_of(8, 30, validation=4, steps_per_eval=2, patience=2), accuracy=accurate)
    heard: list[str] = []
    progress = Hearing()
    progress.say = heard.append  # type: ignore[method-assign]
    outcome = train(model, job, TrainingOutputs(tmp_path / "m", lambda: None), progress=progress)
    assert (outcome.steps, outcome.best_step) == (8, 4)
    assert heard == ["Stopped after step 8: 2 validations without improving on 80.0% correct at step 4."]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_measures_the_accuracy_and_all_choose_by_it(tmp_path: Path, rank: int) -> None:
    class Pair(Others):
        """The other rank measures 0.75 where it is the first."""

        def all_sum(self, values: Sequence[float]) -> list[float]:
            asked.append(list(values))
            first, *rest = values
            return [first + (0.75 if len(asked) == 4 and rank == 1 else 0.0), *rest]

    asked: list[list[float]] = []
    model, measured = Recorder(), []

    def accuracy(_: Any) -> float:
        measured.append(rank)
        return 0.75

    job = replace(job_of(8, 1, validation=4), accuracy=accuracy)
    processes = Pair(rank, 2)
    outcome = train(model, job, TrainingOutputs(tmp_path / "m", lambda: None), progress=Silent(), processes=processes)
    assert outcome.validation_accuracy == 0.75
    assert measured == [0] * (rank == 0)


def test_a_token_budget_holds_for_both_of_two_tasks(tmp_path: Path) -> None:
    """Batches were cut by the first task's lengths, and the longer rows of the second ran together all the same."""
    first = TrainingExamples((), tuple(TrainingExample((100 + i, 2), (), (3,)) for i in range(12)))
    second = TrainingExamples((), tuple(TrainingExample((100 + i, 2), (5,) * 17, ()) for i in range(12)))
    options = TrainingSection(batch_tokens=40, epochs=1, grad_accumulation_steps=1)
    both = replace(first, second=second)
    assert steps_for(both, options) == 6
    model = Recorder()
    run(model, TrainingJob(both, rows_of(0), options, seed=0, steps=6), tmp_path)
    assert max(batch.tokens.size for step in model.steps for batch in step) == 38
    assert sorted(row for step in seen(model) for row in step) == sorted([*range(12)] * 2)
