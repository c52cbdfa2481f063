"""LoRA training: this toolkit beside TRL, mlx-lm and a plain PEFT loop, on the same rows, token ids and batches.

    python -m benchmarks.train [--backend torch] [--layers 4] [--arm both] [--repeats 3]

Every trainer gets LoRA of rank 16 and scale 2 on all linear layers, AdamW (weight decay 0.01, constant 1e-4) and the
loss of the completion alone. Rows are sorted by length and cut into batches, which spares the others padding that
their own shuffling would cost; mlx-lm batches so itself. Each trainer trains each arm in a process of its own, so that
its peak is its own, the trainers in turn, the whole round repeated. A step is timed from the end of the one before, its
batching included; the first steps are not counted.

  ours           `train_step` with the prompt's shared prefix run once a step
  ours-unshared  `train_step` with the prefix run for every row
  plain          a PEFT loop by hand: right-padded prompts, only the completion's positions projected
  trl            `SFTTrainer` as it comes: float32 weights under bfloat16 autocast, gradient checkpointing
  trl-best       `SFTTrainer` with weights in the benchmark's dtype, no checkpointing; Liger, flash-attention if there
  mlx-lm         `mlx_lm.tuner.trainer.train`. It does not clip gradients, and learns one padding token after each row

On a processor TRL projects every position to the vocabulary, the prompt's too: only its Triton path selects them first.
In `qra` our loss weighs reasoning and label apart. The weight here is the one that makes it a multiple of the mean over
all completion tokens, which is what is shown; forward and backward are the same work for any weight.

Tokens a row are those that enter the model, padding included. MFU counts 4 FLOPs a weight and token for the frozen
linear layers (forward, and the gradient of their input), 6 for LoRA's factors, 4 for the head at each completion token,
6·width·tokens² a layer for causal attention; tokens are all of a row's own, the prefix in every row, without padding
or recomputation. So `ours` may show more than the chip did.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.jobs import SHAPES, measured_apart
from benchmarks.train.report import report_arm, report_losses, report_machine
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.codec import Codec
from rir_mlx.speed.job import Job
from rir_mlx.speed.programs.meter import Meter
from rir_mlx.speed.programs.trainers import PEERS, TRAINERS
from rir_mlx.speed.rows import make_groups, make_rows
from rir_mlx.speed.shapes import make_shape
from rir_mlx.speed.work import row_flops


def work(job: Job) -> dict[str, Any]:
    examples, text = make_rows(Codec(Path(job.folder), "26 Jul 2024"), job.task, job.batch * job.steps)
    groups, meter = make_groups(examples, job.batch), Meter(job)
    TRAINERS[job.peer](job, examples, groups, meter)
    config = json.loads((Path(job.folder) / "config.json").read_text(encoding="utf-8"))
    completion = statistics.mean(len(row.reasoning) + len(row.answer) for row in examples.rows)
    lengths = (
        f"prefix {len(examples.prefix)} tokens; on average text {text:.1f}, completion {completion:.1f}, whole row "
    )
    lengths += f"{examples.tokens() / len(examples.rows):.1f}"
    counted = [examples.rows[index] for group in groups[job.warmup :] for index in group]
    work = statistics.mean(row_flops(config, job.spec, len(examples.prefix), row) for row in counted)
    return meter.measured() | {"lengths": lengths, "FLOPs a row": work}


def run_job(job: Job, device: str) -> dict[str, Any]:
    measured = measured_apart("train", job, device)
    print(f"{job.task} {job.peer}: {measured['rows/s']:.2f} rows/s", file=sys.stderr)
    return measured


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=sorted(PEERS), default="torch")
    parser.add_argument("--model", help="a folder or name, instead of random weights of the following shape")
    for name, what in (("hidden", "width, a multiple of 64"), ("layers", "layers"), ("vocab", "4096 or more")):
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on torch, float32 on mlx")
    parser.add_argument("--arm", choices=["qa", "qra", "both"], default="both")
    counts = {"batch": (16, "rows a step"), "steps": (6, "steps that count"), "warmup": (2, "steps before them")}
    for name, (default, what) in (counts | {"repeats": (3, "rounds")}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="cpu hides a CUDA device")
    parser.add_argument("--peers", help=f"some of {','.join(TRAINERS)}; default: all of the backend")
    parser.add_argument("--peak-tflops", type=float, help="the chip's dense bfloat16 peak, to show MFU")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, default in zip(("hidden", "layers", "vocab"), SHAPES[options.backend], strict=True):
        setattr(options, name, getattr(options, name) or default)
    options.dtype = options.dtype or ("bfloat16" if options.backend == "torch" else "float32")
    options.peers = options.peers.split(",") if options.peers else PEERS[options.backend]
    if odd := set(options.peers) - set(PEERS[options.backend]):
        parser.error(f"--peers: {min(odd)} is none of {', '.join(PEERS[options.backend])}")
    if options.warmup < 1 or options.steps < 1:
        parser.error("--warmup and --steps: both are 1 or more; the first step includes the trainer's own setup")
    return options


def main() -> None:
    options = parse()
    if options.job:
        with contextlib.redirect_stdout(sys.stderr):
            measured = work(Job(**json.loads(options.job)))
        print(json.dumps(measured))
        return
    arms = ["qa", "qra"] if options.arm == "both" else [options.arm]
    results: dict[str, dict[str, list[dict[str, Any]]]] = {arm: defaultdict(list) for arm in arms}
    with tempfile.TemporaryDirectory() as temporary:
        folder = resolve_model(options.model).folder if options.model else Path(temporary) / "model"
        if not options.model:
            make_shape(folder, options.hidden, options.layers, options.vocab)
        steps = options.warmup + options.steps
        rest = (options.backend, str(folder), options.dtype, options.batch, options.warmup, steps)
        for _, arm, trainer in product(range(options.repeats), arms, options.peers):
            results[arm][trainer].append(run_job(Job(trainer, arm, *rest), options.device))
    heads = ["arm", "trainer", "rows/s", "`ours` is faster by", "tokens a row", "peak above weights", "weights"]
    heads += ["loss, first → last", *(["MFU"] if options.peak_tflops else [])]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for arm in arms:
        print("\n".join(report_arm(arm, results[arm], options.peak_tflops)))
    print("\n" + report_machine(options, results[arms[0]][options.peers[0]][0]["about"]))
    for arm in arms:
        print(report_losses(arm, results[arm], options.dtype))
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "results": results}, default=str, indent=1))


if __name__ == "__main__":
    main()
