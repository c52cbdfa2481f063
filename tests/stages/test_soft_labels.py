"""Labels that are distributions: read, learned by cross-entropy, and measured against, as they are."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import command
from evaluated_run import kept, lines_of, opened, run_all_in
from processes import made_once
from scipy.optimize import minimize_scalar

from rir_mlx import pipeline
from rir_mlx.backends.base import Backend
from rir_mlx.classification.loading import load_classifier
from rir_mlx.classification.scoring import LabelScorer
from rir_mlx.data.loading import LabelledData, load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.errors import DataError, RecipeError
from rir_mlx.guide.pilot.shortening import pilot_recipe, write_pilot_rows
from rir_mlx.prompting.arms import ClassificationTask, LearningOptions, training_examples
from rir_mlx.prompting.batches import step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import DataSection
from rir_mlx.types import Arm

SOFT = {"soft_labels": True, "val_size": 0, "test_size": 0, "max_samples": None}
CELLS: list[Any] = [{"joy": 3, "anger": 1}, "joy", {"anger": 1.0}, {"sadness": 0.5, "joy": 0.5}, {"joy": 2, "anger": 0}]
READ = [
    ("joy", (("anger", 0.25), ("joy", 0.75))),
    ("joy", ()),
    ("anger", ()),
    ("joy", (("joy", 0.5), ("sadness", 0.5))),
    ("joy", ()),
]


def load(path: Path, **keys: Any) -> LabelledData:
    return load_labelled(DataSection.model_validate({"train": str(path)} | SOFT | keys), 0)


def write(path: Path, cells: list[Any]) -> Path:
    lines = [json.dumps({"text": f"text {n}", "label": cell}) + "\n" for n, cell in enumerate(cells)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("written", [lambda cell: cell, json.dumps, str], ids=["objects", "JSON", "Python"])
def test_votes_and_probabilities_are_read(tmp_path: Path, written: Any) -> None:
    cells = [written(cell) if isinstance(cell, dict) else cell for cell in CELLS]
    data = load(write(tmp_path / "a.jsonl", cells))
    assert [(row.label, row.shares) for row in data.train] == READ
    assert list(data.labels) == ["anger", "joy", "sadness"]


def test_structs_of_parquet_are_read_without_the_fields_that_a_row_lacks(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"joy": 3, "anger": 1, "sadness": None}, {"joy": None, "anger": 1, "sadness": 1}]
    pq.write_table(pa.table({"text": ["a", "b"], "label": cells}), tmp_path / "a.parquet")
    assert [row.shares for row in load(tmp_path / "a.parquet").train] == [
        (("anger", 0.25), ("joy", 0.75)),
        (("anger", 0.5), ("sadness", 0.5)),
    ]


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ({"joy": -1, "anger": 2}, "the share of the label 'joy' is '-1', not a number from 0 on"),
        ({"joy": "much"}, "the share of the label 'joy' is 'much', not a number from 0 on"),
        ({"joy": True}, "the share of the label 'joy' is 'True', not a number from 0 on"),
        ({"joy": 0, "anger": 0}, "no label has a share above 0"),
        ({}, "no label has a share above 0"),
        ({"joy": 1e308, "anger": 1e308}, "the share of the label 'joy' is '1e+308', not a number from 0 on"),
        ({"joy": 10**400}, "the share of the label 'joy' is '100000000000000000000000000000', not a number from 0 on"),
        ('{"joy": 2, "anger": 1', "the label looks like an object, and it is neither JSON nor a value of Python"),
        ({"N/A": 1}, "the label is missing (N/A)"),
    ],
)
def test_what_is_no_distribution_is_refused(tmp_path: Path, cell: Any, why: str) -> None:
    with pytest.raises(DataError) as raised:
        load(write(tmp_path / "a.jsonl", [*CELLS, cell]))
    assert raised.value.faults == (f"row 6: {why}",)


def test_every_label_of_a_distribution_must_be_named_and_a_label_is_not_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", CELLS)
    with pytest.raises(DataError, match="row 4: the label 'sadness' is not one of the 2 labels"):
        load(path, labels={"joy": "", "anger": ""})
    assert command(tmp_path, "check", "a.jsonl", "-s", "data.labels=[joy, anger]", "-s", "data.soft_labels=true").code
    with pytest.raises((ValueError, RecipeError), match="set one of them"):
        load(path, label_separator=";")


def test_distributions_belong_to_the_datas_digest_and_are_named_where_they_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", CELLS)
    other = write(tmp_path / "b.jsonl", [{"joy": 2, "anger": 1}, *CELLS[1:]])
    assert load(path).digest != load(other).digest
    with pytest.raises(DataError) as raised:
        load(path, soft_labels=False)
    assert "set data.soft_labels to true" in raised.value.hint


def rows_with_reasonings() -> list[Row]:
    return [Row(f"i feel happy {n}", label, f"because {n}", shares=shares) for n, (label, shares) in enumerate(READ)]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["qa", "qra"])
def test_the_loss_is_the_cross_entropy_against_the_distribution(framework: Backend, tiny: Path, arm: Arm) -> None:
    """Against the label probabilities that classifying computes."""
    codec, rows = Codec(tiny, "26 Jul 2024"), rows_with_reasonings()
    task = ClassificationTask(dict.fromkeys(("anger", "joy", "sadness"), ""), "Which?", 300, 16)
    model = framework.load(tiny, dtype="float32")
    examples = training_examples(codec, task, rows, arm)
    scorer = LabelScorer(model, codec, task, arm)
    texts = [row.text for row in rows]
    if arm == "qa":
        scored = scorer.direct(texts).scores
    else:
        scored = scorer.given(texts, [row.reasoning or "" for row in rows]).scores
    lengths = dict(zip(task.names, map(len, scorer.label_tokens), strict=True))
    divided = [(n, label, share) for n, row in enumerate(rows) for label, share in row.shares or ((row.label, 1.0),)]
    entropy = -sum(share * scored[n, task.names.index(label)] for n, label, share in divided)
    tokens = sum(share * lengths[label] for _, label, share in divided)
    assert len(examples.rows) == len(divided) == 7
    read = (replace(row, prompt=row.prompt + row.reasoning, reasoning=()) for row in examples.rows)
    silent = replace(examples, rows=tuple(read))
    loss = sum(model.loss(batch) for batch in step_batches(silent, [range(len(divided))]))
    assert loss == pytest.approx(entropy / tokens, rel=1e-4)


def test_a_reasoning_belongs_to_the_main_label_and_counts_once(codec: Codec) -> None:
    task = ClassificationTask(dict.fromkeys(("anger", "joy", "sadness"), ""), "Which?", 300, 16)
    row = rows_with_reasonings()[0]
    for arm, counted in (("qra", [0.25, 0.75]), ("curriculum", [0.25, 0.75]), ("qar", [1.0]), ("qarqa", [1.0])):
        found = training_examples(codec, task, [row], arm)  # type: ignore[arg-type]
        tasks = [found.rows, () if found.second is None else found.second.rows]
        every = [example for rows in tasks for example in rows]
        assert [example.share[1] for example in every if example.reasoning] == counted, arm
        assert sum(example.share[0] for example in found.rows if example.answers) == 1.0, arm
        assert {example.weight for example in every} == {1.0}
    weights = dict.fromkeys(task.labels, 1.0) | {"anger": 2.0}
    weighted = training_examples(codec, task, [row], "qa", LearningOptions(weights)).rows
    assert [(example.weight, example.share[0]) for example in weighted] == [(2.0, 0.25), (1.0, 0.75)]


def test_shares_count_also_in_steps_of_a_single_example(codec: Codec) -> None:
    """Each was divided by its own share, and votes of 9 : 1 were learned as 1 : 1."""
    task = ClassificationTask(dict.fromkeys(("anger", "joy", "sadness"), ""), "Which?", 300, 16)
    examples = training_examples(codec, task, rows_with_reasonings()[:1], "qa")
    alone = [step_batches(examples, [[place]])[0].weights.sum() for place in range(2)]
    assert alone[1] / alone[0] == pytest.approx(3.0)
    together = step_batches(examples, [[0, 1]])[0].weights.sum(1)
    assert together[1] / together[0] == pytest.approx(3.0)
    assert together.sum() == pytest.approx(np.mean(alone)) == pytest.approx(1.0)


def make_run(folder: Path, model: Path) -> None:
    cells = [{"joy": 7, "anger": 3}, {"sadness": 1, "joy": 1}, "sadness", {"anger": 9, "sadness": 1}]
    write(folder / "rows.jsonl", [cells[n % 4] for n in range(160)])
    (folder / "small.yaml").write_text(
        f"model: {model}\nbackend: fake\nmax_seq_length: 320\n"
        "data: {train: rows.jsonl, val_size: 40, test_size: 40, soft_labels: true}\n"
        "reasoning: {source: null}\nclassifier: {epochs: 1, seeds: [0, 3], arms: [qa]}\n",
        encoding="utf-8",
    )
    run_all_in(folder)


@pytest.fixture(scope="session")
def finished(tiny: Path) -> Path:
    return made_once("soft-labels", lambda folder: make_run(folder, tiny))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qa", "tf-idf"])
def test_log_loss_and_brier_are_against_the_distributions(finished: Path, name: str) -> None:
    """Recomputed from predictions.jsonl alone."""
    [entry] = [entry for entry in kept(finished / "runs/small")["entries"] if entry["name"] == name]
    folder = finished / "runs/small/evaluation"
    losses, scores, right = [], [], []
    for suffix in [""] if name == "tf-idf" else ["", "-seed3"]:
        for row in lines_of(folder / f"{name}{suffix}/predictions.jsonl"):
            shares = row.get("shares", {row["label"]: 1.0})
            assert math.isclose(sum(shares.values()), 1.0)
            found = row["probabilities"]
            losses.append(-sum(share * math.log(found[label]) for label, share in shares.items()))
            scores.append(sum((found[label] - shares.get(label, 0.0)) ** 2 for label in found))
            right.append(row["predicted"] == row["label"])
    assert entry["metrics"]["log_loss"]["value"] == pytest.approx(np.mean(losses))
    assert entry["metrics"]["brier"]["value"] == pytest.approx(np.mean(scores))
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    if entry["kind"] == "arm":
        assert entry["training"]["rows"] == kept(finished / "runs/small")["rows"]["train"]
    entropy = "no log-loss is below their entropy, 0."
    assert any(entropy in warning for warning in kept(finished / "runs/small")["warnings"])
    assert entry["metrics"]["log_loss"]["low"] < np.mean(losses) < entry["metrics"]["log_loss"]["high"]


@pytest.mark.slow
def test_the_temperature_is_the_one_that_fits_the_distributions(finished: Path) -> None:
    run = opened(str(finished / "runs/small"))
    classifier = load_classifier(run.run, run.model, "qa")
    rows = run.data.validation
    scores = classifier.direct([row.text for row in rows]).log_probabilities
    each = [dict(row.shares or ((row.label, 1.0),)) for row in rows]
    shares = np.array([[own.get(name, 0.0) for name in run.data.names] for own in each])

    def cost(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        scaled = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        return float(-(shares * scaled).sum()) + (log_temperature / 0.5) ** 2 / 2

    best = minimize_scalar(cost, bounds=(math.log(0.05), math.log(20)), method="bounded")
    assert classifier.calibration.temperature["direct"] == pytest.approx(math.exp(best.x), rel=1e-3)


@pytest.mark.slow
def test_a_pilot_keeps_the_distributions(finished: Path, tmp_path: Path) -> None:
    context = opened(str(finished / "runs/small"), "data.test_size=10", "data.val_size=10", "classifier.arms=[qa, qar]")
    data = context.data.labelled
    write_pilot_rows(data, tmp_path, 50, 0)
    again = load_labelled(pilot_recipe(context.recipe, data, tmp_path).data, 0)
    assert again.labels == data.labels
    assert {row.shares for row in again.train} == {row.shares for row in data.train}


@pytest.mark.slow
def test_a_model_learns_how_often_a_label_is_meant(framework: Backend, tiny: Path, tmp_path: Path) -> None:
    """The same text, called joy by seven of ten annotators: not by all of them, as its most frequent label would be."""
    cells: list[Any] = [{"joy": 7, "anger": 3}, "sadness"]
    texts = ["i feel happy today", "i was sad"]
    lines = [json.dumps({"text": f"{texts[n % 2]} {n // 2}", "label": cells[n % 2]}) + "\n" for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "small.yaml").write_text(
        f"model: {tiny}\nbackend: {framework.name}\ndtype: float32\nfine_tune_type: full\nmax_seq_length: 200\n"
        "data: {train: rows.jsonl, val_size: 0, test_size: 2, soft_labels: true}\nreasoning: {source: null}\n"
        "classifier: {iters: 60, batch_size: 12, grad_accumulation_steps: 1, learning_rate: 1e-2, arms: [qa]}\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        pipeline.train_classifier("small.yaml", offline=True)
        run = opened("runs/small")
        [joy, sadness] = load_classifier(run.run, run.model, "qa").predict(["i feel happy today 3", "i was sad 3"])
        done = json.loads(next(Path("runs/small/classifier-qa").glob("done.json")).read_text(encoding="utf-8"))
    assert done["results"]["rows"] == 38
    assert joy.probabilities["joy"] == pytest.approx(0.7, abs=0.12)
    assert joy.probabilities["anger"] == pytest.approx(0.3, abs=0.12)
    assert sadness.probabilities["sadness"] > 0.9
