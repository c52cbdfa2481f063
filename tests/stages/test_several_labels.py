"""A run whose texts have several labels, from the table to what it answers."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import command
from evaluated_run import export_of, kept, lines_of, opened, reopened_export, run_all_in
from processes import made_once
from rir_cli.answering.serving import served
from rir_convert.cards.card import _table
from sklearn.metrics import f1_score, jaccard_score

from rir_mlx import RirClassifier, stages
from rir_mlx.backends.base import Backend
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.loading import load_classifier
from rir_mlx.data.loading import load_labelled
from rir_mlx.evaluation.entries import EntryPredictions, several_labels
from rir_mlx.evaluation.schema import read_comparison
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.guide.pilot.shortening import pilot_recipe, write_pilot_rows
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe, SourceSpec
from rir_mlx.review.decisions import Decision, ReviewLog
from rir_mlx.review.new_tables import write_new_tables
from rir_mlx.serving.wire import classified
from rir_mlx.stages import Context
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.layout import RunDir

LABELS = ("billing", "login", "refund")
SETS = (("billing",), ("login",), ("refund",), ("billing", "refund"), ("billing", "login"), ("refund",))
ARMS = "[qa, qra, qar, qarqa]"


def make_run(folder: Path, model: Path) -> None:
    rows = [(f"{' and '.join(SETS[n % 6])} number {n}", ";".join(reversed(SETS[n % 6]))) for n in range(150)]
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    triples = [{"question": text, "answer": label, "reasoning": f"because of {text}"} for text, label in rows[:40]]
    (folder / "triples.jsonl").write_text("".join(json.dumps(triple) + "\n" for triple in triples), encoding="utf-8")
    (folder / "small.yaml").write_text(
        f"model: {model}\nbackend: fake\nmax_seq_length: 320\n"
        'data: {train: rows.csv, val_size: 40, test_size: 30, label_separator: ";"}\n'
        "reasoning: {source: triples.jsonl, val_size: 5}\nrgen: {epochs: 1}\n"
        f"classifier: {{epochs: 1, seeds: [0, 3], arms: {ARMS}}}\n"
        "augment: {max_tokens: 24}\nevaluate: {max_reasoning_tokens: 24}\n",
        encoding="utf-8",
    )
    run_all_in(folder)


@pytest.fixture(scope="session")
def finished(tiny: Path) -> Path:
    """The folder of the recipe and its run. Nobody writes into it."""
    return made_once("several-labels", lambda folder: make_run(folder, tiny))


@pytest.fixture
def run(finished: Path) -> Context:
    return opened(str(finished / "runs/small"))


def members(row: dict[str, Any], key: str) -> list[int]:
    own = row[key] if isinstance(row[key], list) else row[key].split(", ")
    return [int(label in own) for label in LABELS]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["qa", "qra", "qar", "qarqa", "tf-idf", "majority"])
def test_what_a_report_says_of_labels_is_what_scikit_learn_makes_of_the_predictions(finished: Path, arm: str) -> None:
    comparison = kept(finished / "runs/small")
    assert comparison["labels"] == list(LABELS)
    [entry] = [entry for entry in comparison["entries"] if entry["name"] == arm]
    folder = finished / "runs/small/evaluation"
    suffixes = [""] if entry["kind"] == "baseline" else ["", "-seed3"]
    seeds = [lines_of(folder / f"{arm}{suffix}/predictions.jsonl") for suffix in suffixes]
    for found, key in (("by_threshold", "given"), ("likeliest", "predicted")):
        pairs = [
            (np.array([members(row, "label") for row in rows]), np.array([members(row, key) for row in rows]))
            for rows in seeds
        ]
        assert entry["several"][found]["micro_f1"]["value"] == pytest.approx(
            np.mean([f1_score(*pair, average="micro", zero_division=0) for pair in pairs])
        )
        assert entry["several"][found]["macro_f1"]["value"] == pytest.approx(
            np.mean([f1_score(*pair, average="macro", zero_division=0) for pair in pairs])
        )
        assert entry["several"][found]["jaccard"]["value"] == pytest.approx(
            np.mean([jaccard_score(*pair, average="samples", zero_division=0) for pair in pairs])
        )
    right = [[row["predicted"] == row["label"] for row in rows] for rows in seeds]
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert [label["label"] for label in entry["per_class"]] == list(LABELS)
    assert entry["confusion"] is None


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["qa", "qra", "qarqa"])
def test_a_classifier_gives_what_was_measured(run: Context, finished: Path, arm: Any) -> None:
    rows = lines_of(finished / f"runs/small/evaluation/{arm}/predictions.jsonl")
    classifier = load_classifier(run.run, run.model, arm)
    assert classifier.calibration.given_from
    for row, found in zip(rows, classifier.predict([row["text"] for row in rows]), strict=True):
        assert found.label == row["predicted"]
        assert set(found.labels) == set(row["given"])
        assert found.singly is not None
        for label, probability in found.singly.items():
            parts = [value for name, value in row["probabilities"].items() if label in name.split(", ")]
            assert probability == pytest.approx(math.fsum(parts))
        assert [*found.labels] == sorted(found.labels, key=lambda label: -found.singly[label])


@pytest.mark.slow
def test_every_prompt_lists_the_single_labels_and_asks_for_all_that_fit(run: Context) -> None:
    prompt = run.task.prompt("x", "label").message
    assert "Which labels fit the text? Answer with every label that fits.\nLabels: billing, login, refund\n" in prompt
    assert run.task.names == [*LABELS, "billing, login", "billing, refund"]
    asked = run.question.of_row("x", "billing, refund").message
    assert "take up each of them" in asked
    assert "Choices: billing, login, refund. Text: x\nAnswer: billing, refund" in asked


@pytest.mark.slow
def test_an_export_and_a_server_answer_with_single_labels(run: Context, tmp_path: Path) -> None:
    again = reopened_export(export_of(run, "qar", tmp_path / "out"))
    first, second = load_classifier(run.run, run.model, "qar"), load_classifier(again.run, again.model, "qar")
    text = "billing and refund number 3"
    [prediction] = second.predict([text])
    assert first.predict([text]) == [prediction]
    about = served(again, second, None)
    assert about.description.endswith("of billing, login, refund")
    answer = classified(prediction, about, "always")
    assert list(answer.probabilities) == list(LABELS)
    assert answer.labels == list(prediction.labels)
    assert answer.label == prediction.label
    withheld = classified(prediction, served(again, second, 1.0), "always")
    assert (withheld.label, withheld.labels) == (None, [])


@pytest.mark.slow
def test_a_file_gets_the_likeliest_combination_and_the_labels_that_are_likely_enough(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("text\nbilling and refund number 3\nlogin 4\n", encoding="utf-8")
    (tmp_path / "in.jsonl").write_text('{"text": "billing and refund number 3"}\n', encoding="utf-8")
    source = ("--run", str(finished / "runs/small"), "--arm", "qar", "--offline")
    for name, more in (("csv", ("--top-k", "2")), ("jsonl", ())):
        done = command(tmp_path, "classify", *source, "--file", f"in.{name}", "--output", f"out.{name}", *more)
        assert done.code == 0, done.err
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[1:] == [
        *("label", "probability", "reasoning", "labels", "label_1", "probability_1", "label_2", "probability_2")
    ]
    [row] = lines_of(tmp_path / "out.jsonl")
    assert row["labels"] == rows[0]["labels"].split(", ")
    assert row["label"] == rows[0]["label"]
    one = command(tmp_path, "classify", *source, "--json", "billing and refund number 3")
    answer = json.loads(one.out)
    assert answer["labels"] == row["labels"]
    assert list(answer["probabilities"]) == list(LABELS)
    assert rows[0]["label_1"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "lists"])
def test_reviewed_labels_are_written_as_the_table_writes_them(finished: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    rows = list(csv.DictReader((finished / "rows.csv").open(encoding="utf-8", newline="")))
    name = "rows.csv"
    if form == "csv":
        (folder / name).write_bytes((finished / name).read_bytes())
    else:
        name = "rows.jsonl"
        lines = [json.dumps({"text": row["text"], "label": row["label"].split(";")}) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    recipe = opened(str(finished / "runs/small"), f"data.train={folder / name}").recipe
    log = RunDir(folder / "run")
    log.folder.mkdir()
    edited = rows[3]
    before = ", ".join(sorted(edited["label"].split(";")))
    number = 5 if form == "csv" else 4
    decision = Decision(f"train:{number}", edited["text"], before, "edit", "billing, login", None)
    ReviewLog(log.review).add(decision, 0)
    written = write_new_tables(log, recipe, folder / f"new{Path(name).suffix}")
    text = "".join(path.read_text(encoding="utf-8") for path in written.files.values())
    wanted = (
        f"{edited['text']},billing;login" if form == "csv" else f'"{edited["text"]}", "label": ["billing", "login"]'
    )
    assert wanted in text
    assert written.labels == 1


@pytest.mark.slow
def test_a_pilot_draws_rows_that_it_can_read_again(finished: Path, tmp_path: Path) -> None:
    context = opened(str(finished / "runs/small"), "data.test_size=10", "data.val_size=10")
    data = context.data.labelled
    write_pilot_rows(data, tmp_path, 50, 0)
    recipe = pilot_recipe(context.recipe, data, tmp_path)
    again = opened(str(finished / "runs/small")).data.labelled
    small = load_labelled(recipe.data, 0)
    assert small.labels == again.labels
    assert set(small.train.labels()) <= set(again.combinations)


@pytest.mark.slow
def test_a_pilot_and_a_review_keep_labels_that_hold_a_separator(tmp_path: Path) -> None:
    lists = [["a,b"], ["c", "d;e"], ["c"], ["a,b", "c"]]
    lines = [json.dumps({"text": f"text {n}", "label": lists[n % 4]}) + "\n" for n in range(120)]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    values = {"train": str(tmp_path / "rows.jsonl"), "label_separator": ";", "val_size": 20, "test_size": 20}
    recipe = Recipe.model_validate({"data": values, "classifier": {"arms": ["qa", "qar"]}})
    data = load_labelled(recipe.data, 0)
    assert set(data.train.labels()) == {"a,b", "c, d;e", "c", "a,b, c"}
    write_pilot_rows(data, tmp_path, 40, 0)
    small = load_labelled(pilot_recipe(recipe, data, tmp_path).data, 0)
    assert set(small.train.labels()) == set(data.train.labels())
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((f"text {n}", json.dumps(lists[n % 4])) for n in range(120))])
    for name, number in (("rows.jsonl", 3), ("rows.csv", 4)):
        section = recipe.data.model_copy(update={"train": SourceSpec(path=str(tmp_path / name))})
        log = RunDir(tmp_path / f"run-{name}")
        log.folder.mkdir()
        ReviewLog(log.review).add(Decision(f"train:{number}", "text 2", "c", "edit", "c, d;e", None), 0)
        written = write_new_tables(log, recipe.model_copy(update={"data": section}), tmp_path / f"new-{name}")
        whole = {"val_size": 0, "test_size": 0}
        sources = [SourceSpec(path=str(path)) for path in written.files.values()]
        sections = [section.model_copy(update=whole | {"train": source}) for source in sources]
        rows = [row for each in sections for row in load_labelled(each, 0).train]
        assert [row.label for row in rows if row.text == "text 2"] == ["c, d;e"]
        assert len(rows) == 120


@pytest.mark.slow
def test_scores_are_of_sets_however_they_are_ordered(finished: Path) -> None:
    classifier = RirClassifier.load(finished / "runs/small", arm="qar")
    texts = ["billing and refund number 3", "login 4"]
    predicted = [str(label) for label in classifier.predict(texts)]
    assert classifier.score(texts, predicted) == 1.0
    assert classifier.score(texts, [list(reversed(label.split(", "))) for label in predicted]) == 1.0
    assert classifier.score(texts, [["billing", "login", "refund"]] * 2) == 0.0
    with pytest.raises(ValueError, match="an empty list of labels: no label of the run is for texts that have none"):
        classifier.score(texts, [[], ["login"]])
    task = classifier.classifier.task
    classifier.classifier.task = replace(task, no_label=predicted[0])
    assert classifier.score(texts[:1], [[]]) == 1.0
    with pytest.raises(ValueError, match="'billing;refund' is none of the labels; give a list"):
        classifier.score(texts, ["billing;refund", "login"])


@pytest.mark.slow
def test_a_card_says_that_labels_are_several_and_how_well_they_are_found(run: Context, finished: Path) -> None:
    comparison = read_comparison(finished / "runs/small/evaluation/comparison.json")
    table = _table("qar", comparison)
    assert table is not None
    assert [name for name, _ in table["lines"]][:4] == [
        "all labels right",
        *(f"{name} of the likeliest combination" for name in ("micro-F1", "macro-F1", "Jaccard")),
    ]
    assert all(len(cells) == len(table["columns"]) for _, cells in table["lines"])


@pytest.mark.slow
def test_the_label_of_texts_that_have_none_is_given_alone(finished: Path, tmp_path: Path) -> None:
    """With low thresholds, a text got `billing, none`."""
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(f"{' and '.join(SETS[n % 6]) if n % 7 else 'nothing'} number {n}", n) for n in range(150)]
        cells = [(text, ";".join(SETS[n % 6]) if n % 7 else "") for text, n in rows]
        csv.writer(file).writerows([("text", "label"), *cells])
    (tmp_path / "small.yaml").write_bytes((finished / "small.yaml").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        context = opened("small.yaml", "data.no_label=none", "classifier.arms=[qa]", "classifier.seeds=[0]")
        stages.train_classifier(context, "qa")
        stages.evaluate(context)
        classifier = load_classifier(context.run, context.model, "qa")
    assert classifier.task.no_label == "none"
    scored = classifier.direct([text for text, _ in rows])
    low = {"direct": dict.fromkeys([*LABELS, "none"], 0.0)}
    classifier.calibration = replace(classifier.calibration, given_from=low)
    assert all(
        "none" not in found.labels and len(found.labels) == 3 for found in classifier.predictions(scored, "direct")
    )
    for name in ("qa", "tf-idf"):
        given = [row["given"] for row in lines_of(tmp_path / f"runs/small/evaluation/{name}/predictions.jsonl")]
        assert all(labels == ["none"] or "none" not in labels for labels in given)
    older = opened(str(finished / "runs/small"), "data.no_label=login")
    assert load_classifier(older.run, older.model, "qa").task.no_label == "login", "as it is measured"
    tested = EvaluationRows(context.data.names, *np.zeros((2, 1), dtype=np.int64), np.ones(1, dtype=bool))
    tested = replace(tested, single=context.data.single, alone=context.data.single.index("none"))
    even = np.full((1, 1, len(tested.labels)), 1 / len(tested.labels))
    found = several_labels(EntryPredictions("qa", "arm", even, thresholds=np.zeros((1, 4))), tested)
    assert [label.recall for label in found["per_class"]] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("keys", [{"label_separator": ";"}, {"label_column": ["a", "b"]}, {"soft_labels": True}])
def test_fit_refuses_several_labels_in_words(keys: dict[str, Any]) -> None:
    classifier = RirClassifier(recipe={"data": keys})
    with pytest.raises(ValueError, match="fit takes one label a text"):
        classifier.fit(["a", "b"], ["x", "y"])


@pytest.mark.slow
def test_a_real_backend_scores_each_combination_as_its_words(framework: Backend, tiny: Path) -> None:
    """Against the model's own step: the log-probability of every token of a combination, one after the other."""
    files = resolve_model(str(tiny))
    codec = Codec(files.folder, "26 Jul 2024")
    names = ("joy", "sadness", "anger", "anger, joy", "anger, sadness", "anger, joy, sadness")
    task = ClassificationTask(dict.fromkeys(names[:3], ""), "Which?", 200, 8, names)
    model = framework.load(files.folder, dtype="float32")
    classifier = Classifier(model, codec, task, "qa", Calibration())
    [prediction] = classifier.predict(["i feel happy today"])
    [prompt] = classifier.direct_prompts(["i feel happy today"])
    alone = [
        float(model.score([prompt.row], [option], prefix=prompt.prefix, batch_size=1, mass=True)[0, 0])
        for option in classifier.label_tokens
    ]
    expected = np.exp(alone) / np.exp(alone).sum()
    np.testing.assert_allclose(list(prediction.probabilities.values()), expected, rtol=2e-4)
    assert prediction.singly is not None
    assert prediction.singly["anger"] == pytest.approx(expected[2:].sum(), rel=1e-3)
    assert prediction.labels
