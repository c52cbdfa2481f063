"""`rir-mlx augment` on a million rows with the `fake` backend: its own cost, without a model's.

    python -m benchmarks.million [--rows 1000000]

The whole command runs in a process of its own on a CSV file of synthetic rows: once to the end; then once more on a
copy of the journal cut in half, as after a kill; then on a finished journal. Rows a second and peak memory are those of
the process, Python and the libraries included.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rir_mlx.models import EMBEDDED

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
TEXT = """i feel like my friend came home today and the dog was so happy about rain sun letter exam train bus school
work night day long short again never always what could be done here after all the waiting in line"""
RECIPE = """
name: million
model: builtin:tiny-llama
backend: fake
max_seq_length: 256
data: {{train: {folder}/rows.csv, max_samples: null, val_size: 500, test_size: 500}}
reasoning: {{source: {folder}/triples.jsonl, val_size: 5}}
rgen: {{iters: 1}}
augment: {{max_tokens: 64, retries: 1}}
"""
_MEASURED = "import resource, sys; from rir_cli.app import app; app(standalone_mode=False); "
_MEASURED += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"


def write_inputs(folder: Path, rows: int) -> None:
    rng, words = random.Random(0), TEXT.split()
    with (folder / "rows.csv").open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for number in range(rows):
            file.write(f"{' '.join(rng.choices(words, k=18))} {number},{LABELS[number % len(LABELS)]}\n")
    triples = [{"question": f"why {n}?", "answer": "joy", "reasoning": f"because {n}"} for n in range(20)]
    (folder / "triples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in triples), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")


def run(folder: Path, command: str) -> dict[str, float]:
    """Seconds and peak memory in MB (10⁶ bytes) of a command in a process of its own."""
    arguments = [sys.executable, "-c", _MEASURED, command, str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]
    start = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = int(done.stderr.split()[-1]) * unit / 1e6
    return {"seconds": time.perf_counter() - start, "peak MB": peak}


def cut_in_half(journal: Path) -> None:
    """As a kill leaves it: in the middle of a line."""
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size // 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="million-"))
    results: dict[str, dict[str, Any]] = {}
    try:
        write_inputs(folder, options.rows)
        run(folder, "train-rgen")
        augmented = folder / "runs" / "million" / "augmented"
        results["from nothing"] = run(folder, "augment")
        whole = (augmented / "train.jsonl").read_bytes()
        for name, cut in (("from half a journal", True), ("from a whole journal", False)):
            (augmented / "done.json").unlink()
            if cut:
                cut_in_half(augmented / "journal.jsonl")
            results[name] = run(folder, "augment")
            if (augmented / "train.jsonl").read_bytes() != whole:
                raise RuntimeError(f"{name}: the rows are not the same")
        kept = json.loads((augmented / "stats.json").read_text())["train"]["kept"]
    finally:
        shutil.rmtree(folder)
    print(f"| {options.rows:,} rows, {kept:,} kept | seconds | rows/s | peak memory |\n|---|---|---|---|")
    for name, one in results.items():
        rate = options.rows / one["seconds"]
        print(f"| {name} | {one['seconds']:.0f} | {rate:,.0f} | {one['peak MB']:.0f} MB |")
    print(f"\nMeasured on: {sys.platform}, Python {sys.version.split()[0]}; embedded tokenizer {EMBEDDED.name}.")


if __name__ == "__main__":
    main()
