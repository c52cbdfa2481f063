"""The runs of a folder: what is trained in each, how accurate it is, when it was made and how large it is."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rir_mlx.classification.loading import trained_since
from rir_mlx.errors import RirError, UserError, did_you_mean
from rir_mlx.evaluation.schema import Comparison, read_comparison
from rir_mlx.storage.layout import RunDir, all_runs
from rir_mlx.types import RUNS


@dataclass(frozen=True)
class RunSummary:
    """`accuracy` is that of each arm and baseline on the `test_rows` (empty before an evaluation), `trained` the arms
    with weights, `chosen` the reasoning arm that the evaluation chose. `written` is the time of the last
    artifact (ISO 8601), `size` the bytes of the folder. `problem`: why the run cannot be read.
    `since`: the measured arms that were trained again since: their accuracy is that of before."""

    name: str
    folder: Path
    model: str
    trained: tuple[str, ...]
    accuracy: Mapping[str, float]
    test_rows: int
    chosen: str | None
    written: str
    size: int
    problem: str = ""
    since: tuple[str, ...] = ()

    @property
    def arms(self) -> dict[str, float | None]:
        """Every trained arm with its accuracy, None if it was not measured."""
        return {arm: self.accuracy.get(arm) for arm in self.trained}


def list_runs(runs: Path) -> list[RunSummary]:
    """The runs in a folder, the one that was written last first."""
    return [_summary(run) for run in all_runs(runs)]


def trained_again(run: RunDir, comparison: Comparison) -> list[str]:
    """The arms that were trained again since the run was evaluated."""
    measured = [(entry.name, entry.seeds) for entry in comparison.entries if entry.kind != "baseline"]
    return trained_since(run, measured, comparison.run.finished)


def _summary(run: RunDir) -> RunSummary:
    comparison: Comparison | None = None
    model, problem, since = "", "", list[str]()
    try:
        model = run.recipe().model
        comparison = read_comparison(run.comparison) if run.comparison.is_file() else None
        if comparison:
            since = trained_again(run, comparison)
    except RirError as error:
        problem = error.what
    return RunSummary(
        run.folder.name,
        run.folder,
        model,
        tuple(run.trained_arms()),
        {entry.name: entry.metrics.accuracy.value for entry in comparison.entries} if comparison else {},
        comparison.rows.test if comparison else 0,
        comparison.chosen if comparison else None,
        _written(run),
        _size(run.folder),
        problem,
        tuple(since),
    )


def _size(folder: Path) -> int:
    """Bytes of the files in a folder. A run may be at work there: what is deleted meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _written(run: RunDir) -> str:
    times = [0.0]
    for pattern in ("recipe.yaml", "*/done.json", "evaluation/*.json", "report.html"):
        for path in run.folder.glob(pattern):
            with suppress(OSError):
                times.append(path.stat().st_mtime)
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(max(times)))


def _lists(runs: Path) -> str:
    more = "" if runs == RUNS else f" --runs {shlex.quote(str(runs))}"
    return f"`rir-mlx runs{more}` lists the runs."


def find_existing(name: str | None, runs: Path, holds: Callable[[RunDir], bool], what: str) -> RunDir:
    """The run in a folder or of a name, or the newest that holds what is wanted; `what` names that in the error,
    such as `a report`.

    Raises UserError if there is none."""
    there = [run for run in all_runs(runs) if holds(run)]
    if name is None:
        if there:
            return there[0]
        hint = f"`rir-mlx run` or `rir-mlx evaluate` writes one. {_lists(runs)}"
        raise UserError(f"There is no run in {runs}/ with {what}.", hint=hint)
    for run in (RunDir(Path(name)), RunDir(runs / name)):
        if run.recipe_file.is_file():
            if holds(run):
                return run
            raise UserError(
                f"{run.folder} has no {what.partition(' ')[2]}.", hint=f"Run `rir-mlx evaluate {run.folder}` first."
            )
    names = [run.folder.name for run in there]
    known = f"With {what}: {', '.join(names)}." if names else _lists(runs)
    raise UserError(f"There is no run {name}.{did_you_mean(Path(name).name, names)}", hint=known)
