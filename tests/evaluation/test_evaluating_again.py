"""An evaluation scores only what is new, however the one before ended, and classifying follows what it measured."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import Run
from evaluated_run import evaluated, kept, lines_of, opened, untimed
from processes import start_code
from rir_cli.answering.serving import served

from rir_mlx import stages
from rir_mlx.backends.base import Tokens
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.loading import load_classifier
from rir_mlx.errors import UserError
from rir_mlx.estimator import RirClassifier
from rir_mlx.progress import Silent
from rir_mlx.stages.evaluation import _trained_arms
from rir_mlx.stages.measuring import _ArmMeasurement
from rir_mlx.statistics.calibration import Calibration

pytestmark = pytest.mark.slow


def only(*arms: str) -> tuple[str, str]:
    """Overrides by which these arms alone are evaluated: all of them and the baselines take a second or two."""
    return f"classifier.arms=[{', '.join(arms)}]", "evaluate.baselines=[]"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each scoring was given."""
    counts: list[int] = []
    real = FakeModel.score

    def score(self: FakeModel, prompts: list[Tokens], *rest: Any, **more: Any) -> Any:
        counts.append(len(prompts))
        return real(self, prompts, *rest, **more)

    monkeypatch.setattr(FakeModel, "score", score)
    return counts


def test_a_second_evaluation_scores_nothing_and_gives_the_same(evaluated_run: Path, read: list[int]) -> None:
    before, first = kept(evaluated_run), (evaluated_run / "evaluation/qra/readings.jsonl").read_bytes()
    assert untimed(evaluated()) == untimed(before)
    assert read == []
    assert (evaluated_run / "evaluation/qra/readings.jsonl").read_bytes() == first
    costs = [[line.get("cost") for line in comparison["entries"]] for comparison in (before, kept(evaluated_run))]
    assert costs[0] == costs[1]


def test_a_trained_arm_that_is_not_measured_is_named_with_the_edit_that_adds_it(evaluated_run: Path) -> None:
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    context = replace(opened("runs/small", "classifier.arms=[qa, qra]"), progress=Heard())
    stages.evaluate(context)
    [note] = [text for text in said if text.startswith("note: Trained")]
    [override] = re.findall("--set '(.*)'", note)
    assert sorted(_trained_arms(opened("runs/small", override))) == sorted(context.run.trained_arms())
    for name in ("classifier-qa", "classifier-qa-seed3"):
        shutil.rmtree(evaluated_run / name)
    with pytest.raises(UserError, match=r"no trained classifier of classifier.arms(.|\n)*--set 'classifier.arms"):
        _trained_arms(opened("runs/small", "classifier.arms=[qa]"))


def test_force_reads_everything_again(evaluated_run: Path, read: list[int]) -> None:
    before = untimed(kept(evaluated_run))
    assert untimed(evaluated(force=True)) == before
    arms = 6 * 2 * 48 + 3 * 2 * 48  # every arm and seed without a reasoning, and three with one
    assert sum(read) == arms + 3 * 2 * 24 + 24  # swapped and corrupted reasonings of the first seed; untuned


def test_more_samples_read_what_is_new_alone(evaluated_run: Path, read: list[int]) -> None:
    before, recipe = untimed(kept(evaluated_run)), (evaluated_run / "recipe.yaml").read_bytes()
    three = evaluated("evaluate.samples=3", *only("qa", "qra"))
    assert sum(read) == 2 * 48 * 3
    assert [line["name"] for line in three["entries"]] == ["qa", "qra"]
    for line, earlier in zip(three["entries"], before["entries"], strict=False):
        assert (line["name"], line["metrics"]) == (earlier["name"], earlier["metrics"])
    assert {1, 2, 3} == {point["samples"] for point in three["entries"][1]["cost_curve"]}
    read.clear()
    evaluated("evaluate.samples=4", *only("qa", "qra"))
    assert sum(read) == 2 * 48
    read.clear()
    (evaluated_run / "recipe.yaml").write_bytes(recipe)
    assert untimed(evaluated("evaluate.samples=1")) == before
    assert read == []


def test_a_shorter_reasoning_is_another_reading_and_leaves_none_of_the_old_ones(
    evaluated_run: Path, read: list[int]
) -> None:
    count = len(lines_of(evaluated_run / "evaluation/qa/readings.jsonl"))
    evaluated("evaluate.max_reasoning_tokens=6", *only("qa", "qra"))
    assert sum(read) > 0
    assert len(lines_of(evaluated_run / "evaluation/qa/readings.jsonl")) == count
    assert max(row["tokens"] for row in lines_of(evaluated_run / "evaluation/qra/predictions.jsonl")) <= 6


@pytest.mark.heavy
def test_an_evaluation_killed_in_the_middle_ends_as_if_it_had_not_been(evaluated_run: Path) -> None:
    """Slow enough to be hit, in a process of its own, and killed as nobody can prepare for."""
    whole = untimed(kept(evaluated_run))
    shutil.rmtree(evaluated_run / "evaluation")
    for path in evaluated_run.glob("classifier-*/calibration.json"):
        path.unlink()
    code = (
        "import sys, time\nfrom rir_mlx.evaluation import score_cache\n"
        "from rir_mlx.backends.fake import FakeModel\n"
        "score_cache._CHUNK = 4\nscore = FakeModel.score\n"
        "FakeModel.score = lambda *a, **k: time.sleep(0.1) or score(*a, **k)\n"
        "from rir_cli.app import main\nsys.argv = ['rir-mlx', 'evaluate', 'runs/small', '-q', '--offline']\nmain()\n"
    )
    process = start_code(Path.cwd(), code)
    journal, deadline = evaluated_run / "evaluation/qra/readings.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and not (journal.is_file() and journal.stat().st_size > 2000):
        assert process.poll() is None, process.err()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    left = [lines_of(path) for path in (evaluated_run / "evaluation/qa/readings.jsonl",)]
    assert len(left[0]) == 48
    assert not (evaluated_run / "evaluation/comparison.json").exists()
    assert untimed(evaluated()) == whole
    for path in evaluated_run.glob("evaluation/*/readings.jsonl"):
        keys = [row["key"] for row in lines_of(path)]
        assert len(keys) == len(set(keys))


def test_scores_of_the_fake_backend_are_never_taken_for_those_of_a_real_backend(evaluated_run: Path) -> None:
    from rir_mlx.stages.measuring import scoring_identity

    fake, real = opened("runs/small"), opened("runs/small")
    real.model.backend = type("Real", (), {"name": "torch", "processes": fake.backend.processes})()  # type: ignore[assignment]
    assert scoring_identity(fake, None) != scoring_identity(real, None)


def test_a_calibration_is_used_until_the_adapter_changes(evaluated_run: Path) -> None:
    path = evaluated_run / "classifier-qra/calibration.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["calibration"]["rows"] == 24
    context = opened("runs/small")
    assert load_classifier(context.run, context.model, "qra").calibration == Calibration.from_dict(
        stored["calibration"]
    )
    other = evaluated_run / "classifier-qra-seed3/calibration.json"
    assert json.loads(other.read_text(encoding="utf-8"))["adapter"] != stored["adapter"]
    assert load_classifier(context.run, context.model, "qra", 3).calibration.rows == 24
    shutil.rmtree(evaluated_run / "classifier-qra/adapter")
    shutil.copytree(evaluated_run / "classifier-qra-seed3/adapter", evaluated_run / "classifier-qra/adapter")
    assert load_classifier(context.run, context.model, "qra").calibration == Calibration()


def test_predictions_are_those_that_classify_gives(evaluated_run: Path) -> None:
    for arm in ("qa", "qra", "qar"):
        rows = lines_of(evaluated_run / f"evaluation/{arm}/predictions.jsonl")
        classifier = RirClassifier.load(evaluated_run, arm=arm, backend="fake")  # type: ignore[arg-type]
        found = classifier.explain([row["text"] for row in rows])
        for row, prediction in zip(rows, found, strict=True):
            assert prediction.probabilities == pytest.approx(row["probabilities"], abs=1e-9)
            assert (prediction.label, prediction.mass) == (row["predicted"], pytest.approx(row["mass"]))
            assert arm != "qra" or prediction.reasoning == row["reasoning"]


def test_a_threshold_makes_classify_abstain(evaluated_run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evaluated_run.parents[1])
    rows = lines_of(evaluated_run / "evaluation/qa/predictions.jsonl")
    path = evaluated_run / "classifier-qa/calibration.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["calibration"]["answer_from"] is None
    threshold = float(np.median([max(row["probabilities"].values()) for row in rows]))
    stored["calibration"]["answer_from"] = {"direct": {"confidence": threshold, "rows": 24}}
    path.write_text(json.dumps(stored), encoding="utf-8")
    Path("texts.txt").write_text("".join(f"{row['text']}\n" for row in rows), encoding="utf-8")
    result = rir("classify", "--file", "texts.txt", "--arm", "qa", "--jsonl")
    assert f"Giving no label if its probability is below {threshold:.3f}" in result.err
    answers = [json.loads(line) for line in result.out.splitlines()]
    unsure = [max(row["probabilities"].values()) < threshold for row in rows]
    assert [answer["abstained"] for answer in answers] == unsure
    assert 0 < sum(unsure) < len(rows)
    labels = RirClassifier.load(evaluated_run, arm="qa", backend="fake").predict([row["text"] for row in rows]).tolist()
    assert [label == "" for label in labels] == unsure


def test_a_wanted_accuracy_that_is_not_reached_labels_no_text_and_says_so(
    evaluated_run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be the other way about: every text got its label, however unsure, and nobody was told."""
    monkeypatch.chdir(evaluated_run.parents[1])
    found = evaluated("evaluate.wanted_accuracy=0.9", *only("qa"))
    assert any(warning.startswith("qa: no threshold is shown to reach") for warning in found["warnings"])
    assert "abstains on every text" in (evaluated_run / "report.html").read_text(encoding="utf-8")
    result = rir("classify", "i was sad", "--arm", "qa", "--json")
    assert "no threshold is shown to reach evaluate.wanted_accuracy. --threshold 0 labels every text." in result.err
    values = json.loads(result.out)
    assert (values["label"], values["abstained"]) == (None, True)
    assert json.loads(rir("classify", "i was sad", "--arm", "qa", "--json", "--threshold", "0").out)["label"]
    Path("texts.txt").write_text("i was sad\n", encoding="utf-8")
    assert rir("classify", "--file", "texts.txt", "--arm", "qa", "--output", "out.jsonl").code == 0
    assert lines_of(Path("out.jsonl"))[0]["label"] is None
    assert RirClassifier.load(evaluated_run, arm="qa", backend="fake").predict(["i was sad"]).tolist() == [""]


def test_a_wanted_accuracy_that_was_not_measured_is_refused_instead_of_answering_everything(
    evaluated_run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wanted after the evaluation, before any, or of other weights: every text got its label, however unsure."""
    monkeypatch.chdir(evaluated_run.parents[1])
    recipe = evaluated_run / "recipe.yaml"
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    calibration = evaluated_run / "classifier-qa/calibration.json"
    measured = calibration.read_text(encoding="utf-8")

    def wanting(accuracy: float) -> None:
        recipe.write_text(
            yaml.safe_dump(values | {"evaluate": values.get("evaluate", {}) | {"wanted_accuracy": accuracy}})
        )

    def refused() -> None:
        result = rir("classify", "i was sad", "--arm", "qa", "--json")
        assert result.code == 2
        assert "was not measured for this classifier" in result.err
        with pytest.raises(UserError, match="was not measured"):
            RirClassifier.load(evaluated_run, arm="qa", backend="fake").predict(["i was sad"])
        context = opened(str(evaluated_run))
        classifier = load_classifier(context.run, context.model, "qa")
        with pytest.raises(UserError, match="was not measured"):  # as `serve` and `mcp` begin
            served(context, classifier, None)
        assert served(context, classifier, 0.0).threshold("never") == 0
        assert json.loads(rir("classify", "i was sad", "--arm", "qa", "--json", "--threshold", "0").out)["label"]

    wanting(0.9)
    refused()
    calibration.unlink()
    refused()
    evaluated("evaluate.wanted_accuracy=0.9", *only("qa"))
    assert json.loads(calibration.read_text(encoding="utf-8"))["calibration"]["wanted"] == 0.9
    assert rir("classify", "i was sad", "--arm", "qa").code == 0
    wanting(0.8)
    refused()
    calibration.write_text(measured.replace(json.loads(measured)["adapter"], "0" * 64), encoding="utf-8")
    refused()


def test_a_threshold_over_several_reasonings_is_of_as_many(
    evaluated_run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was fitted over 2 was used over 64: probabilities that are averages of more reasonings are others."""
    monkeypatch.chdir(evaluated_run.parents[1])
    asked = ("classify", "i was sad", "--arm", "qra", "--json", "--samples")
    evaluated("evaluate.samples=2", "evaluate.wanted_accuracy=0.5", *only("qra"))
    few = rir(*asked, "2")
    assert (few.code, json.loads(few.out)["label"]) == (0, None), "too few validation rows for any threshold"
    path = evaluated_run / "classifier-qra/calibration.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["calibration"]["samples"] == 2
    stored["calibration"] |= {"rows": 60, "answer_from": {"sampled": {"confidence": 0.1, "rows": 60}}}
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert json.loads(rir(*asked, "2").out)["label"]
    refused = rir(*asked, "5")
    assert refused.code == 2
    assert "evaluate.samples to the same number" in refused.err
    answered = rir(*asked, "5", "--threshold", "0")
    assert "5 reasonings are not calibrated: the validation rows had 2 (evaluate.samples)" in answered.err
    with pytest.warns(UserWarning, match="over 3 reasonings are not calibrated"):
        RirClassifier.load(evaluated_run, arm="qra", backend="fake", samples=3)
    recipe = evaluated_run / "recipe.yaml"
    hotter = recipe.read_text(encoding="utf-8").replace("sample_temperature: 0.7", "sample_temperature: 1.5")
    recipe.write_text(hotter, encoding="utf-8")
    assert rir(*asked, "2").code == 2, "a threshold fitted to reasonings drawn at 0.7 was used for others"
    answered = rir(*asked, "2", "--threshold", "0")
    assert "the validation rows had 2 (evaluate.samples) at a temperature of 0.7" in answered.err
    with pytest.warns(UserWarning, match="over 2 reasonings are not calibrated"):
        RirClassifier.load(evaluated_run, arm="qra", backend="fake", samples=2)
    del stored["calibration"]["sample_temperature"]  # as it was written before: nobody knows
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert json.loads(rir(*asked, "2").out)["label"]


def test_several_samples_of_one_text_are_shown_with_a_reasoning(
    evaluated_run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(evaluated_run.parents[1])
    shown = rir("classify", "i was sad", "--arm", "qra", "--samples", "3")
    values = json.loads(rir("classify", "i was sad", "--arm", "qra", "--samples", "3", "--json").out)
    assert shown.out.startswith(f"{values['reasoning']}\n\n")
    assert values["reasoning"]
    never = rir("classify", "i was sad", "--arm", "qra", "--reason", "never", "--json")
    assert json.loads(never.out)["reasoning"] is None


def test_auto_reasons_where_the_measured_threshold_says_so(
    evaluated_run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(evaluated_run.parents[1])
    path = evaluated_run / "classifier-qra/calibration.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["calibration"]["reason_below"] is not None
    for below, reasons in ((0.0, False), (2.0, True)):
        stored["calibration"]["reason_below"] = below
        path.write_text(json.dumps(stored), encoding="utf-8")
        values = json.loads(rir("classify", "i was sad", "--arm", "qra", "--reason", "auto", "--json").out)
        assert (values["reasoning"] is not None) == reasons
    path.unlink()
    refused = rir("classify", "i was sad", "--arm", "qra", "--reason", "auto")
    assert refused.code == 2
    assert "Run `rir-mlx evaluate`" in refused.err


def test_the_object_draws_with_the_temperature_that_was_measured(evaluated_run: Path) -> None:
    evaluated("evaluate.sample_temperature=0.3", *only("qra"))
    assert RirClassifier.load(evaluated_run, arm="qra", backend="fake").temperature_ == 0.3


def test_ranks_discard_scores_of_another_format_only_if_some_are_missing(evaluated_run: Path) -> None:
    """Under torchrun, a key that changes no score made all be scored again where `auto` means another format."""
    journal = evaluated_run / "evaluation/qra/readings.jsonl"
    made = [{**line, "with": ["torch", "a card", "bfloat16"]} for line in lines_of(journal)]
    journal.write_text("".join(json.dumps(line) + "\n" for line in made), encoding="utf-8")
    measurement = _ArmMeasurement(opened("small.yaml", "evaluate.wanted_accuracy=0.9"), "qra", 0)
    assert measurement.begin_shares()
    assert len(lines_of(journal)) == len(made)
    journal.write_text("".join(json.dumps(line) + "\n" for line in made[:9]), encoding="utf-8")
    assert measurement.begin_shares()
    assert not journal.exists()
