"""Classifying texts: this toolkit beside writing the label out, and beside a pass for each label, on the same weights.

    python -m benchmarks.classify [--backend torch] [--layers 4] [--data train.csv] [--rows 2000] [--repeats 3]

Six labels, with and without a reasoning before them, the same token ids for all. Texts are the first `--rows` of the
file, else of the embedded data. How many tokens a reasoning has is drawn evenly from 10 to 120 with a fixed seed,
greedily, and nothing ends it earlier. All get plain weights. Each classifies in a process of its own, in turn, the
whole round repeated, after a warm-up that is not counted.

  ours           one run of the prefix, then `Model.score`, rows sorted by length, as `Classifier.predict` does it; a
                 reasoning is written before by `Model.generate`, rows entering as others leave
  generate-rows  `generate` of transformers, or mlx-lm's `generate_step`, a row at a time: the reasoning if there is
                 one, the delimiter, the label and its terminator; then the label is read from the text
  generate-batch the same by `generate` on left-padded batches, sorted by length; `mlx_lm.batch_generate`
  label-passes   probabilities without a cache: the whole prompt with each label, a label at a time over a batch of
                 rows, only the label's positions projected; a reasoning is written before as in generate-batch

The slower ones get fewer rows, evenly spaced in those of ours, and a reasoning makes five times fewer of all: rows a
second are compared. "Tokens" are those that enter the model for a row, padding included. Memory is the peak above the
loaded weights; on a processor that of resident pages, with what the allocator keeps.

At the end the embedded model, after a short training that makes it write labels, classifies in float32: ours and
label-passes must give the same probabilities to 1e-4, and it is counted how often generate-batch writes the label that
is likeliest for ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.classify.agreement import check
from benchmarks.classify.measuring import run_job, work
from benchmarks.classify.rows import TASKS, Job, read_rows
from benchmarks.generate import report_machine
from benchmarks.jobs import SHAPES
from rir_mlx.models.hub import resolve_model
from rir_mlx.speed.programs.classifiers import PEERS
from rir_mlx.speed.shapes import make_shape

DATA = Path("../shared/data/emotion/train.csv")


def rows_of(peer: str, task: str, options: argparse.Namespace) -> tuple[int, int]:
    """How many rows a peer gets, and of how many: whole batches, where there is more than one."""
    total = max(1, options.rows // (5 if task == "reasoning" else 1))
    rows = max(1, total // PEERS[peer])
    whole = rows // options.batch * options.batch
    return (whole if whole and peer != "ours" else rows), total


def report(results: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterator[str]:
    heads = ["task", "peer", "rows", "rows/s", "`ours` is faster by", "tokens a row", "memory"]
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for (task, peer), rounds in results.items():
        rates, mine = [result["rows/s"] for result in rounds], results.get((task, "ours"), [])
        ratios = [result["rows/s"] / rate for result, rate in zip(mine, rates, strict=False)]
        cells = [task, peer, str(rounds[0]["rows"])]
        cells += [f"{statistics.median(rates):.3g} ({min(rates):.3g}–{max(rates):.3g})"]
        cells += [f"{statistics.median(ratios):.2f} ×" if ratios and peer != "ours" else ""]
        cells += [
            f"{rounds[0]['tokens a row']:.1f}",
            f"{statistics.median(result['peak GB'] for result in rounds):.2f} GB",
        ]
        yield f"| {' | '.join(cells)} |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.classify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=sorted(SHAPES), default="torch")
    parser.add_argument("--model", help="a folder or name, instead of random weights of the following shape")
    for name, what in {"hidden": "width, a multiple of 64", "layers": "layers", "vocab": "4096 or more"}.items():
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on torch, float32 on mlx")
    parser.add_argument("--data", type=Path, help=f"a CSV file with the columns text and label ({DATA} if there)")
    for name, default, what in (
        ("rows", 2000, "rows of ours"),
        ("batch", 32, "rows at a time"),
        ("repeats", 3, "rounds"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="cpu hides a CUDA device")
    for name, known in (("tasks", TASKS), ("peers", PEERS)):
        parser.add_argument(
            f"--{name}", default=",".join(known), help="some of them, with commas between (%(default)s)"
        )
    parser.add_argument("--check-steps", type=int, default=600, help="of the training before the end (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, default in zip(("hidden", "layers", "vocab"), SHAPES[options.backend], strict=True):
        setattr(options, name, getattr(options, name) or default)
    options.dtype = options.dtype or ("bfloat16" if options.backend == "torch" else "float32")
    options.data = options.data or (DATA if DATA.is_file() else None)
    for name, known in (("tasks", TASKS), ("peers", PEERS)):
        setattr(options, name, [part for part in getattr(options, name).split(",") if part])
        if odd := set(getattr(options, name)) - set(known):
            parser.error(f"--{name}: {min(odd)} is none of {', '.join(known)}")
    return options


def main() -> None:
    options = parse()
    if options.job:
        with contextlib.redirect_stdout(sys.stderr):
            measured = work(Job(**json.loads(options.job)))
        print(json.dumps(measured))
        return
    data = str(options.data.resolve()) if options.data else None
    if (found := len(read_rows(data))) < options.rows:
        print(f"{data or 'The embedded data'} has {found} rows, fewer than --rows {options.rows}.", file=sys.stderr)
        options.rows = found
    results: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = resolve_model(options.model).folder if options.model else Path(temporary) / "model"
        if not options.model:
            make_shape(folder, options.hidden, options.layers, options.vocab)
        for _, task, peer in product(range(options.repeats), options.tasks, options.peers):
            rest = (options.backend, str(folder), options.dtype, options.batch, *rows_of(peer, task, options), data)
            results[task, peer].append(run_job(Job(peer, task, *rest), options.device))
        print("\n".join(report(results)))
        for rounds in list(results.values())[:1]:
            print(report_machine(options, rounds[0]))
        print()
        print("\n".join(check(options, Path(temporary) / "embedded", data)))
    if options.json:
        named = {f"{task}, {peer}": rounds for (task, peer), rounds in results.items()}
        options.json.write_text(json.dumps({"options": vars(options), "results": named}, default=str))


if __name__ == "__main__":
    main()
