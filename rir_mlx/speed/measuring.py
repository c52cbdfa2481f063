"""One job, measured: `python -m rir_mlx.speed.measuring JOB` does it in a process of its own, whose memory and threads
are its own too, and prints what it measured as JSON."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rir_mlx.backends import open_backend
from rir_mlx.backends.limits import measured_limits
from rir_mlx.backends.limits.memory import watch_memory
from rir_mlx.errors import Failure, RirError
from rir_mlx.models.config import read_config
from rir_mlx.models.families import ModelShape
from rir_mlx.prompting.codec import Codec
from rir_mlx.speed.fitting import fitting_rows, timed
from rir_mlx.speed.job import Job
from rir_mlx.speed.programs.classifiers import CLASSIFY
from rir_mlx.speed.programs.meter import Meter
from rir_mlx.speed.programs.trainers import TRAINERS
from rir_mlx.speed.programs.writers import WRITERS, load
from rir_mlx.speed.rows import (
    DATE,
    augmentation_requests,
    classification_prompts,
    joined_texts,
    make_groups,
    make_rows,
)
from rir_mlx.speed.work import Sizes, Work, forward, scoring, writing
from rir_mlx.types import BackendName, Dtype

_BATCHES = 16
"""Batches of rows to train on; then they come again."""


def device(backend_name: BackendName) -> dict[str, Any]:
    """The device's name, and that of the GPU if it is one."""
    backend = open_backend(backend_name)
    return {"device": backend.device().name, "accelerator": backend.facts().accelerator}


def limits(backend_name: BackendName, dtype: Dtype, seconds: float) -> dict[str, Any]:
    """The device, the number format that it computes in, and its limits."""
    backend = open_backend(backend_name)
    named = dtype if dtype != "auto" else "bfloat16" if backend.facts().bfloat16 else "float32"
    return device(backend_name) | {"limits": asdict(measured_limits(backend, named, seconds))}


def measure(job: Job) -> dict[str, Any]:
    """Rows and tokens a second in each round, peak memory and, of `ours`, the least work of a round."""
    codec = Codec(Path(job.folder), DATE)
    if job.task in ("qa", "qra"):
        return _training(job, codec)
    return _writing(job, codec) if job.task == "augment" else _classifying(job, codec)


def _training(job: Job, codec: Codec) -> dict[str, Any]:
    examples, _ = make_rows(codec, job.task, job.batch * _BATCHES)
    count = len(examples.rows) // job.batch * job.batch  # a batch of fewer rows would count as a whole one
    if not count:
        raise Failure(f"There are {len(examples.rows)} rows to train on, and a batch of {job.batch} needs more.")
    examples = replace(examples, rows=examples.rows[:count])
    meter = Meter(job)
    TRAINERS[job.peer](job, examples, make_groups(examples, job.batch), meter)
    found, counted = meter.measured(), meter.works[job.warmup :]
    rates = [meter.batch / seconds for seconds in found["seconds"]]
    tokens = [rate * found["tokens a row"] for rate in rates]
    works = [asdict(work) for work in counted]
    result = _result(meter.batch, found["seconds"], (rates, tokens), found["peak GB"], [[work] for work in works])
    return result | {"settings": meter.settings}


def _writing(job: Job, codec: Codec) -> dict[str, Any]:
    lengths = job.reasonings()
    prefix, requests = augmentation_requests(codec, joined_texts(len(lengths)), lengths)
    model, place = load(job)
    write, peak = WRITERS[job.backend][job.peer], watch_memory(place)

    def work(rows: int) -> None:
        # The first rows, whatever their lengths: these are the rows of a program that gets fewer from the start.
        shortest_first = sorted(requests[:rows], key=lambda request: len(request.tokens))
        done = {key: len(tokens) for key, tokens in write(job, model, prefix, shortest_first)}
        if done != dict(enumerate(lengths[:rows])):
            wanted = f"{sum(lengths[:rows])} tokens in {rows} rows"
            raise RuntimeError(f"{job.peer} wrote {sum(done.values())} tokens in {len(done)} rows, not {wanted}")

    rows, seconds = _rounds(job, work)
    least: list[Work] = []
    if job.peer == "ours":
        own = [len(request.tokens) for request in requests[:rows]]
        least = writing(_sizes(job, model), own, lengths[:rows], len(prefix), job.batch)
    rates = [rows / taken for taken in seconds]
    written = [rate * statistics.mean(lengths[:rows]) for rate in rates]
    return _result(rows, seconds, (rates, written), peak(), _repeated(least, seconds))


def _classifying(job: Job, codec: Codec) -> dict[str, Any]:
    lengths, arm = job.reasonings(), "qra" if job.task == "reasoning" else "qa"
    given = classification_prompts(codec, joined_texts(len(lengths)), arm, lengths)  # type: ignore[arg-type]
    model, place = load(job)
    peak = watch_memory(place)
    rows, seconds = _rounds(job, lambda rows: CLASSIFY[job.peer](job, model, given.first(rows)))
    chosen = given.first(rows)
    own, before = [len(row) for row in chosen.rows], len(given.prefix)
    least: list[Work] = []
    if job.peer == "ours":
        sizes = _sizes(job, model)
        ends = [length + written + len(given.delimiter) for length, written in zip(own, chosen.lengths, strict=True)]
        least = [scoring(sizes, ends, before, given.options)]
        least += (
            writing(sizes, own, chosen.lengths, before, job.batch)
            if any(chosen.lengths)
            else [forward(sizes, [before], 0, 0)]
        )
    rates = [rows / taken for taken in seconds]
    tokens = [rate * (statistics.mean(own) + statistics.mean(chosen.lengths)) for rate in rates]
    return _result(rows, seconds, (rates, tokens), peak(), _repeated(least, seconds))


def _rounds(job: Job, work: Callable[[int], object]) -> tuple[int, list[float]]:
    """How many rows a round has, and the seconds of each. `ours` may try fewer first; a peer gets as many. One row runs
    before, which is never counted: the first one loads libraries and compiles."""
    rows = job.rows or job.batch
    if job.may_shrink:
        rows = fitting_rows(work, rows, job.seconds)
    else:
        work(1)
    first = timed(lambda: work(rows))  # not counted, unless there is no time for another
    seconds: list[float] = []
    while first < job.seconds and sum(seconds) < job.seconds:
        seconds.append(timed(lambda: work(rows)))
    return rows, seconds or [first]


def _sizes(job: Job, model: Any) -> Sizes:
    shape = ModelShape.of(read_config(Path(job.folder)))
    return Sizes(shape, model.weight_bytes, 4 if job.dtype == "float32" else 2)


def _repeated(least: list[Work], seconds: list[float]) -> list[list[dict[str, float]]]:
    return [[asdict(work) for work in least]] * len(seconds) if least else []


def _result(
    rows: int,
    seconds: list[float],
    rates: tuple[list[float], list[float]],
    peak: float,
    works: list[list[dict[str, float]]],
) -> dict[str, Any]:
    measured = {"rows": rows, "seconds": seconds, "rows/s": rates[0], "tokens/s": rates[1], "peak GB": peak}
    return measured | {"works": works}


def main() -> None:
    given = json.loads(sys.argv[1])
    try:
        with contextlib.redirect_stdout(sys.stderr):
            asked: Callable[..., dict[str, Any]] = limits if "seconds" in given else device
            measured = measure(Job(**given)) if "peer" in given else asked(**given)
    except RirError as error:
        sys.exit(f"{type(error).__name__}: {error.what}")  # the last line is what the other process shows
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
