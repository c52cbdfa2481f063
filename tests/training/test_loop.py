"""The training loop, with a model that only writes down what it is asked to do."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from recorder import HEAD, Recorder, job_of, rows_of, run, seen

from rir_mlx.backends import base
from rir_mlx.backends.base import (
    Execution,
    OptimizerSpec,
)
from rir_mlx.backends.fake import FakeModel
from rir_mlx.errors import UserError
from rir_mlx.progress import Silent
from rir_mlx.prompting.batches import LossWeights
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.recipe import schema as recipe
from rir_mlx.recipe.schema import TrainingSection
from rir_mlx.training.job import TrainingJob, TrainingOutputs, learning_rate_at, steps_for
from rir_mlx.training.loop import mean_loss, train
from rir_mlx.training.trackers import check_installed


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
    """Two epochs by default; the last partial batch and window count."""
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
    assert "[trackio]" in failed.value.hint


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
