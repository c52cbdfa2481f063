"""A reasoning for every labelled row: written by an engine, judged, written again where it is rejected, and chosen.

All that is slow goes to the journal at once, keyed by all that decides it. What is due follows from the rows and the
journal alone, so that a job that was stopped at any moment continues where it was, and the rows and the journal's
index are all that is in memory.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from rir_mlx import __version__
from rir_mlx.augmentation.engines.base import Engine, GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.backends.base import Sampling
from rir_mlx.classification.classifier import Classifier
from rir_mlx.data.rows import Row
from rir_mlx.progress import Progress
from rir_mlx.storage.digests import digest_of
from rir_mlx.storage.journal import Journal

_RETRY_TEMPERATURE = 0.7
_STRETCH = 1024
"""Rows that are looked at together, so that texts of like length meet."""
_SCORED = 64
"""Rows whose candidates are scored together."""
_SHOWN_EVERY = 0.2
_KEPT, _REJECTED, _JUDGED_OTHERWISE = range(3)


@dataclass(frozen=True)
class AugmentationSettings:
    """All that decides what is written beside the row and the engine: `prompt` is a digest of what stands around the
    text. `n` reasonings are written for a row; where all are rejected, again up to `retries` times. `scorer` names the
    model that chooses among several."""

    prompt: str
    sampling: Sampling
    seed: int
    n: int = 1
    retries: int = 0
    scorer: str = ""

    def attempt(self, number: int) -> Sampling:
        """Another attempt at the likeliest text would be the same text, so attempts after the first are drawn."""
        warm = max(self.sampling.temperature, _RETRY_TEMPERATURE)
        return self.sampling if number == 0 else replace(self.sampling, temperature=warm)


@dataclass(frozen=True)
class Candidate:
    """A reasoning that was written for a row: the `k`-th of an attempt. `rejected` says why it is not used, `trimmed`
    how many tokens of the text its writer did not see."""

    key: str
    k: int
    attempt: int
    reasoning: str
    tokens: int
    rejected: str | None
    trimmed: int = 0
    version: str = __version__


@dataclass(frozen=True)
class AugmentedRow:
    """What came of a row: the record that is kept, if any, and every candidate that was rejected on the way."""

    row: Row
    kept: dict[str, Any] | None
    rejected: list[Candidate]
    trimmed: bool = False


def flag(judge: ReasoningFilters) -> Callable[[dict[str, Any]], int]:
    """What the journal's index remembers of a result."""

    def of(result: dict[str, Any]) -> int:
        if result.get("filters", result.get("gates", judge.digest)) != judge.digest:
            return _JUDGED_OTHERWISE
        return _KEPT if result.get("rejected") is None else _REJECTED

    return of


class AugmentationJob:
    """One job on some rows. Rows that have a reasoning of their own are judged, and never written."""

    def __init__(
        self,
        rows: Sequence[Row],
        job: AugmentationSettings,
        engine: Mapping[str, str],
        judge: ReasoningFilters,
        journal: Journal,
    ) -> None:
        self.rows, self.job, self.judge, self.journal = rows, job, judge, journal
        self.engine = {name: value for name, value in engine.items() if name != "server"}  # which may move
        self._bases = [
            hashlib.sha256(json.dumps([self.engine, job.prompt, job.seed, self._sampled(attempt)]).encode())
            for attempt in range(job.retries + 1)
        ]

    def _sampled(self, attempt: int) -> dict[str, float]:
        sampling = self.job.attempt(attempt)
        names = ("max_tokens", "temperature", "top_p", "min_p", "repetition_penalty")
        return {name: getattr(sampling, name) for name in names}

    def _key(self, row: Row, k: int, attempt: int) -> str:
        digest = self._bases[attempt].copy()
        digest.update(f"\0{row.text}\0{row.label}\0{k}\0{attempt}".encode())
        return digest.hexdigest()[:16]

    # writing

    def write(self, engine: Engine, progress: Progress, stopped: Callable[[], bool] = lambda: False) -> None:
        """Write and judge all that is due. Once `stopped`, what is being written is finished and nothing else begun."""
        for attempt in range(self.job.retries + 1):
            due = self.due(attempt)
            if not due or stopped():
                continue
            what = "augment" if attempt == 0 else f"augment, rejected rows again ({attempt} of {self.job.retries})"
            writing: dict[str, Row] = {}
            with progress.task(what, due) as task:
                shown = _Shown(task)
                orders = self._orders(attempt, writing, stopped)
                for written in engine.write(orders, self.job.attempt(attempt)):
                    shown.add(written, self._judged(writing.pop(written.key), written))
                shown.end()

    def due(self, attempt: int) -> int:
        """How many reasonings an attempt has still to write; rows that are alike count once."""
        return _distinct(key for key, _ in self._due(attempt))

    def is_due(self) -> bool:
        return any(True for attempt in range(self.job.retries + 1) for _ in self._due(attempt))

    def total(self) -> int:
        """How many reasonings the first attempt writes in all."""
        written = (row for row in self.rows if row.reasoning is None)
        return _distinct(self._key(row, k, 0) for row in written for k in range(self.job.n))

    def _due(self, attempt: int) -> Iterator[tuple[str, Row]]:
        for row in self.rows:
            if row.reasoning is not None or not all(self._all_rejected(row, before) for before in range(attempt)):
                continue
            for k in range(self.job.n):
                if (key := self._key(row, k, attempt)) not in self.journal:
                    yield key, row

    def _all_rejected(self, row: Row, attempt: int) -> bool:
        return all(self._status(row, self._key(row, k, attempt)) == _REJECTED for k in range(self.job.n))

    def _status(self, row: Row, key: str) -> int | None:
        known = self.journal.flag_of(key)
        if known != _JUDGED_OTHERWISE:
            return known
        result = self.journal.get(key)
        return _REJECTED if result and self._rejected(row, result) else _KEPT

    def _rejected(self, row: Row, result: Mapping[str, Any]) -> str | None:
        """Why a result in the journal is rejected, by the rules of today."""
        if result["rejected"] == "refused":
            return "refused"
        if result.get("filters", result.get("gates")) == self.judge.digest:
            stored: str | None = result["rejected"]
            return stored
        how = (result["finish_reason"], result.get("control", False))
        return self.judge(row.text, row.label, result["reasoning"], *how)

    def _orders(self, attempt: int, writing: dict[str, Row], stopped: Callable[[], bool]) -> Iterator[ReasoningRequest]:
        due = self._due(attempt)
        while stretch := list(islice(due, _STRETCH)):
            for key, row in sorted(stretch, key=lambda pair: len(pair[1].text)):
                if stopped():
                    return
                if key not in writing and key not in self.journal:  # rows that are alike are written once
                    writing[key] = row
                    yield ReasoningRequest(key, row.text, row.label, seed=int(key, 16) >> 1)

    def _judged(self, row: Row, written: GeneratedReasoning) -> bool:
        """Put what was written into the journal; whether it is kept."""
        how = (written.finish_reason, written.control)
        rejected = "refused" if written.refused else self.judge(row.text, row.label, written.text, *how)
        result: dict[str, Any] = {
            "key": written.key,
            "rejected": rejected,
            "filters": self.judge.digest,
            "reasoning": written.text,
        }
        result |= {"tokens": written.tokens, "finish_reason": written.finish_reason}
        result["version"] = __version__
        rare = {"control": written.control, "trimmed": written.trimmed, "refused": written.refused}
        self.journal.append(result | {name: value for name, value in rare.items() if value})
        return rejected is None

    # choosing

    def choices_due(self) -> int:
        return sum(1 for _ in self._choices())

    def choose(self, scorer: Classifier, progress: Progress, *, batch_size: int, stopped: Callable[[], bool]) -> None:
        """For rows of which several reasonings were kept: how likely each makes the label, with the words of all
        labels blanked out. `scorer` reads a text and a reasoning."""
        places = {name: place for place, name in enumerate(scorer.task.names)}
        with progress.task("choose", self.choices_due()) as task:
            choices = self._choices()
            while not stopped() and (stretch := list(islice(choices, _SCORED))):
                rows = [(row, one) for _, row, candidates in stretch for one in candidates]
                reasonings = [self.judge.labels.masked(one.reasoning) for _, one in rows]
                read = scorer.given([row.text for row, _ in rows], reasonings, batch_size)
                chance = np.exp(read.log_probabilities).tolist()
                chances = iter([one[places[row.label]] for (row, _), one in zip(rows, chance, strict=True)])
                for key, _, candidates in stretch:
                    self.journal.append({"key": key, "chances": [next(chances) for _ in candidates]})
                task.advance(len(stretch))

    def _choices(self) -> Iterator[tuple[str, Row, list[Candidate]]]:
        if self.job.n == 1:
            return
        for row in self.rows:
            kept, _ = self._candidates(row)
            if len(kept) > 1 and (key := self._choice_key(kept)) not in self.journal:
                yield key, row, kept

    def _choice_key(self, kept: Sequence[Candidate]) -> str:
        return digest_of([self.job.scorer, *(one.key for one in kept)])

    # results

    def _candidates(self, row: Row) -> tuple[list[Candidate], list[Candidate]]:
        """What was kept for a row, of the first attempt of which anything was, and all that was rejected until then."""
        rejected: list[Candidate] = []
        for attempt in range(self.job.retries + 1):
            kept: list[Candidate] = []
            for k in range(self.job.n):
                key = self._key(row, k, attempt)
                if (result := self.journal.get(key)) is not None:
                    why = self._rejected(row, result)
                    rest = (result.get("trimmed", 0), result.get("version", __version__))
                    one = Candidate(key, k, attempt, result["reasoning"], result["tokens"], why, *rest)
                    (rejected if why else kept).append(one)
            if kept:
                return kept, rejected
        return [], rejected

    def outcomes(self) -> Iterator[AugmentedRow]:
        """What came of each row, in their order. Rows that are not written yet come out with nothing."""
        for row in self.rows:
            if row.reasoning is not None:
                yield self._own(row)
                continue
            kept, rejected = self._candidates(row)
            trimmed = any(one.trimmed for one in (*kept, *rejected))
            yield AugmentedRow(row, self._record(row, kept) if kept else None, rejected, trimmed)

    def _own(self, row: Row) -> AugmentedRow:
        reasoning = row.reasoning or ""
        tokens = len(self.judge.codec.given(reasoning))
        why = self.judge(row.text, row.label, reasoning)
        if why is not None:
            return AugmentedRow(row, None, [Candidate("", 0, 0, reasoning, tokens, why)])
        record = {"id": row.id, "text": row.text, "label": row.label, "reasoning": reasoning, "tokens": tokens}
        return AugmentedRow(row, record | {"provenance": {"engine": "given", "version": __version__}}, [])

    def _record(self, row: Row, kept: list[Candidate]) -> dict[str, Any]:
        best, choice = kept[0], {}
        if len(kept) > 1:
            chances = (self.journal.get(self._choice_key(kept)) or {})["chances"]
            order = sorted(range(len(kept)), key=lambda index: (-chances[index], index))
            best, margin = kept[order[0]], chances[order[0]] - chances[order[1]]
            choice = {"of": len(kept), "chance": chances[order[0]], "margin": margin, "tied": margin == 0}
        record = {
            "id": row.id,
            "text": row.text,
            "label": row.label,
            "reasoning": best.reasoning,
            "tokens": best.tokens,
        }
        provenance: dict[str, Any] = self.engine | {
            "prompt": self.job.prompt,
            "seed": int(best.key, 16) >> 1,
            "k": best.k,
        }
        provenance |= {"attempt": best.attempt, "sampling": self._sampled(best.attempt), "version": best.version}
        return record | ({"choice": choice} if choice else {}) | {"provenance": provenance}


def _distinct(keys: Iterable[str]) -> int:
    return len(np.unique(np.fromiter((int(key, 16) for key in keys), dtype=np.uint64)))


class _Shown:
    """Progress that is shown a few times a second, however fast rows come."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.rows = self.all_rows = self.kept = self.tokens = 0
        self.shown = time.monotonic()

    def add(self, written: GeneratedReasoning, kept: bool) -> None:
        self.rows += 1
        self.all_rows += 1
        self.kept += kept
        self.tokens += written.tokens
        if time.monotonic() - self.shown > _SHOWN_EVERY:
            self.end()

    def end(self) -> None:
        if self.rows:
            share = 100 * self.kept / self.all_rows
            self.task.advance(self.rows, tokens_written=self.tokens, percent_kept=share)
        self.rows, self.shown = 0, time.monotonic()
