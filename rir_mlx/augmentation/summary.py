"""Counts of augmented rows, kept in constant memory however many rows there are."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rir_mlx.augmentation.job import AugmentedRow
from rir_mlx.augmentation.model_output import MOST_TOKENS
from rir_mlx.progress import counted

_FEW = 0.5
"""Warn about a label if its share of kept rows is below this fraction of the overall share."""


class AugmentationSummary:
    """What was kept and what was rejected, by reason, label, attempt and length. `labels_of` are the labels of a row,
    from its label: several if that is a combination."""

    def __init__(self, labels_of: Callable[[str], Sequence[str]] = lambda label: (label,)) -> None:
        self.labels_of = labels_of
        self.total = self.total_kept = 0
        self.rows, self.kept = Counter[str](), Counter[str]()
        self.rejected, self.attempts = Counter[str](), Counter[int]()
        self.rejected_by_label: dict[str, Counter[str]] = {}
        self.lengths, self.margins = array("i"), array("d")
        self.tokens = self.given = self.tied = self.trimmed = 0

    def add(self, augmented: AugmentedRow) -> None:
        labels = self.labels_of(augmented.row.label)
        self.total += 1
        self.rows.update(labels)
        given = augmented.row.reasoning is not None
        self.given += given
        self.trimmed += augmented.trimmed
        for candidate in augmented.rejected:
            self.rejected[candidate.rejected or ""] += 1
            for label in labels:
                self.rejected_by_label.setdefault(label, Counter())[candidate.rejected or ""] += 1
            self.tokens += 0 if given else min(candidate.tokens, MOST_TOKENS)
        if augmented.kept is None:
            return
        self.total_kept += 1
        self.kept.update(labels)
        tokens = min(augmented.kept["tokens"], MOST_TOKENS)
        self.lengths.append(tokens)
        self.tokens += 0 if given else tokens
        self.attempts[augmented.kept["provenance"].get("attempt", 0)] += 1
        if choice := augmented.kept.get("choice"):
            self.margins.append(choice["margin"])
            self.tied += choice["tied"]

    def values(self) -> dict[str, Any]:
        """`rejected` and `rejected_by_label` count reasonings, of which a row may have several before one is kept;
        everything else counts rows, those with several labels for each. `tokens` were generated; lengths are those of
        the kept reasonings, in tokens."""
        values: dict[str, Any] = {
            "rows": self.total,
            "kept": self.total_kept,
            "given": self.given,
            "trimmed": self.trimmed,
            "rejected": dict(self.rejected.most_common()),
            "rejected_by_label": {
                label: dict(found.most_common()) for label, found in sorted(self.rejected_by_label.items())
            },
            "rows_by_label": dict(sorted(self.rows.items())),
            "kept_by_label": {label: self.kept[label] / count for label, count in sorted(self.rows.items())},
            "kept_by_attempt": {str(number): count for number, count in sorted(self.attempts.items())},
            "tokens": self.tokens,
            "lengths": _quantiles(self.lengths),
        }
        if self.margins:
            margins = np.array(self.margins)
            chosen = {"rows": len(margins), "tied": self.tied, "mean_margin": float(margins.mean())}
            values["chosen"] = chosen | {"median_margin": float(np.median(margins))}
        return values

    def warnings(self) -> list[str]:
        """Warnings about trimmed texts, refused requests, and labels with few kept rows."""
        overall = self.total_kept / max(1, self.total)
        found = []
        if self.trimmed:
            found.append(
                f"{self.trimmed:,} texts were cut at their end to leave room for the reasoning: raise max_seq_length, "
                "or lower augment.max_tokens."
            )
        counts = {what: self.rejected[reason] for reason, what in (("refused", "refused"), ("failed", "failed on"))}
        if any(counts.values()):
            refusals = " and ".join(f"{what} {count:,} requests" for what, count in counts.items() if count)
            found.append(
                f"the server {refusals}; its answers are in journal.jsonl. "
                "`rir-mlx augment --retry-refused` tries these again."
            )
        if thinking := self.rejected["thinking"]:
            found.append(
                f"{thinking:,} answers were a model's thoughts and nothing else: turn its thinking off on the server, "
                "or raise augment.max_tokens."
            )
        poor = {
            label: count
            for label, count in sorted(self.rows.items())
            if not self.kept[label] or self.kept[label] / count < _FEW * overall
        }
        return found + [
            f"of {counted(count, 'row')} with the label {label!r} {self.kept[label]:,} "
            f"{'has' if self.kept[label] == 1 else 'have'} a reasoning that was kept ({self.kept[label] / count:.0%}, "
            f"{overall:.0%} overall)."
            for label, count in poor.items()
        ]


def _quantiles(lengths: array[int]) -> dict[str, float]:
    if not lengths:
        return {}
    values = np.array(lengths)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"mean": float(values.mean()), "p5": low, "p50": middle, "p95": high, "max": int(values.max())}
