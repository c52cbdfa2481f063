"""Trained arms measured, compared, written down: metrics from the correct rows, and no verdict without a comparison."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import LABELS, WORDS, Run, write_csv
from evaluated_run import evaluated, kept, lines_of, opened
from rir_cli.console import print_comparison

from rir_mlx import stages
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.loading import default_arm, load_classifier
from rir_mlx.errors import Failure, UserError
from rir_mlx.evaluation.report import plots
from rir_mlx.evaluation.schema import read_comparison
from rir_mlx.progress import Silent
from rir_mlx.stages.context import Context
from rir_mlx.training.job import TrainingJob


def test_the_files_of_a_comparison_agree_with_it(evaluated_run: Path) -> None:
    found = kept(evaluated_run)
    names = [line["name"] for line in found["entries"]]
    assert names == ["qa", "qra", "qar", "multitask", "qra-scrambled", "qra-words", "majority", "tf-idf", "untuned"]
    assert [line["kind"] for line in found["entries"]].count("control") == 2
    page = (evaluated_run / "report.html").read_text(encoding="utf-8")
    for line in found["entries"]:
        folder = evaluated_run / "evaluation" / line["name"]
        assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == line
        assert f"{100 * line['metrics']['accuracy']['value']:.1f}" in page
        each = [lines_of(folder / "predictions.jsonl")]
        if line["kind"] != "baseline":
            each.append(lines_of(evaluated_run / f"evaluation/{line['name']}-seed3/predictions.jsonl"))
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


def test_what_was_trained_and_written_stands_in_the_comparison(evaluated_run: Path) -> None:
    found = {line["name"]: line for line in kept(evaluated_run)["entries"]}
    assert found["qra"]["seeds"] == [0, 3]
    assert found["qra"]["cost"]["tokens_generated"] > 0
    assert found["qa"]["cost"]["tokens_generated"] == found["qar"]["cost"]["tokens_generated"] == 0
    assert found["majority"]["training"] is None
    assert len(found["qra"]["training"]["best_step"]) == 2
    rows = lines_of(evaluated_run / "evaluation/qra/predictions.jsonl")
    assert np.mean([row["tokens"] for row in rows]) <= 24
    assert all(0 <= row["mass"] <= 1 and isinstance(row["reasoning"], str) for row in rows)
    assert {row["reasoning"] for row in lines_of(evaluated_run / "evaluation/qa/predictions.jsonl")} == {None}


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts as if the arms had learned the task, which fake models do not."""
    monkeypatch.setattr("rir_mlx.evaluation.judgement.judge.failure_to_learn", lambda _: None)


@pytest.mark.usefixtures("learned", "evaluated_run")
def test_the_chosen_arm_is_the_best_of_the_reasoning_arms_on_validation_rows() -> None:
    found = evaluated()
    arms = {line["name"]: line["validation_accuracy"] for line in found["entries"] if line["kind"] == "arm"}
    del arms["qa"]
    assert found["chosen"] == max(arms, key=arms.__getitem__)
    assert f"{found['chosen']} was chosen among 3 arms on validation rows" in found["verdict"]
    recommended = found["recommended"] if found["recommended"] in ("qa", found["chosen"]) else found["chosen"]
    assert default_arm(opened("runs/small").run) == recommended


def test_an_arm_that_answers_first_is_asked_for_its_reasonings_where_it_is_shown(evaluated_run: Path) -> None:
    found = kept(evaluated_run)
    rows = lines_of(evaluated_run / f"evaluation/{found['chosen']}/predictions.jsonl")
    if found["chosen"] != "qra":
        context = opened("runs/small")
        classifier = load_classifier(context.run, context.model, found["chosen"])
        [(reasoning, _)] = classifier.explanations([rows[0]["text"]], [rows[0]["predicted"]])
        assert rows[0]["reasoning"] == reasoning
    assert all(isinstance(row["reasoning"], str) for row in rows)


def test_a_seed_that_is_not_trained_is_named(evaluated_run: Path) -> None:
    with pytest.raises(UserError, match="The qa classifier is not trained with seed 7") as raised:
        evaluated("classifier.seeds=[0, 3, 7]")
    assert "classifier.seeds" in (raised.value.hint or "")


def test_a_classifier_of_another_first_seed_is_not_used(evaluated_run: Path) -> None:
    """The folder of the first seed bears no number: with the seeds changed, it is that of another seed."""
    with pytest.raises(UserError, match="not trained with seed 1"):
        evaluated("classifier.seeds=[1]")
    with pytest.raises(UserError, match="not trained with seed 3, 0"):
        evaluated("classifier.seeds=[3, 0]")


@pytest.mark.usefixtures("learned")
def test_without_label_only_there_is_no_verdict(evaluated_run: Path) -> None:
    found = evaluated("classifier.arms=[qra, qar]", "evaluate.baselines=[]")
    best = found["chosen"]
    assert found["verdict"] == (
        f"The label-only arm (qa) is not trained, so nothing shows whether reasoning ({best}) helped or hurt."
    )
    assert found["headline"]["text"] == "Label-only (qa) was not trained: nothing to compare reasoning with."
    assert [line["against"] for line in found["entries"]] == [None, None]


@pytest.mark.usefixtures("learned")
def test_label_only_and_controls_alone_get_no_verdict(evaluated_run: Path) -> None:
    found = evaluated("classifier.arms=[qa, qra-scrambled, qra-words]", "evaluate.baselines=[majority]")
    assert (found["verdict"], found["chosen"]) == (None, None)
    assert found["entries"][1]["against"]["first"] == "qa"
    assert "qra-scrambled" in (evaluated_run / "report.html").read_text(encoding="utf-8")
    assert kept(evaluated_run) == json.loads(json.dumps(found))


@pytest.mark.slow
@pytest.mark.usefixtures("learned")
@pytest.mark.parametrize(("test", "more"), [(9, ""), (1, ""), (9, ", labels: {joy: , sadness: , anger: , fear: }")])
def test_without_validation_rows_a_run_ends_with_metrics_and_says_what_is_missing(
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
        "There are no validation rows to choose an arm by: qar is the one that generates the fewest tokens."
        in found["warnings"]
    )
    assert len(found["labels"]) == (4 if more else 3)


class Said(Silent):
    def __init__(self) -> None:
        self.said = list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)


def with_copies(recipe: Path) -> Context:
    """A run of which 45 of 90 validation rows are copies of training rows."""
    rows = [(f"{WORDS[label]} {n}", label) for n in range(15) for label in LABELS]
    write_csv(Path("rows.csv"), [*rows, *((f"a new {text}", label) for text, label in rows)])
    write_csv(Path("valid.csv"), [*((text.upper(), label) for text, label in rows), *((f"so {t}", x) for t, x in rows)])
    write_csv(Path("test.csv"), [(f"other {text}", label) for text, label in rows])
    return opened(
        str(recipe), "data.validation=valid.csv", "data.test=test.csv", "data.val_size=90", "classifier.arms=[qa]",
        "evaluate.wanted_accuracy=0.5",
    )  # fmt: skip


def test_copies_of_training_rows_choose_no_weights(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most accurate weights were those that knew the copies best."""
    monkeypatch.chdir(recipe.parent)
    context, jobs = with_copies(recipe), list[TrainingJob]()

    def stopped(_: Any, job: TrainingJob, *__: Any, **___: Any) -> None:
        jobs.append(job)
        raise Failure("stopped")

    monkeypatch.setattr("rir_mlx.stages.training.run_training", stopped)
    with pytest.raises(Failure, match="stopped"):
        stages.train_classifier(context, "qa")
    assert (len(jobs[0].train.rows), len(jobs[0].validation.rows)) == (90, 45)
    assert all(row.text.startswith("so ") for row in jobs[0].validation.rows)


@pytest.mark.parametrize("train", [stages.train_rgen, lambda context: stages.train_classifier(context, "qa")])
def test_texts_longer_than_a_model_computes_right_are_refused_before_it_is_trained(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[[Context], None]
) -> None:
    """The training rows happened to be short enough; evaluation and classify then refused longer texts."""
    monkeypatch.chdir(recipe.parent)
    context = with_copies(recipe)
    made = FakeModel.__init__

    def limited(self: Any, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        self.longest = context.recipe.max_seq_length - 1

    monkeypatch.setattr(FakeModel, "__init__", limited)
    with pytest.raises(UserError, match="max_seq_length is") as refused:
        train(context)
    assert f"at most {context.recipe.max_seq_length - 1}" in (refused.value.hint or "")


@pytest.mark.slow
@pytest.mark.usefixtures("learned")
def test_validation_rows_that_are_copies_of_training_rows_are_said_and_left_out(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    context = with_copies(recipe)
    found = stages.run_all(context)
    assert found is not None
    assert (found.rows.validation, found.rows.copied) == (90, 45)
    [note] = [warning for warning in found.warnings if "also in training rows" in warning]
    assert note.startswith("45 of 90 validation rows are also in training rows")
    assert "90 validation (45 of them copies of training rows)" in Path("runs/small/report.html").read_text("utf-8")
    qa = found.entry("qa")
    assert qa is not None
    assert qa.calibration is not None
    assert qa.calibration.rows == 45
    assert len(lines_of(Path("runs/small/evaluation/qa/validation.jsonl"))) == 90
    path = Path("runs/small/classifier-qa/calibration.json")
    evaluated_one = path.read_bytes()
    progress = Said()
    stages.calibrate_arm(replace(opened("runs/small"), progress=progress), "qa")
    assert path.read_bytes() == evaluated_one
    assert f"note: {note}" in progress.said


def test_labels_that_ignore_the_reasoning_flip_in_no_row(evaluated_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {line["name"]: line["faithfulness"] for line in kept(evaluated_run)["entries"] if line.get("faithfulness")}
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


@pytest.mark.parametrize("columns", [None, 80, 60])
def test_no_figure_of_the_table_is_cut_however_narrow_the_terminal(
    evaluated_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int | None
) -> None:
    if columns:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
    print_comparison(read_comparison(evaluated_run / "evaluation/comparison.json"))
    out = capsys.readouterr().out
    table = out[: out.rindex("┘")]
    assert "…" not in table
    assert ("steps" in table) == (columns is None)
    for line in kept(evaluated_run)["entries"]:
        assert line["name"] in table
        accuracy = line["metrics"]["accuracy"]
        assert f"({100 * accuracy['low']:.1f} – {100 * accuracy['high']:.1f})" in table
    assert "24 test rows, mean of 2 seeds" in out
    words = " ".join(re.sub(r"\x1b\[[\d;]*m", "", out).split())
    headline = kept(evaluated_run)["headline"]["text"]
    assert f"! {headline}" in words
    assert headline in (evaluated_run / "report.html").read_text(encoding="utf-8")
    assert kept(evaluated_run)["verdict"] in words
    assert kept(evaluated_run)["recommendation"] in words


@pytest.mark.slow
def test_charts_come_as_png_where_they_are_asked_for(
    evaluated_run: Path, rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one arm: a chart takes a quarter of a second."""
    pytest.importorskip("matplotlib")
    of_each = plots._plots
    monkeypatch.setattr(plots, "_plots", lambda entry, labels: of_each(entry, labels) if entry.name == "qra" else [])
    monkeypatch.chdir(evaluated_run.parents[1])
    result = rir("evaluate", "runs/small", "--png")
    assert result.code == 0, result.err
    pictures = sorted(evaluated_run.glob("plots/*.png"))
    kinds = ["confusion", "reliability", "risk-coverage", "cost-accuracy"]
    assert {path.name for path in pictures} == {"accuracy.png", *(f"{kind}-qra.png" for kind in kinds)}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert "Charts → " in result.err
