"""The stages of a small run on a tiny model, and all that they leave, for comparison with an undisturbed run."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from processes import start_command
from tiny import make_tiny_llama

LABELS = {"joy": "i feel happy today", "sadness": "i was sad", "anger": "now i am angry at the rain"}
RECIPE = """
model: ./model
backend: {backend}
max_seq_length: 320
data: {{train: rows.csv, val_size: 12, test_size: 12}}
reasoning: {{source: triples.jsonl, val_size: 6}}
rgen: {{iters: 12, save_every: 3, batch_size: 4}}
augment: {{max_tokens: 12, batch_size: 8, filters: []}}
classifier: {{arms: [qra], iters: 12, save_every: 3, batch_size: 4}}
evaluate: {{max_reasoning_tokens: 8}}
"""
STAGES = {
    "train-rgen": ["train-rgen", "small.yaml"],
    "augment": ["augment", "small.yaml"],
    "train-classifier": ["train-classifier", "small.yaml"],
    "evaluate": ["evaluate", "small.yaml"],
    "classify --file": ["classify", "--file", "rows.csv", "--output", "out.csv"],
    "export": ["export", "--output", "exported"],
}
LIMIT = 1800.0
"""Seconds that a command may take."""
_JOURNALS = ("journal.jsonl", "readings.jsonl")


def make_inputs(folder: Path, backend: str) -> None:
    make_tiny_llama(folder / "model")
    rows = [(f"{text} {number}", label) for number in range(16) for label, text in LABELS.items()]
    table = "".join(f"{text},{label}\n" for text, label in rows)
    (folder / "rows.csv").write_text("text,label\n" + table, encoding="utf-8")
    triples = [{"question": text, "answer": label, "reasoning": f"because {text}"} for text, label in rows[:30]]
    (folder / "triples.jsonl").write_text("".join(json.dumps(triple) + "\n" for triple in triples), encoding="utf-8")
    (folder / "small.yaml").write_text(RECIPE.format(backend=backend), encoding="utf-8")


def finish(folder: Path, command: list[str], *, quiet: bool = True) -> float:
    """Run a command to its end. Returns its seconds."""
    begun = time.monotonic()
    process = start_command(folder, *command, *(["-q"] if quiet else []))
    if process.wait(LIMIT):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {process.err()}")
    return time.monotonic() - begun


def results(folder: Path) -> dict[str, object]:
    """Weights and rows by file; of a journal its results, without the time that they took."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in _JOURNALS:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            kept = {line["key"]: {**line, "seconds": 0} for line in lines}
            found[name] = (len(lines), kept)
        elif path.suffix in (".safetensors", ".jsonl") or name == "out.csv":
            if path.name != "metrics.jsonl":  # seconds
                found[name] = path.read_bytes().replace(str(folder).encode(), b"")
        elif path.suffix == ".tmp" or path.name.endswith((".partial", ".unverified")):
            found[name] = "left behind"
    return {name: value for name, value in found.items() if "/checkpoints/" not in name}


def run_stages(folder: Path, backend: str) -> tuple[list[Path], dict[str, float]]:
    """Run every stage undisturbed. Returns the folders before the first, after the first, and so on, which hold all
    that the stage left, and the seconds of each stage."""
    before = folder / "0"
    before.mkdir(parents=True)
    make_inputs(before, backend)
    finish(before, ["recipe", "small.yaml"], quiet=False)  # starts the process that the others are forked from
    snapshots, seconds = [before], {}
    for number, (stage, command) in enumerate(STAGES.items(), 1):
        shutil.copytree(snapshots[-1], folder / str(number))
        snapshots.append(folder / str(number))
        seconds[stage] = finish(snapshots[-1], command)
    return snapshots, seconds


def differences(folder: Path, after: Path) -> list[str]:
    """The files in which a folder differs from that of the undisturbed stage."""
    found, whole = results(folder), results(after)
    return [name for name in sorted(found.keys() | whole.keys()) if found.get(name) != whole.get(name)]
