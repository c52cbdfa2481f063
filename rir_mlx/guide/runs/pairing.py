"""Two runs side by side: every arm and baseline that both have, compared on the test rows that both have.

A row is the same in both if its text and label are. Rows that either evaluation left out of its comparisons, such as
copies of training rows, are left out here. What was predicted is read from the runs' files; nothing is
computed again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.errors import UserError
from rir_mlx.evaluation.schema import Comparison, EntryResult, read_comparison
from rir_mlx.guide.runs.listing import trained_again
from rir_mlx.progress import counted, who_were
from rir_mlx.recipe.loading import parse_yaml
from rir_mlx.statistics.intervals import Interval
from rir_mlx.statistics.paired_tests import PairedComparison, compare, is_significant
from rir_mlx.storage.atomic import read_jsonl
from rir_mlx.storage.digests import changes
from rir_mlx.storage.layout import RunDir

_NOT_THE_RESULT = ("name", "revision", "backend")
_Key = tuple[str, str]


@dataclass(frozen=True)
class EntryPair:
    """An arm or baseline in two runs. The accuracies are on each run's own test rows, None if a run lacks it.
    `difference` is the second's minus the first's on the rows that both have; None if they have none in common."""

    name: str
    first: Interval | None
    second: Interval | None
    difference: PairedComparison | None

    @property
    def significant(self) -> bool:
        return self.difference is not None and is_significant(self.difference)


@dataclass(frozen=True)
class RunPair:
    """`rows` are the test rows of each run, `shared` those of both that are compared, `recipe` how the second recipe
    differs."""

    first: str
    second: str
    rows: tuple[int, int]
    shared: int
    entries: tuple[EntryPair, ...]
    recipe: tuple[str, ...]
    notes: tuple[str, ...]


def compare_runs(first: RunDir, second: RunDir) -> RunPair:
    """Two evaluated runs. Raises UserError if one was evaluated by another version."""
    comparisons = [read_comparison(run.comparison) for run in (first, second)]
    found = [{entry.name: entry for entry in comparison.entries} for comparison in comparisons]
    names = list(dict.fromkeys([*found[0], *found[1]]))
    both = [name for name in names if name in found[0] and name in found[1]]
    shared_places = _shared_places(first, second, both)
    used = [_compared(run, comparison) for run, comparison in zip((first, second), comparisons, strict=True)]
    places = [
        pair for pair in shared_places if all(mask is None or mask[at] for mask, at in zip(used, pair, strict=True))
    ]
    pairs = tuple(
        EntryPair(
            name,
            _accuracy(found[0].get(name)),
            _accuracy(found[1].get(name)),
            _paired(name, (first, second), (found[0][name], found[1][name]), places) if name in both else None,
        )
        for name in names
    )
    rows = (comparisons[0].rows.test, comparisons[1].rows.test)
    notes = _row_notes(rows, len(shared_places), len(places))
    if unknown := [run.folder.name for run, mask in zip((first, second), used, strict=True) if mask is None]:
        notes.append(
            f"Which test rows the evaluation left out is not known of {' and '.join(unknown)}, so all are paired. "
            "`rir-mlx evaluate` writes it."
        )
    if any(set(found[0][name].seeds) != set(found[1][name].seeds) for name in both):
        notes.append("The runs have other seeds: as many of each are compared as both have.")
    return RunPair(
        first.folder.name,
        second.folder.name,
        rows,
        len(places),
        pairs,
        tuple(_recipe_changes(comparisons)),
        (*notes, *_since((first, second), comparisons)),
    )


def _row_notes(rows: tuple[int, int], shared: int, paired: int) -> list[str]:
    """What to know of the rows: those of each run, those that both have, and those that are paired."""
    if not shared:
        return ["The runs have no test row in common, so nothing is paired: only the intervals can be compared."]
    notes = []
    if shared < max(rows):
        notes.append(
            f"The test rows differ: {shared:,} are in both ({rows[0]:,} and {rows[1]:,}), and only these are paired. "
            "The accuracies are on all rows of each run."
        )
    if shared > paired:
        notes.append(
            f"{counted(shared - paired, 'row')} of both left out: in one of the runs a copy of a training or "
            "validation row, or a text with two labels."
        )
    return notes


def _accuracy(entry: EntryResult | None) -> Interval | None:
    return None if entry is None else entry.metrics.accuracy


def since_measured(run: RunDir, comparison: Comparison) -> str | None:
    """That arms were trained again since a run was evaluated, in a sentence; None if none was."""
    if not (found := trained_again(run, comparison)):
        return None
    *others, last = found
    subject = who_were([*others, f"{last} of {run.folder.name}"])
    return (
        f"{subject} trained again since: these are the figures of before. "
        f"`rir-mlx evaluate {run.folder}` measures again."
    )


def _since(runs: tuple[RunDir, RunDir], comparisons: Sequence[Comparison]) -> list[str]:
    found = (since_measured(run, comparison) for run, comparison in zip(runs, comparisons, strict=True))
    return [what for what in found if what]


def _recipe_changes(comparisons: Sequence[Comparison]) -> list[str]:
    """How the second run's recipe differs from the first's, as they were when they were evaluated."""
    recipes = [parse_yaml(comparison.run.recipe) for comparison in comparisons]
    for recipe in recipes:
        for key in _NOT_THE_RESULT:
            recipe.pop(key, None)
        for section in recipe.values():
            if isinstance(section, dict):
                section.update(
                    {key: f"[{', '.join(map(str, it))}]" for key, it in section.items() if isinstance(it, list)}
                )
    return changes(*recipes)


def _keys(run: RunDir, name: str) -> list[_Key]:
    return [(row["text"], row["label"]) for row in read_jsonl(_written(run, name))]


def _written(run: RunDir, name: str) -> Path:
    """The file of predictions. Raises UserError if it is missing."""
    path = run.predictions(name)
    if not path.is_file():
        raise UserError(f"{path} is missing.", hint=f"Run `rir-mlx evaluate {run.folder}` to write it again.")
    return path


def _compared(run: RunDir, comparison: Comparison) -> list[bool] | None:
    """Which test rows the evaluation's comparisons used; None if it left some out and does not say which."""
    arm = next(entry.name for entry in comparison.entries if entry.kind != "baseline")
    found: list[Any] = [row.get("compared") for row in read_jsonl(_written(run, arm))]
    if None not in found:
        return found
    return [True] * len(found) if comparison.rows.cleaned in (0, comparison.rows.test) else None


def _shared_places(first: RunDir, second: RunDir, both: Sequence[str]) -> list[tuple[int, int]]:
    """The places of the test rows that both runs have, in the order of the first. A row that one of them has several
    times is paired as often as both have it."""
    if not both:
        return []
    places: dict[_Key, list[int]] = defaultdict(list)
    for place, key in enumerate(_keys(second, both[0])):
        places[key].append(place)
    taken = Counter[_Key]()
    found = []
    for place, key in enumerate(_keys(first, both[0])):
        if taken[key] < len(places[key]):
            found.append((place, places[key][taken[key]]))
            taken[key] += 1
    return found


def _paired(
    name: str,
    runs: tuple[RunDir, RunDir],
    entries: tuple[EntryResult, EntryResult],
    places: Sequence[tuple[int, int]],
) -> PairedComparison | None:
    """Which rows each classifies correctly, compared; None without rows."""
    if not places:
        return None
    seeds = min(len(entry.seeds) for entry in entries)
    correct = []
    for side, run in enumerate(runs):
        wanted = [pair[side] for pair in places]
        files = _prediction_files(run, name, entries[side], seeds)
        correct.append(np.array([_correct(list(read_jsonl(path)), wanted) for path in files]))
    # Two "labels", correct and wrong: the test looks at nothing else, and the runs may have other labels.
    first, second = (np.stack([hits, 1 - hits], axis=-1).astype(np.float64) for hits in correct)
    truth = np.zeros(len(places), dtype=np.int64)
    return compare((runs[0].folder.name, first), (runs[1].folder.name, second), truth)


def _correct(rows: Sequence[Mapping[str, Any]], places: Sequence[int]) -> list[int]:
    return [int(rows[place]["predicted"] == rows[place]["label"]) for place in places]


def _prediction_files(run: RunDir, name: str, entry: EntryResult, seeds: int) -> list[Path]:
    """The files of the first so many seeds. Raises UserError if one is missing."""
    names = [name + (f"-seed{seed}" if number else "") for number, seed in zip(count(), entry.seeds)]
    return [_written(run, found) for found in names[:seeds]]
