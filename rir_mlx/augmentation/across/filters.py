"""The filters that look across rows, once all rows have a reasoning: no row shows by itself what they reject.

stock          at least five texts share the reasoning, and it is about none of them (`stock.py`)
ungrounded     no word of it occurs in its text; applied only if that costs few validation rows their reasoning
uninformative  its mutual information with its text is below a threshold found on validation rows (`information.py`)
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.augmentation.across.information import (
    GROUP,
    Likelihoods,
    TextGroup,
    Threshold,
    chance_information,
    information,
    text_groups,
    threshold_of,
)
from rir_mlx.augmentation.across.stock import StockReasonings
from rir_mlx.augmentation.job import AugmentationJob, AugmentedRow, Candidate
from rir_mlx.data.rows import Row
from rir_mlx.progress import Progress
from rir_mlx.storage.digests import digest_of
from rir_mlx.types import FILTERS_ACROSS_ROWS, Filter

_FEW = 20
"""Fewer validation rows than this tell too little: all rows are measured."""


class FiltersAcrossRows:
    """Judges a job's candidates that pass the filters of a row. What is measured, is measured on the rows numbered
    `validation`. `most` is the share of them that `ungrounded` may cost their reasoning; `scorer` names the model and
    the prompt that find reasonings likely. Where `uninformative` is not among the filters, the mutual information of
    at most so many `sampled` rows is measured, as many of each label, and rejects none."""

    def __init__(self, job: AugmentationJob, validation: range, most: float, scorer: str, sampled: int = 0) -> None:
        self._job, self._most, self._scorer = job, most, scorer
        self._names = job.filters.names
        self._measured = validation if len(validation) >= _FEW else range(len(job.rows))
        self._stock = StockReasonings(job.filters)
        self._cost: float | None = None
        self._rejects, self._sampled = "uninformative" in job.filters.names, sampled
        self._threshold = Threshold(None, 0)
        self._information: dict[str, array[float]] = {}
        self._uninformative: frozenset[int] = frozenset()

    def read(self) -> None:
        """Count how many texts share each candidate, and what `ungrounded` would cost."""
        if self._names.isdisjoint(FILTERS_ACROSS_ROWS):
            return
        for row in self._job.rows:
            for candidate in self._job.passed(row)[0]:
                self._stock.add(row.text, candidate.reasoning)
        if "ungrounded" in self._names:
            self._cost = self._cost_of_ungrounded()

    def _cost_of_ungrounded(self) -> float:
        """The share of the measured rows with a reasoning that `ungrounded` would leave without one. Stock reasonings
        are no loss: they go in any case."""
        rows = lost = 0
        for number in self._measured:
            row = self._job.rows[number]
            kept = [one for one in self._job.passed(row)[0] if not self._is_stock(row, one)]
            rows += bool(kept)
            lost += bool(kept) and not any(self._job.filters.is_grounded(row.text, one.reasoning) for one in kept)
        return lost / max(1, rows)

    def _is_stock(self, row: Row, candidate: Candidate) -> bool:
        return "stock" in self._names and self._stock.is_stock(row.text, candidate.reasoning)

    def __call__(self, row: Row, candidate: Candidate) -> Filter | None:
        """The reason to reject a candidate, or None."""
        if (reason := self._by_words(row, candidate)) is not None:
            return reason
        return "uninformative" if candidate.key and int(candidate.key, 16) in self._uninformative else None

    def _by_words(self, row: Row, candidate: Candidate) -> Filter | None:
        if self._is_stock(row, candidate):
            return "stock"
        if self._applies_ungrounded and not self._job.filters.is_grounded(row.text, candidate.reasoning):
            return "ungrounded"
        return None

    @property
    def _applies_ungrounded(self) -> bool:
        return self._cost is not None and self._cost <= self._most

    # mutual information

    def due(self) -> int:
        """How many groups of texts are still to be scored."""
        return sum(self._key(group, candidates) not in self._job.journal for group, candidates in self._groups())

    def score(self, likelihoods: Likelihoods, progress: Progress, stopped: Callable[[], bool] = lambda: False) -> None:
        """Score what is due, and append it to the journal."""
        with progress.task("mutual information", self.due()) as task:
            for group, candidates in self._groups():
                if stopped():
                    return
                if (key := self._key(group, candidates)) not in self._job.journal:
                    reasonings = [candidate.reasoning for _, candidate in candidates]
                    scores = likelihoods.log_probabilities(group.label, group.texts, reasonings)
                    self._job.journal.append({"key": key, "log_probabilities": scores.T.tolist()})
                    task.advance()

    def measure(self) -> None:
        """From what was scored: each candidate's mutual information with its text, and the threshold."""
        keys, values, chance = array("Q"), array("d"), array("d")
        self._information = {}
        for group, candidates in self._groups():
            scored = self._job.journal.get(self._key(group, candidates)) or {}
            for (own, candidate), scores in zip(candidates, np.array(scored["log_probabilities"]), strict=True):
                keys.append(int(candidate.key, 16))
                values.append(information(scores, own))
                self._information.setdefault(group.label, array("d")).append(values[-1])
                if group.numbers[own] in self._measured:
                    chance.extend(chance_information(scores, own))
        self._threshold = threshold_of(chance)
        if self._rejects:
            self._uninformative = frozenset(np.array(keys)[self._below(values)].tolist())

    def _below(self, values: Sequence[float]) -> NDArray[np.bool_]:
        """Which are below the threshold; none without one."""
        nats = self._threshold.nats
        return np.asarray(values) < (-np.inf if nats is None else nats)

    def _groups(self) -> Iterator[tuple[TextGroup, list[tuple[int, Candidate]]]]:
        """Texts of a label, and their candidates, each with the index of its text. A person's reasonings are not among
        them: they were written for their texts."""
        if not (self._rejects or self._sampled):
            return
        rows = self._job.rows
        generated = ((number, row.text, row.label) for number, row in enumerate(rows) if self._candidates(row))
        groups = text_groups(generated, lambda number: rows[number].text)
        for group in groups if self._rejects else self._few(groups):
            found = [(own, one) for own, number in enumerate(group.numbers) for one in self._candidates(rows[number])]
            yield group, found

    def _few(self, groups: Iterator[TextGroup]) -> Iterator[TextGroup]:
        """As many groups of each label as the sampled rows allow; one of each of the first labels where these are too
        many. Groups come sorted by label."""
        labels, most = len({row.label for row in self._job.rows}), max(1, self._sampled // GROUP)
        of_each = max(1, most // max(1, labels))
        few = (
            group for _, of_label in groupby(groups, lambda group: group.label) for group in islice(of_label, of_each)
        )
        yield from islice(few, most)

    def _candidates(self, row: Row) -> list[Candidate]:
        kept = [] if row.reasoning is not None else self._job.passed(row)[0]
        return [candidate for candidate in kept if self._by_words(row, candidate) is None]

    # what came out

    def count(self, outcome: AugmentedRow) -> None:
        """Count what was rejected in a row."""
        self._stock.count(outcome)

    def values(self) -> dict[str, Any]:
        """`stock` reasonings of each label; the `cost` of `ungrounded`, as a share of the rows that have a reasoning;
        of the mutual information the threshold in nats, None without `pairs` to find it from, whether it is applied,
        and for each label how many reasonings were measured, their median and how many are below the threshold."""
        found: dict[str, Any] = {"stock": self._stock.values()}
        if self._cost is not None:
            found["ungrounded"] = {"applied": self._applies_ungrounded, "cost": self._cost, "at_most": self._most}
        if self._information:
            by_label = {
                label: {
                    "reasonings": len(values),
                    "median": float(np.median(values)),
                    "below": int(np.sum(self._below(values))),
                }
                for label, values in sorted(self._information.items())
            }
            found["mutual_information"] = {
                "threshold": self._threshold.nats,
                "pairs": self._threshold.pairs,
                "applied": self._rejects,
                "by_label": by_label,
            }
        return found

    def lines(self) -> Iterator[str]:
        """What was measured and decided, in words."""
        where = "all rows" if len(self._measured) == len(self._job.rows) else "the validation rows"
        if self._cost is not None:
            decided = "is applied: it costs" if self._applies_ungrounded else "is not applied: it would cost"
            yield (
                f"The filter ungrounded {decided} {self._cost:.0%} of {where} their reasoning "
                f"(augment.ungrounded_at_most: {self._most:.0%})."
            )
        if self._information:
            yield f"Mutual information of reasoning and text: {self._said_of_information(where)}"

    def _said_of_information(self, where: str) -> str:
        values, found = [value for each in self._information.values() for value in each], self._threshold
        if not self._rejects:
            return f"{np.median(values):.2f} nats (median of {len(values):,} reasonings). It rejects none."
        if found.nats is None:
            return (
                "too few texts a label for a threshold, which takes three of one label with a reasoning, so the filter "
                f"uninformative rejects none of {len(values):,} reasonings."
            )
        return (
            f"{len(self._uninformative):,} of {len(values):,} reasonings are below {found.nats:.2f} nats, which "
            f"{found.exceeding:.0%} of {found.pairs:,} pairs of a reasoning of {where} and another text of its label "
            "exceed."
        )

    def _key(self, group: TextGroup, candidates: Sequence[tuple[int, Candidate]]) -> str:
        keys = [candidate.key for _, candidate in candidates]
        return digest_of(["mutual information", self._scorer, group.label, group.texts, keys])
