"""`rir-mlx augment` on a million rows with the `fake` backend, and files classified by a function that answers at once:
the toolkit's own cost, without a model's.

    python -m benchmarks.million [--rows 1000000]

First the job alone, on rows that are made as they are asked for. Then the whole command on a CSV file of synthetic
rows: once to the end; then on its journal cut in half, as a kill leaves it; then on a finished journal. Then the
same file is classified. Each runs in a process of its own, whose time and peak memory are shown, Python and the
libraries included; "before it" is what Python and the libraries of the job had taken.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rir_mlx.augmentation.engines.local import LocalEngine
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import AugmentationJob, AugmentationSettings, ResultFlags
from rir_mlx.augmentation.summary import AugmentationSummary
from rir_mlx.backends.base import Sampling
from rir_mlx.backends.fake import FakeBackend
from rir_mlx.classification.files import ClassifyFileOptions, classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.data.rows import Row
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import LabelQuestion
from rir_mlx.storage.journal import Journal

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
PROBABILITIES = dict.fromkeys(LABELS, 1 / len(LABELS))
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
_MEASURED = "import sys; from rir_cli.app import app; from benchmarks.million import peak_mb; "
_MEASURED += "app(standalone_mode=False); print(peak_mb(), file=sys.stderr)"


class Rows(Sequence[Row]):
    """Rows that are made as they are asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.words = count, TEXT.split()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        start = index % len(self.words)
        text = " ".join([*self.words[start:], *self.words[:start]][:18])
        return Row(f"{text} {index}", LABELS[index % len(LABELS)])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(self.count))


def work(journal: Path, count: int) -> dict[str, float]:
    """The job alone: seconds, and memory before it and at its peak."""
    folder = resolve_model("builtin:tiny-llama").folder
    codec, question = Codec(folder, "26 Jul 2024"), LabelQuestion(LABELS, "Which emotion does the writer express?")
    flags = ResultFlags(ReasoningFilters(codec, LABELS, question.instruction))
    engine = LocalEngine(FakeBackend().load(folder), codec, question, 256, {"model": "fake"})
    before, start = peak_mb(), time.perf_counter()
    with Journal(journal, flags) as opened:
        job = AugmentationJob(
            Rows(count), AugmentationSettings("", Sampling(64, batch_size=64), 0, retries=1), {}, flags, opened
        )
        job.write(engine, Silent())
        summary = AugmentationSummary()
        for outcome in job.outcomes():
            summary.add(outcome)
    assert len(summary.lengths) > 0.9 * count
    return {"seconds": time.perf_counter() - start, "before MB": before, "peak MB": peak_mb()}


def classify(folder: Path) -> dict[str, float]:
    """A file classified by a function that answers at once: seconds, and memory before it and at its peak."""

    def answers(texts: Sequence[str]) -> list[Prediction]:
        return [Prediction(LABELS[len(text) % len(LABELS)], PROBABILITIES, 1.0, None, 0, 0) for text in texts]

    before, start = peak_mb(), time.perf_counter()
    classify_file(folder / "rows.csv", folder / "labelled.csv", answers, ClassifyFileOptions(force=True))
    return {"seconds": time.perf_counter() - start, "before MB": before, "peak MB": peak_mb()}


def peak_mb() -> float:
    """Peak resident memory of this process in MB (10⁶ bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def write_inputs(folder: Path, rows: int) -> None:
    rng, words = random.Random(0), TEXT.split()
    with (folder / "rows.csv").open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for number in range(rows):
            file.write(f"{' '.join(rng.choices(words, k=18))} {number},{LABELS[number % len(LABELS)]}\n")
    triples = [{"question": f"why {n}?", "answer": "joy", "reasoning": f"because {n}"} for n in range(20)]
    (folder / "triples.jsonl").write_text("".join(json.dumps(triple) + "\n" for triple in triples), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")


def run(folder: Path, command: str) -> dict[str, float]:
    """Seconds and peak memory in MB (10⁶ bytes) of a command in a process of its own."""
    arguments = [sys.executable, "-c", _MEASURED, command, str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]
    start = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {"seconds": time.perf_counter() - start, "peak MB": float(done.stderr.split()[-1])}


def cut_in_half(journal: Path) -> None:
    """As a kill leaves it: in the middle of a line."""
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size // 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--classify", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.classify:
        print(json.dumps(classify(options.classify)))
        return
    if options.work:
        print(json.dumps(work(options.work, options.rows)))
        return
    folder = Path(tempfile.mkdtemp(prefix="million-"))
    results: dict[str, dict[str, Any]] = {}
    try:
        alone = [sys.executable, "-m", "benchmarks.million", "--rows", str(options.rows), "--work", str(folder / "j")]
        for name in ("the job alone, from nothing", "the job alone, from half a journal"):
            done = subprocess.run(alone, stdout=subprocess.PIPE, text=True, check=True)
            results[name] = json.loads(done.stdout)
            cut_in_half(folder / "j")
        write_inputs(folder, options.rows)
        alone[-2:] = ["--classify", str(folder)]
        done = subprocess.run(alone, stdout=subprocess.PIPE, text=True, check=True)
        results["the file classified, without a model"] = json.loads(done.stdout)
        run(folder, "train-rgen")
        augmented = folder / "runs" / "million" / "augmented"
        results["the command, from nothing"] = run(folder, "augment")
        whole = (augmented / "train.jsonl").read_bytes()
        for name, cut in (("the command, from half a journal", True), ("the command, from a whole journal", False)):
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
    for name, result in results.items():
        rate = options.rows / result["seconds"]
        before = f" ({result['before MB']:.0f} MB before it)" if "before MB" in result else ""
        print(f"| {name} | {result['seconds']:.0f} | {rate:,.0f} | {result['peak MB']:.0f} MB{before} |")
    print(f"\nMeasured on: {sys.platform}, Python {sys.version.split()[0]}; the embedded tokenizer.")


if __name__ == "__main__":
    main()
