"""A training that is stopped in any way resumes and ends as if it had never stopped."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from processes import Running, start_command
from recorder import Recorder, job_of, logged
from tiny import make_tiny_llama

from rir_mlx.backends.base import Batch, TrainingState
from rir_mlx.errors import Failure, UserError
from rir_mlx.progress import Silent
from rir_mlx.training.checkpoints import Checkpoints
from rir_mlx.training.job import TrainingOutcome, TrainingOutputs
from rir_mlx.training.loop import train


class Stopped(Exception):
    pass


class Learner(Recorder):
    """Its weights are the sum of what it was given, so that a step left out or done twice shows."""

    def __init__(self, stop_at: int | None = None, **given: Any) -> None:
        super().__init__(**given)
        self.weights, self.stop_at = 0.0, stop_at

    def train_step(self, batches: Any, learning_rate: float, *, seed: int = 0) -> Any:
        if len(self.steps) == self.stop_at:
            raise Stopped
        self.weights = self.weights / 3 + learning_rate * seed + sum(float(batch.tokens.sum()) for batch in batches)
        return super().train_step(batches, learning_rate, seed=seed)

    def loss(self, batch: Batch) -> float:
        super().loss(batch)
        return (self.weights * 7919) % 1.0

    def training_state(self) -> TrainingState:
        import numpy as np

        return TrainingState({"weights": np.array([self.weights])})

    def load_training_state(self, state: TrainingState) -> None:
        self.weights = float(state.tensors["weights"][0])


OPTIONS = {"batch_size": 3, "steps_per_eval": 3, "steps_per_report": 2, "save_every": 4}


def go(folder: Path, model: Learner, inputs: dict[str, Any] | None = None, **options: Any) -> TrainingOutcome:
    accuracy = options.pop("accuracy", None)
    job = replace(job_of(20, 30, validation=4, **(OPTIONS | options)), accuracy=accuracy)
    saves = folder / "saved.txt"
    folder.mkdir(exist_ok=True)
    outputs = TrainingOutputs(
        folder / "metrics.jsonl",
        lambda: saves.write_text(repr(model.weights)) and None,
        Checkpoints(folder / "checkpoints", inputs or {}),
    )
    return train(model, job, outputs, progress=Silent())


def without_time(outcome: TrainingOutcome) -> dict[str, Any]:
    return {key: value for key, value in vars(outcome).items() if key != "seconds"}


@pytest.mark.parametrize("stop_at", [1, 4, 5, 11, 12, 29])
@pytest.mark.parametrize("patience", [None, 4])
def test_a_stopped_training_ends_as_if_it_had_not_been(tmp_path: Path, stop_at: int, patience: int | None) -> None:
    whole = Learner()
    expected = go(tmp_path / "whole", whole, patience=patience)
    with suppress(Stopped):  # unless patience ended it before
        go(tmp_path / "stopped", Learner(stop_at), patience=patience)
    model = Learner()
    found = go(tmp_path / "stopped", model, patience=patience)
    assert without_time(found) == without_time(expected)
    assert model.weights == whole.weights
    assert (tmp_path / "stopped/saved.txt").read_text() == (tmp_path / "whole/saved.txt").read_text()
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    steps = [line["step"] for line in logged(tmp_path / "stopped")]
    assert steps == sorted(set(steps))


def accuracy_of(model: Any) -> float:
    """Of few values, so that many are equal and the loss decides."""
    return int(model.weights * 7907) % 3 / 2


@pytest.mark.parametrize("stop_at", [4, 10, 19, 29])
def test_a_stopped_training_chooses_by_accuracy_as_if_it_had_not_been(tmp_path: Path, stop_at: int) -> None:
    whole, model = Learner(), Learner()
    options = {"steps_per_eval": 1, "patience": None, "accuracy": accuracy_of}
    expected = go(tmp_path / "whole", whole, **options)
    with suppress(Stopped):
        go(tmp_path / "stopped", Learner(stop_at), **options)
    found = go(tmp_path / "stopped", model, **options)
    assert without_time(found) == without_time(expected)
    assert found.validation_accuracy == 1.0
    assert (tmp_path / "stopped/saved.txt").read_text() == (tmp_path / "whole/saved.txt").read_text()
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    measured = {
        line["step"]: (-line["validation_accuracy"], line["validation_loss"]) for line in logged(tmp_path / "whole")
    }
    assert found.best_step == min(measured, key=lambda step: measured[step])
    assert len({accuracy for accuracy, _ in measured.values()}) == 3


def test_a_checkpoint_from_before_accuracy_was_measured_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        go(tmp_path, Learner(stop_at=10), steps_per_eval=3)
    state = tmp_path / "checkpoints/step-00000008/state.json"
    values = json.loads(state.read_text())
    del values["best_accuracy"]
    state.write_text(json.dumps(values))
    outcome = go(tmp_path, Learner(), accuracy=accuracy_of)
    assert (outcome.steps, outcome.validation_accuracy) == (30, 1.0)


def test_patience_stops_and_says_where_the_best_was(tmp_path: Path) -> None:
    class Worsening(Learner):
        def loss(self, batch: Batch) -> float:
            return abs(len(self.steps) - 6) + 1.0  # for each of two batches

    outcome = go(tmp_path, Worsening(), patience=3)
    assert (outcome.steps, outcome.planned, outcome.best_step, outcome.validation_loss) == (15, 30, 6, 2.0)


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        go(tmp_path, Learner(stop_at=27), steps_per_eval=100)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000020", "step-00000024"]


def test_only_the_rest_is_trained(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        go(tmp_path, Learner(stop_at=10), steps_per_eval=100)
    model = Learner()
    go(tmp_path, model, steps_per_eval=100)
    assert len(model.steps) == 22


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    expected = go(tmp_path / "whole", Learner(), steps_per_eval=100)
    with pytest.raises(Stopped):
        go(tmp_path / "stopped", Learner(stop_at=10), steps_per_eval=100)
    newest = tmp_path / "stopped/checkpoints/step-00000008/state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    model = Learner()
    assert without_time(go(tmp_path / "stopped", model, steps_per_eval=100)) == without_time(expected)
    assert len(model.steps) == 26


def test_a_torn_line_of_metrics_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        go(tmp_path, Learner(stop_at=10))
    with (tmp_path / "metrics.jsonl").open("ab") as log:
        log.write(b'{"step": 4\xff}\n\0\0\0\n{}\n{"step": 7, "lo')
    go(tmp_path, Learner())
    assert [line["step"] for line in logged(tmp_path)] == sorted({*range(2, 31, 2), *range(3, 31, 3)})


def test_a_write_that_fails_leaves_the_checkpoints_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of the third checkpoint."""
    import safetensors.numpy

    real, calls = safetensors.numpy.save_file, []

    def full(tensors: Any, path: Path, *rest: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.numpy, "save_file", full)
        with pytest.raises(Failure, match="No space left"):
            go(tmp_path, Learner(), steps_per_eval=100)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    expected = go(tmp_path.with_name("whole"), Learner(), steps_per_eval=100)
    assert without_time(go(tmp_path, Learner(), steps_per_eval=100)) == without_time(expected)


def test_other_inputs_are_refused_with_the_difference_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {"data": "abc", "rgen": {"learning_rate": 1e-4}})
    checkpoints.begin()
    Checkpoints(tmp_path, {"data": "xyz"}).check()  # nothing has been saved yet
    checkpoints.save(7, {}, {"step": 7})
    checkpoints.check()
    with pytest.raises(UserError, match=r"step 7 .*rgen.learning_rate was 0.0001, is 0.0002") as refused:
        Checkpoints(tmp_path, {"data": "abc", "rgen": {"learning_rate": 2e-4}}).check()
    assert "--force" in refused.value.hint


def test_checkpoints_of_unknown_inputs_are_cleared_away(tmp_path: Path) -> None:
    """A clearing that was killed half-way could leave the checkpoints of another training without their inputs."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"data": "abc"})
    checkpoints.begin()
    checkpoints.save(7, {}, {"step": 7})
    (tmp_path / "checkpoints/inputs.json").unlink()
    other = Checkpoints(tmp_path / "checkpoints", {"data": "xyz"})
    other.check()
    other.begin()
    assert other.latest() is None


def test_checkpoints_that_cannot_be_cleared_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"data": "abc"})
    checkpoints.begin()

    def refused(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(Failure, match="cannot be cleared"):
        checkpoints.clear()


def test_a_new_best_is_kept_with_the_weights_that_made_it(tmp_path: Path) -> None:
    """Otherwise a training that resumes from before it could end with weights of a path that it did not take."""

    class Improving(Learner):
        def loss(self, batch: Batch) -> float:
            return 1.0 / (1 + len(self.steps))

    with pytest.raises(Stopped):
        go(tmp_path, Improving(stop_at=7), save_every=1000, steps_per_eval=3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]


# real processes

STEPS = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a classifier to train for a second, dropout, validation and checkpoints included."""
    make_tiny_llama(tmp_path / "model")
    labels = {"joy": "i feel happy today", "sadness": "i was sad", "anger": "now i am angry at the rain"}
    rows = [f"{text} {'my friend ' * (n % 5)}{n},{label}\n" for n in range(40) for label, text in labels.items()]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "small.yaml").write_text(
        "model: ./model\nmax_seq_length: 320\ndtype: float32\n"
        "lora_parameters: {rank: 4, dropout: 0.2, keys: [self_attn.q_proj, mlp.up_proj]}\n"
        "data: {train: rows.csv, val_size: 15, test_size: 15}\n"
        f"classifier: {{arms: [qa], iters: {STEPS}, batch_size: 4, learning_rate: 1e-3, steps_per_eval: 10, "
        "save_every: 4, steps_per_report: 1}\n",
        encoding="utf-8",
    )
    return tmp_path


def start(folder: Path, runs: str, backend: str, *more: str) -> Running:
    return start_command(folder, "train-classifier", "small.yaml", "--runs", runs, "--backend", backend, *more)


def finished(process: Running) -> None:
    assert process.wait(timeout=300) == 0, process.err()


def await_path(process: Running, pattern: str, folder: Path) -> None:
    """Until a path of that pattern is there, or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not any(folder.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def await_lines(process: Running, path: Path, more: int) -> None:
    """Until the file has so many more lines, or the process has ended."""
    deadline, lines = time.monotonic() + 120, path.read_bytes().count(b"\n") + more
    while process.poll() is None and path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def kill(process: Running) -> bool:
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    return alive


@pytest.fixture(params=["torch", "mlx"])
def backend_name(request: pytest.FixtureRequest) -> str:
    if find_spec({"torch": "torch", "mlx": "mlx_lm"}[request.param]) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_with_the_same_bytes(folder: Path, backend_name: str) -> None:
    """SIGKILL at random moments after the first checkpoint, and in the middle of writing one."""
    finished(start(folder, "whole", backend_name))
    stage = folder / "killed/small/classifier-qa"
    rng, kills = random.Random(11), []
    for moment in ("write", "random", "random"):
        process = start(folder, "killed", backend_name)
        before = set(stage.glob("checkpoints/step-*"))
        await_path(process, "checkpoints/step-*" if not before else "checkpoints/.*.tmp", stage)
        if moment == "write":
            await_path(process, "checkpoints/.*.tmp", stage)
        else:
            await_lines(process, stage / "metrics.jsonl", rng.randint(0, 3))
            time.sleep(rng.uniform(0, 0.02))
        kills.append(kill(process))
    assert sum(kills) >= 2
    assert (stage / "checkpoints").is_dir()
    finished(start(folder, "killed", backend_name))
    whole = folder / "whole/small/classifier-qa"
    names = ["adapter/adapters.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
    for name in names:
        assert (stage / name).read_bytes() == (whole / name).read_bytes(), name
    assert logged(stage) == logged(whole)
    assert [line["step"] for line in logged(stage)] == list(range(1, STEPS + 1))
    results = [json.loads((trained / "done.json").read_text())["results"] for trained in (stage, whole)]
    assert {k: v for k, v in results[0].items() if k != "seconds"} == {
        k: v for k, v in results[1].items() if k != "seconds"
    }
    assert not list(stage.rglob("*.tmp"))
    assert not (stage / "checkpoints").exists()


@pytest.mark.slow
def test_an_interrupt_keeps_the_step_and_other_inputs_are_refused(folder: Path) -> None:
    name = next((name for name in ("torch", "mlx") if find_spec({"torch": "torch", "mlx": "mlx_lm"}[name])), None)
    if name is None:
        pytest.skip("no framework is installed")
    process = start(folder, "runs", name, "--set", "classifier.save_every=1000")
    stage = folder / "runs/small/classifier-qa"
    deadline = time.monotonic() + 120
    while not (stage / "metrics.jsonl").is_file() or len(logged(stage)) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopping after this step" in err
    assert "the same command continues" in err
    (checkpoint,) = stage.glob("checkpoints/step-*")
    step = int(checkpoint.name.removeprefix("step-"))
    assert logged(stage)[-1]["step"] == step

    made_from = stage / "checkpoints/inputs.json"
    ours = made_from.read_text(encoding="utf-8")
    made_from.write_text(ours.replace('"number_format": "', '"number_format": "not '), encoding="utf-8")
    table = (folder / "rows.csv").read_text()
    (folder / "rows.csv").write_text(table + "one more,joy\n")
    refused = start(folder, "runs", name, "--set", "classifier.learning_rate=0.5")
    _, err = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "number_format was not " in err
    assert "classifier.learning_rate was 0.001, is 0.5" in err
    assert "the rows, labels or splits have changed" in err
    assert "--force" in err
    assert "0.001" in (folder / "runs/small/recipe.yaml").read_text()
    made_from.write_text(ours, encoding="utf-8")
    (folder / "rows.csv").write_text(table)

    again = start(folder, "runs", name)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"Resuming from step {step}" in err
    assert [line["step"] for line in logged(stage)] == list(range(1, STEPS + 1))
    shutil.rmtree(folder / "runs")
