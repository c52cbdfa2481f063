"""Writing reasonings: this toolkit beside transformers and mlx-lm, with the same weights, prompts and lengths.

    python -m benchmarks.generate [--backend torch] [--layers 4] [--data train.csv] [--repeats 3]

The prompts are R-Gen's for rows of the `emotion` kind, the same token ids for all; how many tokens a row writes is
drawn evenly from 10 to 120 with a fixed seed, greedily, and nothing ends a row earlier. All get plain weights: an
adapter is merged before it writes. Each writes in a process of its own, in turn, the whole round repeated, after a
warm-up that is not counted.

  ours            `Model.generate` with the shared prefix, the rows sorted by length, as `rir-mlx augment` sorts them
  ours-copied     the same with the prefix's keys and values once for each row, in PyTorch; only where --peers names it
  ours-launched   as ours-copied, on a GPU with steps that are launched and not replayed: rows share a prefix there in
                  replayed steps alone; only where --peers names it
  transformers    `model.generate` on left-padded batches in that order. A `StoppingCriteria` ends each row at its own
                  length, and the batch with its longest; a row's surplus is not counted
  …-sorted        the same with the rows sorted by the length of their prompts
  generate_batch  transformers' continuous batching, through the manager that `generate_batch` wraps, for that takes
                  a length for each row. On a processor it gets pages so small that it shares the prefix too, and few
                  tokens a step, which is quickest there; on CUDA its defaults
  batch_generate  `mlx_lm.batch_generate` with a length for each row; its prefill as it comes

What enters the embedding is counted: prompt tokens a row, padding included, and steps (one more token of one row) for
each token that counts. mlx-lm runs a prompt's last token as its first step. Memory is the peak above the loaded
weights; on a processor that of resident pages, with what the allocator keeps.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

from benchmarks.jobs import SHAPES, measured_apart
from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Request, Tokens
from rir_mlx.backends.limits.memory import watch_memory
from rir_mlx.data.loading import load_labelled
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.speed.job import LENGTHS, drawn_lengths
from rir_mlx.speed.programs.writers import COPIED, LAUNCHED, SORTED, WRITERS, count_tokens, load
from rir_mlx.speed.rows import LABELS, augmentation_requests
from rir_mlx.speed.shapes import make_shape


@dataclass(frozen=True)
class Job:
    """One peer, once."""

    peer: str
    backend: str
    folder: str
    dtype: str
    batch: int
    rows: int
    data: str | None


def make_requests(codec: Codec, job: Job) -> tuple[Tokens, list[Request]]:
    """The prefix of all rows, and the rows in the order of the file, else two embedded texts joined."""
    if job.data:
        with Path(job.data).open(encoding="utf-8", newline="") as file:
            rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    else:
        texts = [row.text for row in load_labelled(load_recipe("demo", ["data.max_samples=100"]).data, seed=0).train]
        rows = [(f"{a}. {b}", label) for a, b, label in zip(texts, reversed(texts), cycle(LABELS), strict=False)]
    if len(rows) < job.rows:
        raise SystemExit(f"{job.data or 'The embedded data'} has {len(rows)} rows, and --rows asks for {job.rows}.")
    return augmentation_requests(codec, rows[: job.rows], drawn_lengths(LENGTHS, job.rows))


def work(job: Job) -> dict[str, Any]:
    prefix, requests = make_requests(Codec(Path(job.folder), "26 Jul 2024"), job)
    limits, own = [request.max_tokens for request in requests], [len(request.tokens) for request in requests]
    model, place = load(job)
    counted = not getattr(model, "record", None) or job.peer == LAUNCHED  # what a GPU replays passes no embedding
    counts, peak, write = count_tokens(job.backend), watch_memory(place), WRITERS[job.backend][job.peer]
    by_length = sorted(requests, key=lambda request: len(request.tokens))
    list(write(job, model, prefix, [replace(request, max_tokens=4) for request in by_length[-4:]]))
    counts.update(prompt=0, steps=0)
    written: dict[int, Tokens] = {}
    start, seconds = time.perf_counter(), 0.0
    for key, text in write(job, model, prefix, by_length if job.peer in SORTED else requests):
        written[key] = text
        seconds = time.perf_counter() - start  # of the last row; how a peer tidies up after it is not counted
    texts = [written[key] for key in range(job.rows)]
    if odd := [key for key, text in enumerate(texts) if len(text) != limits[key]]:
        raise RuntimeError(f"row {odd[0]} has {len(texts[odd[0]])} tokens, not {limits[odd[0]]}")
    if job.peer == "generate_batch":  # packs prompts and steps together; each token but a row's first takes a step
        steps = sum(limits) - job.rows
        counts.update(prompt=sum(counts.values()) - steps, steps=steps)
    lengths = f"{len(prefix)} tokens of prefix, {statistics.mean(own):.1f} of a row's own, "
    lengths += f"{statistics.mean(limits):.1f} written"
    measured = {"seconds": seconds, "rows/s": job.rows / seconds, "tokens/s": sum(limits) / seconds, "peak GB": peak()}
    measured |= {"prompt tokens a row": counts["prompt"] / job.rows}
    measured |= {"steps a token": counts["steps"] / sum(limits) if counted else None}
    return measured | {"texts": texts, "lengths": lengths, "device": open_backend(job.backend).device().name}


def run_job(job: Job, device: str) -> dict[str, Any]:
    """What a process of its own measured; `error` alone where a peer cannot do it."""
    measured = measured_apart("generate", job, device)
    shown = measured.get("error") or f"{measured['tokens/s']:.1f} tokens/s"
    print(f"{job.peer}: {shown}", file=sys.stderr)
    return measured


def report(results: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The table, then each peer's agreement with ours. `results` holds what each peer measured, once a round."""
    heads = ["peer", "seconds", "rows/s", "tokens/s", "`ours` is faster by", "prompt tokens a row", "steps a token"]
    yield f"| {' | '.join([*heads, 'memory'])} |\n|{'---|' * 8}"
    mine, notes = results.get("ours", []), [""]
    for peer, rounds in results.items():
        if errors := [result["error"] for result in rounds if "error" in result]:
            yield f"| {peer} |{' – |' * 7}"
            notes.append(f"{peer} failed in {len(errors)} of {len(rounds)} rounds: {errors[0]}")
            continue
        seconds = [result["seconds"] for result in rounds]
        ratios = [theirs / result["seconds"] for theirs, result in zip(seconds, mine, strict=False)]
        median = {
            name: statistics.median(result[name] for result in rounds) for name in ("rows/s", "tokens/s", "peak GB")
        }
        cells = [peer, f"{statistics.median(seconds):.3g} ({min(seconds):.3g}–{max(seconds):.3g})"]
        cells += [f"{median['rows/s']:.3g}", f"{median['tokens/s']:.4g}"]
        cells += [f"{statistics.median(ratios):.2f} ×" if ratios else "–", f"{rounds[0]['prompt tokens a row']:.1f}"]
        steps = rounds[0]["steps a token"]
        cells += ["–" if steps is None else f"{steps:.2f}", f"{median['peak GB']:.2f} GB"]
        yield f"| {' | '.join(cells)} |"
        if peer != "ours" and mine:
            same = [a == b for a, b in zip(mine[0]["texts"], rounds[0]["texts"], strict=True)]
            notes.append(f"{peer}: texts agree: {sum(same)} of {len(same)} ({statistics.mean(same):.0%})")
    if mine:
        varied = statistics.mean(len(set(text)) for text in mine[0]["texts"])
        notes.append(f"A text has {varied:.1f} different tokens on average; the fewer, the less agreement shows.")
    yield from notes


def report_machine(options: argparse.Namespace, measured: dict[str, Any]) -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name\t: ")[2].partition("\n")[0] or cpu
    package = "transformers" if options.backend == "torch" else "mlx-lm"
    parts = [cpu, measured["device"], f"{package} {importlib.metadata.version(package)}", options.dtype]
    random = f"random weights {options.hidden} wide, {options.layers} layers, vocabulary {options.vocab}"
    parts += [options.model or random, f"{options.rows} rows, {options.batch} at a time", measured["lengths"]]
    return f"\nMeasured on: {'; '.join(parts)}; median (range) of {options.repeats} rounds."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=sorted(WRITERS), default="torch")
    parser.add_argument("--model", help="a folder or name, instead of random weights of the following shape")
    for name, what in {"hidden": "width, a multiple of 64", "layers": "layers", "vocab": "4096 or more"}.items():
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on torch, float32 on mlx")
    parser.add_argument("--data", type=Path, help="a CSV file with the columns text and label (embedded texts)")
    for name, default, what in (("rows", 128, "rows"), ("batch", 32, "rows at a time"), ("repeats", 3, "rounds")):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="cpu hides a CUDA device")
    parser.add_argument("--peers", help="some of the above, with commas between; default: all of the backend")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, default in zip(("hidden", "layers", "vocab"), SHAPES[options.backend], strict=True):
        setattr(options, name, getattr(options, name) or default)
    options.dtype = options.dtype or ("bfloat16" if options.backend == "torch" else "float32")
    usual = [peer for peer in WRITERS[options.backend] if peer not in (LAUNCHED, COPIED)]
    options.peers = options.peers.split(",") if options.peers else usual
    if odd := set(options.peers) - set(WRITERS[options.backend]):
        parser.error(f"--peers: {min(odd)} is none of {', '.join(WRITERS[options.backend])}")
    return options


def main() -> None:
    options = parse()
    if options.job:
        job = Job(**json.loads(options.job))
        with contextlib.redirect_stdout(sys.stderr):
            try:
                measured = work(job)
            except Exception as error:
                if job.peer == "ours":
                    raise
                measured = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(measured))
        return
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = resolve_model(options.model).folder if options.model else Path(temporary) / "model"
        if not options.model:
            make_shape(folder, options.hidden, options.layers, options.vocab)
        rest = (options.backend, str(folder), options.dtype, options.batch, options.rows)
        data = str(options.data.resolve()) if options.data else None
        for _, peer in product(range(options.repeats), options.peers):
            results[peer].append(run_job(Job(peer, *rest, data), options.device))
    print("\n".join(report(results)))
    if complete := [result for rounds in results.values() for result in rounds if "error" not in result]:
        print(report_machine(options, complete[0]))
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "results": results}, default=str))


if __name__ == "__main__":
    main()
