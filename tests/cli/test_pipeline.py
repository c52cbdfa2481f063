"""A run of every stage: what it makes, skips and repeats, and how it resumes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Finished, Result, Run, write_csv

from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.loading import arm_to_use
from rir_mlx.errors import Failure
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.storage.atomic import write_json
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.training.checkpoints import Checkpoints


def test_a_run_makes_every_artifact_and_a_second_run_skips_every_stage(rir: Run, finished: Finished) -> None:
    assert finished.result.code == 0, finished.result.err
    assert "9 test rows cannot show whether any arm beats the majority label" in finished.result.out
    run = Path("runs/small")
    for name in (
        "recipe.yaml",
        "rgen/adapter/adapter_config.json",
        "rgen/metrics.jsonl",
        "rgen/done.json",
        "augmented/train.jsonl",
        "augmented/rejected.jsonl",
        "augmented/stats.json",
        "classifier-qa/adapter/adapters.safetensors",
        "classifier-qra/done.json",
        "evaluation/qa/predictions.jsonl",
        "evaluation/qra/metrics.json",
        "evaluation/comparison.json",
        "report.html",
    ):
        assert (run / name).is_file(), name
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/adapter/*")}
    second = rir("run", "small.yaml")
    assert second.code == 0
    assert (
        second.err.count("already done with these inputs, skipped") == 2 + 3 + 3 + 3
    )  # stages, arms, measured, baselines
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/adapter/*")} == before


def test_what_was_measured_before_keeps_the_name_of_what_measured_it(rir: Run, finished: Finished) -> None:
    """With another backend, and nothing left to compute, the report named that one; so it did for all arms where that
    one had measured the last of them."""
    elsewhere = _measured_elsewhere()
    assert _measured_with(rir) == elsewhere
    assert _measured_with(rir, "-s", "evaluate.wanted_accuracy=0.9") == elsewhere, "scores are not computed for that"
    Path("runs/small/evaluation/qra/readings.jsonl").unlink()
    assert _measured_with(rir) == {
        "backend": "fake and torch",
        "device": "no framework and a card",
        "dtype": "float32 and bfloat16",
    }


def test_a_measurement_does_not_mix_two_number_formats(rir: Run, finished: Finished) -> None:
    """Scores of an evaluation that was stopped where `auto` means bfloat16 stood beside those of another machine."""
    _measured_elsewhere()
    record, journal = (Path(f"runs/small/evaluation/qa/{name}") for name in ("done.json", "readings.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    record.unlink()
    journal.write_bytes(b"".join(lines[:5]))
    again = rir("evaluate", "small")
    assert again.code == 0, again.err
    assert "scores in bfloat16 are discarded, for here it is float32" in again.err
    made = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert len(made) == len(lines)
    assert {line["with"][2] for line in made} == {"float32"}
    assert {line["key"] for line in made} == {json.loads(line)["key"] for line in lines}


def test_a_model_that_was_trained_in_another_number_format_says_so(rir: Run, finished: Finished) -> None:
    record = Path("runs/small/classifier-qa/done.json")
    values = json.loads(record.read_text(encoding="utf-8"))
    assert values["results"]["number_format"] == "float32"
    values["results"]["number_format"] = "bfloat16"
    record.write_text(json.dumps(values), encoding="utf-8")
    again = rir("train-classifier", "small")
    assert again.code == 0, again.err
    assert again.err.count("was trained in bfloat16; dtype: auto means float32 here") == 1


def _measured_elsewhere() -> dict[str, str]:
    """Name another machine in all scores of the run."""
    elsewhere = {"backend": "torch", "device": "a card", "dtype": "bfloat16"}
    for path in Path("runs/small/evaluation").glob("*/readings.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        path.write_text("".join(json.dumps(line | {"with": [*elsewhere.values()]}) + "\n" for line in lines))
    untuned = Path("runs/small/evaluation/untuned/done.json")
    record = json.loads(untuned.read_text(encoding="utf-8"))
    record["results"]["made_with"] = [[*elsewhere.values()]]
    untuned.write_text(json.dumps(record), encoding="utf-8")
    return elsewhere


def _measured_with(rir: Run, *changes: str) -> dict[str, str]:
    again = rir("evaluate", "small", *changes)
    assert again.code == 0, again.err
    found = json.loads(Path("runs/small/evaluation/comparison.json").read_text(encoding="utf-8"))["run"]
    return {key: found[key] for key in ("backend", "device", "dtype")}


def test_a_changed_key_runs_the_stages_that_it_touches_and_says_why(rir: Run, finished: Finished) -> None:
    again = rir("run", "small.yaml", "--set", "classifier.learning_rate=1e-3")
    assert again.code == 0
    assert "R-Gen: already done" in again.err
    assert "augmentation: already done" in again.err
    assert "classifier qa: runs, because classifier.learning_rate was 0.0001, is 0.001." in again.err


def test_a_stage_that_is_trained_again_keeps_the_earlier_one_and_takes_it_back(rir: Run, finished: Finished) -> None:
    adapter = Path("runs/small/classifier-qa/adapter/adapters.safetensors")
    before = adapter.read_bytes()
    changed = ("train-classifier", "small.yaml", "--arm", "qa", "-s", "classifier.learning_rate=1e-3")
    again = rir(*changed)
    assert "classifier qa: the earlier one is kept in runs/small/earlier/classifier-qa-1" in again.err, again.err
    other = adapter.read_bytes()
    assert (Path("runs/small/earlier/classifier-qa-1/adapter") / adapter.name).read_bytes() == before
    back = rir("train-classifier", "small.yaml", "--arm", "qa", "-s", "classifier.learning_rate=1e-4")
    assert "an earlier training with these inputs is used again" in back.err, back.err
    assert adapter.read_bytes() == before
    assert "used again" in rir(*changed).err
    assert adapter.read_bytes() == other


@pytest.mark.parametrize("moment", [(Stage, "begin"), (Checkpoints, "begin"), (Checkpoints, "save")])
def test_a_training_that_was_stopped_does_not_hide_the_finished_one_before_it(
    rir: Run, finished: Finished, monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    """Back at the recipe of the finished one it was trained once more, or refused with the advice to take --force."""
    adapter = Path("runs/small/classifier-qa/adapter/adapters.safetensors")
    before, work = adapter.read_bytes(), getattr(*moment)
    command = ("train-classifier", "small.yaml", "--arm", "qa", "-s", "classifier.save_every=1", "-s")

    def stop(*given: Any) -> None:
        work(*given)
        raise Failure("The power went out.")

    with monkeypatch.context() as patched:
        patched.setattr(*moment, stop)
        assert rir(*command, "classifier.learning_rate=1e-3").code == 1
    back = rir(*command, "classifier.learning_rate=1e-4")
    assert "an earlier training with these inputs is used again" in back.err, back.err
    assert adapter.read_bytes() == before
    again = rir(*command, "classifier.learning_rate=1e-3")
    assert again.code == 0, again.err
    assert ("Resuming from step 1 " in again.err) == (moment[1] == "save"), again.err


def test_later_stages_keep_what_was_set_at_the_start(rir: Run, recipe: Path) -> None:
    """`--set data.test_size` had to be given again, or the evaluation refused rows of another split."""
    start = ("-s", "data.test_size=12", "-s", "classifier.epochs=2")
    assert rir("train-rgen", str(recipe), *start).code == 0
    result = rir("augment", str(recipe))
    assert "note: as at the start of this run: -s data.test_size=12 -s classifier.epochs=2" in result.err
    assert rir("train-classifier", str(recipe), "--arm", "qa", "-s", "classifier.epochs=1").code == 0
    kept = load_recipe("runs/small/recipe.yaml")
    assert (kept.data.test_size, kept.classifier.epochs) == (12, 1)
    assert rir("train-rgen", str(recipe)).code == 0
    assert load_recipe("runs/small/recipe.yaml").data.test_size == 12, (
        "a finished stage that is skipped changes nothing"
    )


def test_a_run_is_named_by_its_name(rir: Run, finished: Finished) -> None:
    assert rir("classify", "i was sad", "--run", "small").code == 0
    assert rir("evaluate", "small").code == 0
    missing = rir("classify", "i was sad", "--run", "smal")
    assert (missing.code, "Trained: runs/small." in missing.err) == (2, True), missing.err


def test_a_run_says_which_stage_of_how_many_it_does_and_what_comes_next(finished_once: Finished) -> None:
    said = finished_once.result.err
    stages = [line for line in said.splitlines() if line.startswith("Stage ")]
    assert stages == [
        *("Stage 1 of 6: R-Gen", "Stage 2 of 6: augmentation", "Stage 3 of 6: classifier qa"),
        *("Stage 4 of 6: classifier qra", "Stage 5 of 6: classifier qar", "Stage 6 of 6: evaluation"),
    ]
    assert "R-Gen: runs.\n" in said, "a first run needs no reason"
    assert said.splitlines()[-1].startswith("Next: ")


@pytest.mark.parametrize(
    ("recommended", "validation", "used", "why"),
    [
        ("qa", 0.5, "qa", "The evaluation recommends it. Use it."),
        ("tf-idf", 0.5, "qar", "Of the arms that reason it is the best on the validation rows. Use it."),
        (None, 0.5, "qar", "Of the arms that reason it is the best on the validation rows. Use it."),
        ("gone", 0.5, "qar", "Of the arms that reason it is the best on the validation rows. Use it."),
        ("untuned", None, "qar", "Of the arms that reason it generates the fewest tokens. Use it."),
    ],
)
def test_the_recommended_arm_is_the_one_to_classify_with(
    tmp_path: Path, recommended: str | None, validation: float | None, used: str, why: str
) -> None:
    """`Use qa`, and the command below it classified with qra; or it spoke of validation rows where there were none."""
    run = RunDir(tmp_path)
    for arm in ("qa", "qra", "qar"):
        write_json(run.classifier(arm).record, {})
    assert arm_to_use(run) == ("qra", "")
    entries = [{"name": "qa", "validation_accuracy": 0.9}, {"name": "qar", "validation_accuracy": validation}]
    values = {"recommended": recommended, "recommendation": "Use it.", "chosen": "qar", "entries": entries}
    write_json(run.comparison, values)
    assert arm_to_use(run) == (used, why)


@pytest.mark.slow
def test_each_stage_works_alone_on_the_newest_run(rir: Run, recipe: Path) -> None:
    assert rir("train-rgen", str(recipe)).code == 0
    for command in (["augment"], ["train-classifier"], ["evaluate", "--json"]):
        result = rir(*command, "--quiet")
        assert result.code == 0, result.err
    values = json.loads(result.out)
    names = [line["name"] for line in values["entries"]]
    assert names == ["qa", "qra", "qar", "majority", "tf-idf", "untuned"]
    assert values["rows"]["test"] == 9
    assert result.err == ""


def test_stages_in_the_wrong_order_name_the_command_that_is_missing(rir: Run, recipe: Path) -> None:
    for command, words in (
        ("augment", "Run `rir-mlx train-rgen` with the same recipe"),
        ("evaluate", "Run `rir-mlx train-classifier` with the same recipe first."),
    ):
        result = rir(command, str(recipe))
        assert (result.code, words in result.err) == (2, True), result.err
    result = rir("train-classifier", str(recipe), "--arm", "qra")
    assert result.code == 2
    assert "Run `rir-mlx augment` with the same recipe first." in result.err


def test_a_control_is_trained_by_its_name(rir: Run, finished: Finished) -> None:
    before = set(Path("runs/small").glob("classifier-*/done.json"))
    assert rir("train-classifier", "small.yaml", "--arm", "qra-words", "--arm", "multitask").code == 0
    trained = {path.parent.name for path in Path("runs/small").glob("classifier-*/done.json") if path not in before}
    assert trained == {"classifier-multitask", "classifier-qra-words"}


def test_the_weight_of_the_reasoning_leaves_the_label_only_arm_alone(rir: Run, finished: Finished) -> None:
    again = rir("train-classifier", "runs/small", "--set", "classifier.reasoning_weight=0.1")
    assert "classifier qa: already done" in again.err
    assert "runs, because classifier.reasoning_weight was 0.5, is 0.1" in again.err


def test_reasonings_and_classifiers_of_other_splits_are_refused(rir: Run, finished: Finished) -> None:
    """Carved splits follow the seed: with another one, rows that were trained on would stand in the test part."""
    result = rir("evaluate", "runs/small", "--set", "seed=1")
    assert (result.code, "trained on other rows" in result.err) == (2, True), result.err
    result = rir("train-classifier", "runs/small", "--set", "seed=1", "--arm", "qra")
    assert (result.code, "written for other rows" in result.err) == (2, True), result.err


def test_arms_of_unequal_steps_get_no_verdict(rir: Run, finished: Finished) -> None:
    assert rir("train-classifier", "runs/small", "--set", "classifier.epochs=3", "--arm", "qra").code == 0
    result = rir("evaluate", "runs/small")
    assert result.code == 0
    assert "changed accuracy" not in result.out


def test_a_fault_of_the_data_is_found_before_any_training(rir: Run, recipe: Path) -> None:
    write_csv(Path("rows.csv"), [("i feel fine", "joy")] * 30)
    result = rir("run", str(recipe))
    assert result.code == 2
    assert "R-Gen: runs" not in result.err


@pytest.mark.slow
def test_a_run_on_the_fake_backend_is_never_taken_for_a_real_one(rir: Run, finished: Finished) -> None:
    pytest.importorskip("torch")
    result = rir("train-classifier", "small.yaml", "--arm", "qa", "--backend", "torch")
    assert "runs, because fake was True, is False" in result.err


def half_trained(monkeypatch: pytest.MonkeyPatch, rir: Run, recipe: Path, *more: str) -> Result:
    """A run that fails in its classifier after the first checkpoint."""
    real, steps = FakeModel.train_step, []

    def failing(self: FakeModel, *given: Any, **named: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise Failure("The power went out.")
        return real(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(FakeModel, "train_step", failing)
        return rir("train-classifier", str(recipe), "--arm", "qa", "--set", "classifier.save_every=1", *more)


def test_a_refused_change_leaves_the_recipe_of_the_run(
    rir: Run, recipe: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages are skipped before the classifier refuses: the changed recipe must not be the run's by then."""
    shutil.rmtree("runs/small/classifier-qa")
    assert half_trained(monkeypatch, rir, recipe).code == 1
    refused = rir("run", str(recipe), "--set", "classifier.learning_rate=0.5")
    assert refused.code == 2
    assert "classifier.learning_rate was 0.0001, is 0.5" in refused.err
    assert "learning_rate: 0.5" not in Path("runs/small/recipe.yaml").read_text()
    assert "Resuming from step 2" in rir("train-classifier", "--arm", "qa").err


def test_force_starts_a_half_trained_model_again(rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert half_trained(monkeypatch, rir, recipe).code == 1
    forced = rir("train-classifier", str(recipe), "--arm", "qa", "--set", "classifier.learning_rate=0.5", "--force")
    assert forced.code == 0
    assert "Goes on" not in forced.err
    assert not Path("runs/small/classifier-qa/checkpoints").exists()


def test_checkpoints_that_a_finished_training_left_are_no_obstacle(rir: Run, finished: Finished) -> None:
    """Killed between its last two writes, it is done, and has checkpoints."""
    left = Path("runs/small/classifier-qa/checkpoints")
    checkpoints = Checkpoints(left, {"classifier": {"learning_rate": 1e-4}})
    checkpoints.begin()
    checkpoints.save(7, {}, {"step": 7})
    again = rir("train-classifier", "small.yaml", "--arm", "qa", "--set", "classifier.learning_rate=0.5")
    assert again.code == 0
    assert "runs, because classifier.learning_rate was 0.0001, is 0.5" in again.err
    assert "Goes on" not in again.err
    assert not left.exists()


@pytest.mark.parametrize(
    ("environment", "launcher"), [({"WORLD_SIZE": "2"}, "torchrun"), ({"MLX_RANK": "0"}, "mlx.launch")]
)
def test_processes_that_could_not_join_are_refused(
    rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], launcher: str
) -> None:
    """Each would take itself for the only one, and both would write into one folder."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused = rir("train-classifier", str(recipe))
    assert refused.code == 2
    assert f"{launcher} started this process" in refused.err
    assert not Path("runs").exists()


def test_a_reporter_that_is_missing_is_found_before_anything_is_written(
    rir: Run, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    change = ("--set", "classifier.report_to=[trackio]", "--set", "classifier.learning_rate=0.5")
    refused = rir("train-classifier", "small.yaml", "--arm", "qa", *change)
    assert refused.code == 2
    assert "[trackio]" in refused.err
    assert Path("runs/small/classifier-qa/done.json").is_file()


def test_a_run_without_a_recipe_names_the_one_that_it_takes(rir: Run) -> None:
    """It took the shipped recipe unsaid, and then asked for a model that nobody had named."""
    taken = rir("run", "--offline")
    assert (taken.code, "no recipe is named: this is emotion" in taken.err) == (2, True), taken.err
