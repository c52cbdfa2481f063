"""Trained arms measured, compared and written down: once, by the right rows, and going on after any stop."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import LABELS, WORDS, Run, write_csv
from rir_cli.console import print_comparison
from rir_cli.context import context_for

from rir_mlx import stages
from rir_mlx.backends.base import Tokens
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.estimator import RirClassifier
from rir_mlx.classification.loading import default_arm, load_classifier
from rir_mlx.errors import UserError
from rir_mlx.evaluation.schema import read_comparison
from rir_mlx.stages import Context
from rir_mlx.statistics.calibration import Calibration

ARMS = "[qa, qra, qar, multitask, qra-scrambled, qra-words]"
SHARED = (
    "model: {tiny}\nbackend: fake\nmax_seq_length: 320\ndata: {{train: rows.csv, val_size: 24, test_size: 24}}\n"
    "reasoning: {{source: triples.jsonl, val_size: 5}}\nrgen: {{epochs: 1}}\n"
    "classifier: {{epochs: 1, seeds: [0, 3], arms: " + ARMS + "}}\n"
    "augment: {{max_tokens: 24}}\nevaluate: {{max_reasoning_tokens: 24}}\n"
)

Open = Callable[..., Context]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder with a run of every arm and two seeds, trained and evaluated on the fake backend."""
    folder = tmp_path_factory.mktemp("trained")
    texts = [(f"{WORDS[label]} {number}", label) for number in range(30) for label in LABELS]
    write_csv(folder / "rows.csv", texts)
    triples = [{"question": f"how is {t}?", "answer": label, "reasoning": f"because {t}"} for t, label in texts]
    (folder / "triples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in triples), encoding="utf-8")
    (folder / "small.yaml").write_text(SHARED.format(tiny=tiny), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stages.run_all(opened("small.yaml"))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That run, to be changed."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy/runs/small"


def opened(recipe: str, *overrides: str, force: bool = False) -> Context:
    return context_for(recipe, list(overrides), Path("runs"), None, offline=True, quiet=True, force=force)


def evaluated(*overrides: str, force: bool = False) -> dict[str, Any]:
    found = stages.evaluate(opened("runs/small", *overrides, force=force))
    assert found is not None
    return found.model_dump(mode="json")


def kept(run: Path) -> dict[str, Any]:
    def fail(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (run / "evaluation/comparison.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text, parse_constant=fail)
    return found


def untimed(comparison: dict[str, Any]) -> dict[str, Any]:
    """A comparison without what differs between two makings of it."""
    found = json.loads(json.dumps(comparison))
    del found["run"]["finished"], found["run"]["command"], found["run"]["recipe"]
    for line in found["entries"]:
        if line.get("cost"):
            del line["cost"]["seconds"]
    return dict(found)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


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


# what is written


def test_the_files_of_a_comparison_agree_with_it(run: Path) -> None:
    found = kept(run)
    names = [line["name"] for line in found["entries"]]
    assert names == ["qa", "qra", "qar", "multitask", "qra-scrambled", "qra-words", "majority", "tf-idf", "untuned"]
    assert [line["kind"] for line in found["entries"]].count("control") == 2
    page = (run / "report.html").read_text(encoding="utf-8")
    for line in found["entries"]:
        folder = run / "evaluation" / line["name"]
        assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == line
        assert f"{100 * line['metrics']['accuracy']['value']:.1f}" in page
        each = [lines_of(folder / "predictions.jsonl")]
        if line["kind"] != "baseline":
            each.append(lines_of(run / f"evaluation/{line['name']}-seed3/predictions.jsonl"))
        shares = [float(np.mean([row["predicted"] == row["label"] for row in rows])) for rows in each]
        assert shares == pytest.approx(line["by_seed"]["accuracy"])
        assert np.mean(shares) == pytest.approx(line["metrics"]["accuracy"]["value"])
        for row in each[0]:
            assert sum(row["probabilities"].values()) == pytest.approx(1)
            assert row["predicted"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
        confusion = np.zeros((3, 3), int)
        for row in (row for rows in each for row in rows):
            confusion[found["labels"].index(row["label"]), found["labels"].index(row["predicted"])] += 1
        assert confusion.tolist() == line["confusion"]
    assert found["verdict"].split("|")[0][:20] in page


def test_what_was_trained_and_written_stands_in_the_comparison(run: Path) -> None:
    found = {line["name"]: line for line in kept(run)["entries"]}
    assert found["qra"]["seeds"] == [0, 3]
    assert found["qra"]["cost"]["tokens_generated"] > 0
    assert found["qa"]["cost"]["tokens_generated"] == found["qar"]["cost"]["tokens_generated"] == 0
    assert found["majority"]["training"] is None
    assert len(found["qra"]["training"]["best_step"]) == 2
    rows = lines_of(run / "evaluation/qra/predictions.jsonl")
    assert np.mean([row["tokens"] for row in rows]) <= 24
    assert all(0 <= row["mass"] <= 1 and isinstance(row["reasoning"], str) for row in rows)
    assert {row["reasoning"] for row in lines_of(run / "evaluation/qa/predictions.jsonl")} == {None}


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts as if the arms had learned the task, which fake models do not."""
    monkeypatch.setattr("rir_mlx.stages.evaluation._failure_to_learn", lambda *_: None)


@pytest.mark.usefixtures("learned")
def test_the_chosen_arm_is_the_best_of_the_reasoning_arms_on_validation_rows(run: Path) -> None:
    found = evaluated()
    arms = {line["name"]: line["validation_accuracy"] for line in found["entries"] if line["kind"] == "arm"}
    del arms["qa"]
    assert found["chosen"] == max(arms, key=arms.__getitem__)
    assert f"{found['chosen']} was chosen among 3 arms on validation rows" in found["verdict"]
    assert default_arm(opened("runs/small").run) == found["chosen"]


def test_an_arm_that_answers_first_is_asked_for_its_reasonings_where_it_is_shown(run: Path) -> None:
    found = kept(run)
    rows = lines_of(run / f"evaluation/{found['chosen']}/predictions.jsonl")
    if found["chosen"] != "qra":
        context = opened("runs/small")
        classifier = load_classifier(context.run, context.model, found["chosen"])
        [(reasoning, _)] = classifier.explanations([rows[0]["text"]], [rows[0]["predicted"]])
        assert rows[0]["reasoning"] == reasoning
    assert all(isinstance(row["reasoning"], str) for row in rows)


# going on


def test_a_second_evaluation_reads_nothing_and_says_the_same(run: Path, read: list[int]) -> None:
    before, first = kept(run), (run / "evaluation/qra/readings.jsonl").read_bytes()
    assert untimed(evaluated()) == untimed(before)
    assert read == []
    assert (run / "evaluation/qra/readings.jsonl").read_bytes() == first
    costs = [[line.get("cost") for line in one["entries"]] for one in (before, kept(run))]
    assert costs[0] == costs[1]


def test_force_reads_everything_again(run: Path, read: list[int]) -> None:
    before = untimed(kept(run))
    assert untimed(evaluated(force=True)) == before
    arms = 6 * 2 * 48 + 3 * 2 * 48  # every arm and seed without a reasoning, and three with one
    assert sum(read) == arms + 3 * 2 * 24 + 24  # swapped and corrupted reasonings of the first seed; untuned


def test_more_samples_read_what_is_new_alone(run: Path, read: list[int]) -> None:
    before = untimed(kept(run))
    three = evaluated("evaluate.samples=3")
    assert sum(read) == 3 * 2 * 48 * 3
    assert {line["name"]: line["metrics"] for line in three["entries"]} == {
        line["name"]: line["metrics"] for line in before["entries"]
    }
    samples = {line["name"]: [one["samples"] for one in line["cost_curve"] or ()] for line in three["entries"][:3]}
    assert {1, 2, 3} == set(samples["qra"])
    read.clear()
    evaluated("evaluate.samples=4")
    assert sum(read) == 3 * 2 * 48
    read.clear()
    assert untimed(evaluated("evaluate.samples=1")) == before
    assert read == []


def test_a_shorter_reasoning_is_another_reading_and_leaves_none_of_the_old_ones(run: Path, read: list[int]) -> None:
    count = len(lines_of(run / "evaluation/qa/readings.jsonl"))
    evaluated("evaluate.max_reasoning_tokens=6")
    assert sum(read) > 0
    assert len(lines_of(run / "evaluation/qa/readings.jsonl")) == count
    assert max(row["tokens"] for row in lines_of(run / "evaluation/qra/predictions.jsonl")) <= 6


def test_an_evaluation_killed_in_the_middle_ends_as_if_it_had_not_been(run: Path) -> None:
    """Slow enough to be hit, in a process of its own, and killed as nobody can prepare for."""
    whole = untimed(kept(run))
    shutil.rmtree(run / "evaluation")
    for path in run.glob("classifier-*/calibration.json"):
        path.unlink()
    code = (
        "import sys, time\nfrom rir_mlx.evaluation import score_cache\n"
        "from rir_mlx.backends.fake import FakeModel\n"
        "score_cache._CHUNK = 4\nscore = FakeModel.score\n"
        "FakeModel.score = lambda *a, **k: time.sleep(0.1) or score(*a, **k)\n"
        "from rir_cli.app import main\nsys.argv = ['rir-mlx', 'evaluate', 'runs/small', '-q', '--offline']\nmain()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, deadline = run / "evaluation/qra/readings.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and not (journal.is_file() and journal.stat().st_size > 2000):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    left = [lines_of(path) for path in (run / "evaluation/qa/readings.jsonl",)]
    assert len(left[0]) == 48
    assert not (run / "evaluation/comparison.json").exists()
    assert untimed(evaluated()) == whole
    for path in run.glob("evaluation/*/readings.jsonl"):
        keys = [row["key"] for row in lines_of(path)]
        assert len(keys) == len(set(keys))


def test_readings_of_the_fake_backend_are_never_taken_for_a_real_ones(run: Path) -> None:
    from rir_mlx.stages.measuring import scoring_identity

    fake, real = opened("runs/small"), opened("runs/small")
    real.model.backend = type("Real", (), {"name": "torch", "processes": fake.backend.processes})()  # type: ignore[assignment]
    assert scoring_identity(fake, None) != scoring_identity(real, None)


# calibration


def test_a_calibration_is_used_until_the_adapter_changes(run: Path) -> None:
    path = run / "classifier-qra/calibration.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["calibration"]["rows"] == 24
    context = opened("runs/small")
    assert load_classifier(context.run, context.model, "qra").calibration == Calibration.from_dict(
        stored["calibration"]
    )
    other = run / "classifier-qra-seed3/calibration.json"
    assert json.loads(other.read_text(encoding="utf-8"))["adapter"] != stored["adapter"]
    assert load_classifier(context.run, context.model, "qra", 3).calibration.rows == 24
    shutil.rmtree(run / "classifier-qra/adapter")
    shutil.copytree(run / "classifier-qra-seed3/adapter", run / "classifier-qra/adapter")
    assert load_classifier(context.run, context.model, "qra").calibration == Calibration()


def test_predictions_are_those_that_classify_gives(run: Path) -> None:
    for arm in ("qa", "qra", "qar"):
        rows = lines_of(run / f"evaluation/{arm}/predictions.jsonl")
        classifier = RirClassifier.load(run, arm=arm, backend="fake")  # type: ignore[arg-type]
        found = classifier.explain([row["text"] for row in rows])
        for row, one in zip(rows, found, strict=True):
            assert one.probabilities == pytest.approx(row["probabilities"], abs=1e-9)
            assert (one.label, one.mass) == (row["predicted"], pytest.approx(row["mass"]))
            assert arm != "qra" or one.reasoning == row["reasoning"]


def test_the_wanted_accuracy_makes_classify_abstain(run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])
    rows = lines_of(run / "evaluation/qa/predictions.jsonl")
    stored = run / "classifier-qa/calibration.json"
    assert json.loads(stored.read_text(encoding="utf-8"))["calibration"]["answer_from"] is None
    for wanted in (0.15, 0.2, 0.25, 0.3, 0.34, 0.5, 0.6, 0.9):  # of a model that can hardly tell
        evaluated(f"evaluate.wanted_accuracy={wanted}")
        threshold = json.loads(stored.read_text(encoding="utf-8"))["calibration"]["answer_from"]
        if threshold:
            break
    assert threshold
    Path("texts.txt").write_text("".join(f"{row['text']}\n" for row in rows), encoding="utf-8")
    result = rir("classify", "--file", "texts.txt", "--arm", "qa", "--jsonl")
    assert f"No label where its probability is below {threshold:.3f}" in result.err
    answers = [json.loads(line) for line in result.out.splitlines()]
    unsure = [max(row["probabilities"].values()) < threshold for row in rows]
    assert [one["abstained"] for one in answers] == unsure
    assert any(unsure)
    labels = RirClassifier.load(run, arm="qa", backend="fake").predict([row["text"] for row in rows]).tolist()
    assert [label == "" for label in labels] == unsure


# what cannot be compared


def test_a_seed_that_is_not_trained_is_named(run: Path) -> None:
    with pytest.raises(UserError, match="The qa classifier is not trained with seed 7") as raised:
        evaluated("classifier.seeds=[0, 3, 7]")
    assert "classifier.seeds" in (raised.value.hint or "")


def test_a_classifier_of_another_first_seed_is_not_taken_for_this_one(run: Path) -> None:
    """The folder of the first seed bears no number: with the seeds changed, it is that of another seed."""
    with pytest.raises(UserError, match="not trained with seed 1"):
        evaluated("classifier.seeds=[1]")
    with pytest.raises(UserError, match="not trained with seed 3, 0"):
        evaluated("classifier.seeds=[3, 0]")


def test_without_label_only_the_verdict_says_that_nothing_can_be_said(run: Path) -> None:
    found = evaluated("classifier.arms=[qra, qar]", "evaluate.baselines=[]")
    best = found["chosen"]
    assert found["verdict"] == (
        f"The label-only arm (qa) is not trained, so nothing shows whether reasoning ({best}) helped or hurt."
    )
    assert [line["against"] for line in found["entries"]] == [None, None]


def test_label_only_and_controls_alone_get_no_verdict(run: Path) -> None:
    found = evaluated("classifier.arms=[qa, qra-scrambled, qra-words]", "evaluate.baselines=[majority]")
    assert (found["verdict"], found["chosen"]) == (None, None)
    assert found["entries"][1]["against"]["first"] == "qa"
    assert "qra-scrambled" in (run / "report.html").read_text(encoding="utf-8")
    assert kept(run) == json.loads(json.dumps(found))


@pytest.mark.usefixtures("learned")
@pytest.mark.parametrize(("test", "more"), [(9, ""), (1, ""), (9, ", labels: {joy: , sadness: , anger: , fear: }")])
def test_without_validation_rows_a_run_ends_with_figures_and_says_what_is_missing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, test: int, more: str
) -> None:
    monkeypatch.chdir(recipe.parent)
    text = recipe.read_text(encoding="utf-8").replace(
        "val_size: 6, test_size: 9", f"val_size: 0, test_size: {test}{more}"
    )
    recipe.write_text(text, encoding="utf-8")
    found = stages.run_all(opened(str(recipe), "classifier.arms=[qa, qar, qra]", "evaluate.samples=2"))
    assert found is not None
    found = found.model_dump(mode="json")
    assert kept(Path("runs/small")) == found
    assert found["rows"]["test"] == test
    assert "Two classifiers compared" in found["verdict"]
    assert "on validation rows" not in found["verdict"]
    assert found["chosen"] == "qar"
    assert (
        found["warnings"][0] == "There are no validation rows to choose an arm by: qar is the first one of the recipe."
    )
    assert len(found["labels"]) == (4 if more else 3)


# whether labels rest on reasonings


def test_labels_that_ignore_the_reasoning_flip_in_no_row(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {line["name"]: line["faithfulness"] for line in kept(run)["entries"] if line.get("faithfulness")}
    assert set(before) == {"qra", "qra-scrambled", "qra-words"}
    assert before["qra"]["rows"] == 24
    assert before["qra"]["swapped"]["flips"] > 0
    monkeypatch.setattr(
        FakeModel, "score", lambda self, prompts, options, **_: np.array([[-2.0, -1.0, -3.0]] * len(prompts))
    )
    found = {line["name"]: line for line in evaluated(force=True)["entries"]}
    for name in before:
        measured = found[name]["faithfulness"]
        assert measured["swapped"]["flips"] == measured["corrupted"]["flips"] == 0
        assert measured["swapped"]["accuracy"] == measured["accuracy"] == found[name]["by_seed"]["accuracy"][0]


# what is printed


@pytest.mark.parametrize("columns", [None, 80])
def test_no_figure_of_the_table_is_cut_however_narrow_the_terminal(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int | None
) -> None:
    if columns:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
    print_comparison(read_comparison(run / "evaluation/comparison.json"))
    out = capsys.readouterr().out
    table = out[: out.rindex("┘")]
    assert "…" not in table
    assert ("steps" in table) == (columns is None)
    for line in kept(run)["entries"]:
        assert line["name"] in table
        accuracy = line["metrics"]["accuracy"]
        assert f"({100 * accuracy['low']:.1f} – {100 * accuracy['high']:.1f})" in table
    assert "24 test rows, mean of 2 seeds" in out
    assert "Nothing was learned: no arm" in out


def test_charts_come_as_png_where_they_are_asked_for(run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(run.parents[1])
    result = rir("evaluate", "runs/small", "--png")
    assert result.code == 0, result.err
    pictures = sorted(run.glob("plots/*.png"))
    assert pictures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert "Charts → " in result.err


# one text


def test_several_samples_of_one_text_are_shown_with_a_reasoning(
    run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    shown = rir("classify", "i was sad", "--arm", "qra", "--samples", "3")
    values = json.loads(rir("classify", "i was sad", "--arm", "qra", "--samples", "3", "--json").out)
    assert shown.out.startswith(f"{values['reasoning']}\n\n")
    assert values["reasoning"]
    never = rir("classify", "i was sad", "--arm", "qra", "--reason", "never", "--json")
    assert json.loads(never.out)["reasoning"] is None


def test_auto_reasons_where_the_measured_threshold_says_so(
    run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    path = run / "classifier-qra/calibration.json"
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


def test_the_object_draws_with_the_temperature_that_was_measured(run: Path) -> None:
    evaluated("evaluate.sample_temperature=0.3")
    assert RirClassifier.load(run, arm="qra", backend="fake").temperature == 0.3
