"""A run of every arm and two seeds on the fake backend, its evaluation made again, and what lies in its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import LABELS, WORDS, write_csv

from rir_mlx import stages
from rir_mlx.classification.exported import ExportedClassifier, needed_keys, write_exported
from rir_mlx.classification.loading import read_classifier, trained_at
from rir_mlx.stages import Context, OpenOptions, open_run, open_trained_run
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.types import Arm

ARMS = "[qa, qra, qar, multitask, qra-scrambled, qra-words]"

SHARED = (
    "model: {tiny}\nbackend: fake\nmax_seq_length: 320\ndata: {{train: rows.csv, val_size: 24, test_size: 24}}\n"
    "reasoning: {{source: triples.jsonl, val_size: 5}}\nrgen: {{epochs: 1}}\n"
    "classifier: {{epochs: 1, seeds: [0, 3], arms: " + ARMS + "}}\n"
    "augment: {{max_tokens: 24}}\nevaluate: {{max_reasoning_tokens: 24}}\n"
)


def make_evaluated_run(folder: Path, model: Path) -> None:
    """A run of every arm and two seeds in `folder`, trained and evaluated on the fake backend."""
    texts = [(f"{WORDS[label]} {number}", label) for number in range(30) for label in LABELS]
    write_csv(folder / "rows.csv", texts)
    triples = [{"question": f"how is {t}?", "answer": label, "reasoning": f"because {t}"} for t, label in texts]
    (folder / "triples.jsonl").write_text("".join(json.dumps(triple) + "\n" for triple in triples), encoding="utf-8")
    (folder / "small.yaml").write_text(SHARED.format(tiny=model), encoding="utf-8")
    run_all_in(folder)


def run_all_in(folder: Path) -> None:
    """Every stage of `small.yaml` in that folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stages.run_all(opened("small.yaml"))


def opened(recipe: str, *overrides: str, force: bool = False) -> Context:
    return open_run(recipe, OpenOptions(overrides=overrides, offline=True, force=force))


def export_of(run: Context, arm: Arm, folder: Path) -> Path:
    """An arm's adapter in a new folder, as `export --to adapter` writes it."""
    stored = read_classifier(run.run, run.model, arm)
    shutil.copytree(stored.folder, folder)
    at, base = trained_at(run.run, run.recipe, arm), run.model.files
    about = (run.run.name, arm, "adapter", stored.task, stored.calibration or Calibration(), at)
    write_exported(folder, ExportedClassifier(*about, base.name, base.revision, needed_keys(run.recipe)))
    return folder


def reopened_export(folder: Path) -> Context:
    return open_trained_run(folder, OpenOptions(backend="fake", offline=True))


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
