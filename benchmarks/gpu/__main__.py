"""All that a machine with a GPU can say: contract tests, training, augmentation, classification, exact resume.

    python -m benchmarks.gpu [--minutes 8] [--parts b,c] [--out gpu.json]
    python -m benchmarks.gpu --tiny --out tiny.json

  a  the contract tests on this device, in PyTorch
  b  training at Llama-3.2-1B's shape, 16 layers, bfloat16: ours, a completion-only PEFT loop, TRL at its best settings
  c  augmentation: ours with steps that are replayed and that are launched, transformers' `generate` on sorted rows and
     its continuous batching, at batches 32, 128, 512
  d  classifying six labels, without and with reasonings: ours, and the label written out, row by row and in batches
  e  (a) to (d) in MLX, beside mlx-lm, where `mlx` runs on a GPU, as its CUDA build does
  f  a training that is killed and resumed: are the bytes the same, as it is and with deterministic kernels

Rows at a time go up to 512, and a program that does not fit says so in the table. TRL runs without packing: that needs
flash-attention, or rows that share a sequence see each other.

Every step is a process of its own, and is written to the file as soon as it is done. The same command goes on where it
stopped: a step that is in the file is not run again, except, with `--again`, one that failed. Once `--minutes` are over
no further step begins. The table beside the JSON file shows all that is known by then. `share` is the least time by the
machine's limits, one large product and one large copy that are measured first, as a share of the time taken; of
training that is the MFU of the work that must be done, with the shared prefix counted once.

`--tiny` runs all of it with a tiny model and two rows at a time, on a processor too.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS, TINY, Plan, Step, steps
from benchmarks.gpu.report import table
from rir_mlx.backends.limits import Limits
from rir_mlx.guide.machine import machine_name
from rir_mlx.speed.bench import run_apart
from rir_mlx.speed.shapes import make_shape


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="some of a,b,c,d,e,f; default: all")
    parser.add_argument("--minutes", type=float, default=8, help="no step begins after so long (8)")
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
    return found is None or (again and "error" in found)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, which ends the step's processes too
    options = parse()
    end, path = time.monotonic() + 60 * options.minutes, options.out
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"steps": {}}
    if known.get("tiny", options.tiny) != options.tiny:
        raise SystemExit(f"{path} has figures of the other model: name another file with --out.")
    if known.get("machine", machine_name()) != machine_name():
        raise SystemExit(f"{path} has figures of another machine: name another file with --out.")
    left = 0
    with tempfile.TemporaryDirectory() as temporary:
        make_shape(Path(temporary), *((64, 2, 4096) if options.tiny else (2048, 16, 128_256)))
        plan = Plan(temporary, **(TINY if options.tiny else {}))  # type: ignore[arg-type]
        if "limits" not in known:
            seconds = plan.seconds / 3
            given = {"backend_name": "torch", "dtype": plan.dtype, "seconds": seconds}
            known |= run_apart(given, plan.longest) | {"machine": machine_name(), "tiny": options.tiny}
            known |= {"plan": asdict(plan) | {"folder": ""}}
            save(path, known)
        for part in options.parts:
            for step in steps(part, plan, Limits(**known["limits"]), tiny=options.tiny):
                if not is_due(step, known, again=options.again):
                    continue
                if time.monotonic() > end:
                    left += 1
                    continue
                start = time.monotonic()
                known["steps"][step.key] = step.result() | {"took": round(time.monotonic() - start, 1)}
                print(f"{step.key}: {known['steps'][step.key]}", file=sys.stderr)
                save(path, known)
    print("\n".join(table(known)))
    if left:
        print(f"\n{left} steps are left: the same command goes on with them.", file=sys.stderr)


if __name__ == "__main__":
    main()
