"""One peer measured on one task, in a process of its own."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.classify.rows import Job, make_given
from benchmarks.jobs import measured_apart
from rir_mlx.backends import open_backend
from rir_mlx.backends.limits.memory import watch_memory
from rir_mlx.prompting.codec import Codec
from rir_mlx.speed.programs.classifiers import CLASSIFY
from rir_mlx.speed.programs.writers import count_tokens, load
from rir_mlx.speed.rows import DATE


def work(job: Job) -> dict[str, Any]:
    given = make_given(Codec(Path(job.folder), DATE), job)
    model, place = load(job)
    counts, peak, classify = count_tokens(job.backend), watch_memory(place), CLASSIFY[job.peer]
    classify(job, model, given.select(range(min(4, job.rows))))
    counts.update(prompt=0, steps=0)
    start = time.perf_counter()
    answers = classify(job, model, given)
    seconds = time.perf_counter() - start
    lengths = f"{len(given.prefix)} tokens of prefix, {statistics.mean(map(len, given.rows)):.1f} of a row's own"
    measured = {"seconds": seconds, "rows": job.rows, "rows/s": job.rows / seconds, "peak GB": peak()}
    measured |= {"tokens a row": sum(counts.values()) / job.rows, "lengths": lengths}
    return measured | asdict(answers) | {"device": open_backend(job.backend).device().name}


def run_job(job: Job, device: str) -> dict[str, Any]:
    """What a process of its own measured."""
    measured = measured_apart("classify", job, device)
    print(f"{job.task}, {job.peer}: {job.rows} rows, {measured['rows/s']:.2f} rows/s", file=sys.stderr)
    return measured
