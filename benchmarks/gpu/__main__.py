"""All that a machine with a GPU can say: contract tests, training, augmentation, classification, exact resume.

    python -m benchmarks.gpu [--minutes 8] [--parts b,c] [--out gpu.json]
    python -m benchmarks.gpu --tiny --out tiny.json

  a  the contract tests on this device, in PyTorch
  b  training at Llama-3.2-1B's shape, 16 layers, bfloat16: ours, a completion-only PEFT loop, TRL at its best settings
  c  augmentation at batches 32, 128, 512, of four times as many rows with drawn lengths: ours as it is, `ours-copied`
     with the prefix's keys and values once for each row, `ours-launched` as that with steps that are launched and not
     replayed; transformers' `generate` on sorted rows, and its continuous batching
  d  classifying 2,000 rows by six labels, without and with reasonings, 512 at a time: ours, and the label written out,
     row by row and in batches
  e  (a) to (d) in MLX, beside mlx-lm, where `mlx` runs on a GPU, as its CUDA build does
  f  a training that is killed and resumed: are the bytes the same, as it is and with deterministic kernels, at 16 and
     128 rows: the fewer, the more a step waits for launches, whatever its kernels cost

Compare `ours` with `ours-copied` for what sharing the prefix gives, and `ours-copied` with `ours-launched` for what
replayed steps give: launched ones cannot share it on a GPU. Rows at a time go up to 512, and a program that does not
fit says so in the table. TRL takes flash-attention without padding, and Liger, where they are installed; its rows in
the table say what it ran with. The PEFT loop runs without autocast, so that its adapter multiplies in float32.

Every step is a process of its own, and is written to the file as soon as it is done. All steps together take two or
three stays of `--minutes`: the same command goes on where it stopped. What the goals need comes first. A step that is
in the file is not run again, except one that the end of the time cut short and, with `--again`, one that failed. No
step begins that can hardly end in time. The table beside the JSON file shows all that is known by then, and which goals
are met. `share` is the least time by the machine's limits, one large product and one large copy that are measured
first, as a share of the time taken; of training that is the MFU of the work that must be done, with the shared prefix
counted once.

`--tiny` runs all of it with a tiny model and two rows at a time, on a processor too.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS, TINY, Plan, Step, ordered
from benchmarks.gpu.report import table
from rir_mlx.backends.limits import Limits
from rir_mlx.guide.machine import machine_name
from rir_mlx.speed.bench import run_apart
from rir_mlx.speed.shapes import make_shape

_SAME = {"machine": "machine", "device": "device", "accelerator": "GPU", "tiny": "model", "plan": "plan"}
"""What one file is of, and how it is called."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="some of a,b,c,d,e,f; default: all")
    parser.add_argument("--minutes", type=float, default=8, help="how long this stay may take (8)")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the file of all results (gpu.json)")
    parser.add_argument("--again", action="store_true", help="run the steps that failed again")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to prove that every step runs")
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    if odd := set(options.parts) - set(PARTS):
        parser.error(f"--parts: {min(odd)} is none of {', '.join(PARTS)}")
    return options


def save(path: Path, known: dict[str, Any]) -> None:
    """The file and the table beside it, each whole or as before."""
    for place, text in ((path, json.dumps(known, indent=1)), (path.with_suffix(".md"), "\n".join(table(known)) + "\n")):
        temporary = place.with_suffix(".partial")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(place)


def is_due(step: Step, known: dict[str, Any], *, again: bool) -> bool:
    found = known["steps"].get(step.key)
    return found is None or "cut" in found or (again and not found.keys().isdisjoint({"error", "stopped"}))


def check_same(path: Path, known: dict[str, Any], here: dict[str, Any]) -> None:
    """Exits where the file was begun on another device or with another plan: its figures are no comparison."""
    for what, mine in here.items():
        if what in known and known[what] != mine:
            values = f": {known[what]}, and here is {mine}" if isinstance(mine, str) else ""
            raise SystemExit(
                f"{path} has figures of another {_SAME[what]}{values}.\nhint: Name another file with --out."
            )


def run_steps(due: list[Step], known: dict[str, Any], path: Path, end: float) -> int:
    """Runs the steps that can end in time. Returns how many are left."""
    left = 0
    for step in due:
        start = time.monotonic()
        if end - start < step.least:
            left += 1
            continue
        result = step.result(end - start)
        if time.monotonic() > end and not result.keys().isdisjoint({"error", "stopped"}):
            result["cut"] = True
            left += 1
        known["steps"][step.key] = result | {"took": round(time.monotonic() - start, 1)}
        print(f"{step.key}: {known['steps'][step.key]}", file=sys.stderr)
        save(path, known)
    return left


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, which ends the step's processes too
    options = parse()
    end, path = time.monotonic() + 60 * options.minutes, options.out
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"steps": {}}
    plan = Plan("", **(TINY if options.tiny else {}))  # type: ignore[arg-type]
    here = {"machine": machine_name(), "tiny": options.tiny, "plan": json.loads(json.dumps(asdict(plan)))}
    check_same(path, known, here)
    here |= run_apart({"backend_name": "torch"}, plan.longest)
    check_same(path, known, here)
    with tempfile.TemporaryDirectory() as temporary:
        make_shape(Path(temporary), *((64, 2, 4096) if options.tiny else (2048, 16, 128_256)))
        plan = replace(plan, folder=temporary)
        if "limits" not in known:
            given = {"backend_name": "torch", "dtype": plan.dtype, "seconds": plan.seconds / 3}
            known |= here | run_apart(given, plan.longest)
            save(path, known)
        planned = ordered(options.parts, plan, Limits(**known["limits"]), tiny=options.tiny)
        due = [step for step in planned if is_due(step, known, again=options.again)]
        left = run_steps(due, known, path, end)
    print("\n".join(table(known)))
    if left:
        print(f"\n{left} steps are left: the same command goes on with them.", file=sys.stderr)


if __name__ == "__main__":
    main()
