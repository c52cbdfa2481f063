"""What is judged, and the comparisons of its classifiers that every sentence rests on.

The headline, the recommendation and the warnings ask the same `Case`, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rir_mlx.evaluation.comparison import accuracy, shown_difference
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement.learning import Change, Lines, Spread, still_falling, unstable
from rir_mlx.evaluation.schema import EntryResult
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.statistics.intervals import LEVEL, Interval
from rir_mlx.statistics.metrics import metric_intervals

USEFUL = 0.05
"""A gain in accuracy from which a classifier is worth having. Nothing is said to be absent that rows this few hide."""

Journals = Mapping[str, Sequence[Lines]]
"""The lines of metrics.jsonl of each trained entry and seed."""


@dataclass(frozen=True)
class Case:
    """What is judged.

    entries   arms, controls and baselines
    results   their lines of the comparison, in the same order
    majority  the most frequent training label as an entry, whether or not it is among the baselines
    journals  the metrics.jsonl of each trained entry and seed
    """

    entries: Sequence[EntryPredictions]
    results: Sequence[EntryResult]
    rows: EvaluationRows
    majority: EntryPredictions
    journals: Journals = field(default_factory=dict)

    @property
    def most_frequent(self) -> str:
        return self.rows.labels[int(self.majority.probabilities[0, 0].argmax())]

    @property
    def arms(self) -> list[EntryPredictions]:
        """Without controls."""
        return [entry for entry in self.entries if entry.kind == "arm"]

    @property
    def baselines(self) -> list[EntryPredictions]:
        return [entry for entry in self.entries if entry.kind == "baseline"]

    @property
    def all_seen(self) -> bool:
        """Whether there are test rows, but no clean one: what is measured on them shows nothing of new texts."""
        return len(self.rows.test) > 0 and not self.rows.clean.any()

    @cached_property
    def one_label(self) -> str | None:
        """The label of all test rows that are compared, if there are several and they have no other: they show nothing
        of what was learned."""
        found = np.unique(self.rows.test[self.rows.compared], return_counts=True)
        return self.rows.labels[int(found[0][0])] if len(found[0]) == 1 and found[1][0] > 1 else None

    @cached_property
    def beyond_chance(self) -> list[str]:
        """The arms whose labels agree with the true ones more than by chance (MCC), whatever their accuracy; corrected
        for the number of arms, any of which may do so by chance."""
        truth, kept, level = self.rows.test[self.rows.compared], self.rows.compared, 1 - (1 - LEVEL) / len(self.arms)
        agreement = {
            arm.name: metric_intervals(truth, arm.probabilities[:, kept], probabilistic=False, level=level)["mcc"]
            for arm in self.arms
        }
        return [name for name, found in agreement.items() if found is not None and found.low > 0]

    @cached_property
    def early(self) -> dict[str, Change]:
        """The entries whose loss was still falling at the end, with the largest fall among their seeds."""
        return largest({name: [still_falling(lines) for lines in seeds] for name, seeds in self.journals.items()})

    @cached_property
    def spreads(self) -> dict[str, Spread]:
        """The entries whose seeds differ by more than the draw of the test rows can explain."""
        rows = self.rows
        hits = {
            entry.name: (entry.probabilities.argmax(-1) == rows.test)[:, rows.compared].astype(np.float64)
            for entry in self.entries
            if entry.kind != "baseline"
        }
        return {name: spread for name, correct in hits.items() if (spread := unstable(correct)) is not None}

    def difference(self, first: EntryPredictions, second: EntryPredictions) -> tuple[Interval, int]:
        """How much better the second one's classifiers are on rows like these, and whether they are shown to be better
        (1), worse (-1) or neither (0). It is corrected for the number of reasoning arms and, beside a baseline, of
        baselines, as `EntryResult.beats` is."""
        with_baseline = "baseline" in (first.kind, second.kind)
        return shown_difference(first, second, self.rows, self.compared(with_baseline=with_baseline))

    def compared(self, *, with_baseline: bool) -> int:
        """How many comparisons one is judged together with, itself included."""
        arms = max(1, sum(entry.is_reasoning_arm for entry in self.entries))
        return arms * max(1, len(self.baselines)) if with_baseline else arms

    def is_better(self, first: EntryPredictions, second: EntryPredictions) -> bool:
        """Whether the second one's classifiers are shown to be better."""
        return self.difference(first, second)[1] > 0

    def learned(self, entries: Sequence[EntryPredictions]) -> bool | None:
        """Whether some of the entries is shown to beat the most frequent label: False if a useful gain is excluded for
        all of them, None if the test rows are too few to tell, have one label alone, or are not clean. Where the most
        frequent label leaves less than twice a useful gain, half of what it leaves is one."""
        if self.one_label is not None or self.all_seen:
            return None
        useful = min(USEFUL, (1 - accuracy(self.majority, self.rows)) / 2)
        gains = [self.difference(self.majority, entry) for entry in entries]
        if any(shown > 0 for _, shown in gains):
            return True
        return None if any(gain.high >= useful for gain, _ in gains) else False


def largest(changes: Mapping[str, Sequence[Change | None]]) -> dict[str, Change]:
    """Of each name the largest change among its seeds, if it has any."""
    found = {name: [change for change in seeds if change is not None] for name, seeds in changes.items()}
    return {
        name: max(seeds, key=lambda change: abs(change.first - change.last)) for name, seeds in found.items() if seeds
    }
