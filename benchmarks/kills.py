"""SIGKILL at random moments of every stage, then the same command again: does it end as if it had never been killed?

    PYTHONPATH=tests python -m benchmarks.kills [--kills 100] [--backends torch mlx] [--seed 0]

Each backend first runs every stage undisturbed, on a tiny model with random weights. Then each stage is started where
it began, killed at a moment drawn evenly from its measured time, started again, killed again, and so on three times,
and run to its end. All that it leaves is compared with the undisturbed run: weights and rows byte by byte, the
journals by their results, each of which must be there once. A process is forked from one that has imported the
libraries, so that kills fall into the work.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from processes import close_server, prepare, start_command
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
_CHAIN = 3
"""Kills one after another before the command may end."""
_LIMIT = 1800.0
_JOURNALS = ("journal.jsonl", "readings.jsonl")


@dataclass
class Killed:
    """What came of the kills in a stage. `early` commands had ended before their kill."""

    seconds: float
    kills: int = 0
    early: int = 0
    ends: int = 0
    different: list[str] = field(default_factory=list)


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
    if process.wait(_LIMIT):
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


def kill_stage(before: Path, after: Path, command: list[str], told: Killed, moments: list[float]) -> None:
    """Start a stage from the folder `before`, kill it at these moments, let it end, and compare with `after`."""
    folder = Path(tempfile.mkdtemp(prefix="killed-"))
    try:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        for moment in moments:
            process = start_command(folder, *command, "-q")
            time.sleep(moment * told.seconds)
            if process.poll() is None:
                process.send_signal(9)
                told.kills += 1
            else:
                told.early += 1
            process.wait(_LIMIT)
        if not (command[0] == "classify" and (folder / "out.csv").exists()):  # it had ended before its kill
            finish(folder, command)
        told.ends += 1
        killed, whole = results(folder), results(after)
        told.different += [name for name in sorted(killed.keys() | whole.keys()) if killed.get(name) != whole.get(name)]
    finally:
        shutil.rmtree(folder)


def run_backend(backend: str, kills: int, rng: random.Random, folder: Path) -> dict[str, Killed]:
    told: dict[str, Killed] = {}
    before = folder / "0"
    before.mkdir(parents=True)
    make_inputs(before, backend)
    finish(before, ["recipe", "small.yaml"], quiet=False)  # starts the process that the others are forked from
    snapshots = [before]
    for number, (stage, command) in enumerate(STAGES.items(), 1):
        shutil.copytree(snapshots[-1], folder / str(number))
        snapshots.append(folder / str(number))
        told[stage] = Killed(finish(snapshots[-1], command))
    for turn, (stage, command) in enumerate(list(STAGES.items()) * (-(-kills // (_CHAIN * len(STAGES))))):
        left = kills - sum(killed.kills for killed in told.values())
        place = turn % len(STAGES)
        moments = [rng.random() for _ in range(min(_CHAIN, left))]
        if moments:
            kill_stage(snapshots[place], snapshots[place + 1], command, told[stage], moments)
            print(f"{backend}, {stage}: {told[stage]}", file=sys.stderr, flush=True)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--backends", nargs="+", default=["torch", "mlx"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    different = 0
    prepare()
    print("| backend | stage | undisturbed, s | kills | ended before | finished and compared | different |")
    print("|---|---|---|---|---|---|---|")
    try:
        for number, backend in enumerate(options.backends):
            share = options.kills // len(options.backends) + (number < options.kills % len(options.backends))
            told = run_backend(backend, share, random.Random(f"{options.seed}/{backend}"), folder / backend)
            for stage, killed in told.items():
                different += len(killed.different)
                cells = [backend, stage, f"{killed.seconds:.1f}", killed.kills, killed.early, killed.ends]
                print(f"| {' | '.join(map(str, cells))} | {', '.join(killed.different) or 0} |", flush=True)
    finally:
        close_server()
        shutil.rmtree(folder)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
