"""R-Gen writes a reasoning for every labelled row, offline, and each one passes the gates or is set aside.

What was written goes to an append-only journal at once, keyed by all that decides it, so that a job that was killed
continues where it was.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import Model, Request, Sampling, Tokens
from rir_mlx.classifier import reasoning_tokens
from rir_mlx.data import Row
from rir_mlx.errors import Failure
from rir_mlx.progress import Progress
from rir_mlx.prompts import DELIMITER, rgen_row_prompt
from rir_mlx.run import digest_of
from rir_mlx.tokens import Codec


@dataclass(frozen=True)
class Job:
    """What to augment, and all that decides what R-Gen writes. `adapter` is the digest of R-Gen's adapter."""

    labels: Sequence[str]
    instruction: str
    sampling: Sampling
    seed: int
    adapter: str
    max_seq_length: int

    def key(self, row: Row, prompt: Tokens) -> str:
        """Same key, same text: rows that are alike are written once."""
        settings = (self.sampling.max_tokens, self.sampling.temperature, self.sampling.top_p, self.seed)
        return digest_of([row.text, row.label, prompt, self.adapter, settings])


def write_reasonings(
    model: Model, codec: Codec, rows: Sequence[Row], job: Job, *, journal: Path, progress: Progress, what: str
) -> list[dict[str, Any]]:
    """One result a row, in the rows' order: text, label, reasoning, tokens, and `rejected` with a reason or None."""
    prompts = [
        codec.encode(
            rgen_row_prompt(row.text, row.label, job.labels, job.instruction),
            job.max_seq_length - job.sampling.max_tokens,
        )
        for row in rows
    ]
    keys = [job.key(row, prompt.head + prompt.row) for row, prompt in zip(rows, prompts, strict=True)]
    written = dict(read_journal(journal))
    waiting = {key: index for index, key in enumerate(keys) if key not in written}
    if found := len(set(keys)) - len(waiting):
        progress.say(f"{found:,} of {len(set(keys)):,} reasonings are written already.")
    requests = [Request(index, prompts[index].row, seed=int(key[:8], 16) ^ job.seed) for key, index in waiting.items()]
    with _appending(journal) as append, progress.task(what, len(waiting)) as task:
        total = 0
        for completion in model.generate(requests, job.sampling, prefix=prompts[0].head if prompts else ()):
            key = keys[completion.key]
            result = {
                "key": key,
                "reasoning": codec.decode(completion.tokens),
                "tokens": len(completion.tokens),
                "rejected": gate(codec, completion.tokens, completion.finish_reason),
            }
            append(result)
            written[key] = result
            total += len(completion.tokens)
            task.advance(1, tokens_written=total)
    return [
        {"text": row.text, "label": row.label} | {k: v for k, v in written[key].items() if k != "key"}
        for row, key in zip(rows, keys, strict=True)
    ]


def gate(codec: Codec, tokens: Tokens, finish_reason: str) -> str | None:
    """Why a reasoning is not fit to learn from; None where it is.

    empty      nothing but white space
    cut off    it reached the limit before it ended
    control    a control token stands inside it
    delimiter  it holds the text that separates a reasoning from its label
    """
    if finish_reason == "length":
        return "cut off"
    if codec.has_control(tokens):
        return "control"
    text = codec.decode(tokens)
    if not text.strip():
        return "empty"
    if DELIMITER.strip() in text or codec.decode(reasoning_tokens(codec, text)).count(DELIMITER) != 1:
        return "delimiter"
    return None


def statistics(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """How many reasonings were kept, why others were not, and the keep-rate of each label."""
    results = list(results)
    kept = [result for result in results if result["rejected"] is None]
    totals = Counter(result["label"] for result in results)
    kept_by_label = Counter(result["label"] for result in kept)
    return {
        "rows": len(results),
        "kept": len(kept),
        "rejected": dict(Counter(result["rejected"] for result in results if result["rejected"] is not None)),
        "kept_by_label": {label: kept_by_label[label] / count for label, count in sorted(totals.items())},
        "tokens": sum(result["tokens"] for result in results),
        "mean_tokens_kept": sum(result["tokens"] for result in kept) / max(1, len(kept)),
    }


def read_journal(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, result) of each whole line. A last line that a kill cut short is cut from the file."""
    if not path.is_file():
        return
    whole = 0
    with path.open("rb") as file:
        for line in file:
            try:
                result = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                result = None
            if result is None:
                break
            whole += len(line)
            yield result["key"], result
    if whole < path.stat().st_size:
        os.truncate(path, whole)


class _appending:  # noqa: N801 (used as a function)
    """A function that appends one JSON line to a file and flushes it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Any:
        def append(result: dict[str, Any]) -> None:
            try:
                self.file.write(json.dumps(result, ensure_ascii=False) + "\n")
                self.file.flush()
            except OSError as error:
                raise Failure(
                    f"{self.file.name} could not be written: {error.strerror}. What was written before is kept.",
                    mend="Make room and run the same command again; it continues.",
                ) from error

        return append

    def __exit__(self, *_: object) -> None:
        self.file.close()
