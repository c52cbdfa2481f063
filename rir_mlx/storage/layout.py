"""The layout of a run's folder: the only file that spells the names of artifacts.

Every artifact is written to a temporary file, synced and renamed, so that a reader never sees half of one. A stage's
`done.json` is written last and records the stage's inputs: a stage whose inputs still match is skipped, and one whose
inputs changed says which.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rir_mlx import __version__
from rir_mlx.errors import UserError
from rir_mlx.recipe.loading import dump_recipe, load_recipe
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.atomic import make_folder, read_json, write_json, write_text
from rir_mlx.storage.digests import changes, plain_json
from rir_mlx.types import RUNS

OTHER_RUNS = "Choose another folder with --runs FOLDER."
_SEED = re.compile(r"-seed\d+$")


class Stage:
    """One stage's folder inside a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "done.json"
        self.adapter = folder / "adapter"
        self.metrics = folder / "metrics.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.calibration = folder / "calibration.json"
        self.score_journal = folder / "readings.jsonl"

    def why_not_done(self, inputs: Mapping[str, Any]) -> str | None:
        """None if the stage was finished with exactly these inputs; else what changed, or nothing if it never
        finished."""
        done = self.done()
        if done is None:
            return ""
        changed = changes(done["inputs"], inputs)
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        return changed[0] + more if changed else None

    def done(self) -> dict[str, Any] | None:
        """What the finished stage recorded; None if it is not finished. Raises UserError if the record is damaged."""
        record = read_json(self.record) if self.record.is_file() else None
        if record is not None and not {"inputs", "results"} <= record.keys():
            raise UserError(f"{self.record} lacks its inputs or results.", hint="Delete it; the stage then runs again.")
        return record

    def begin(self) -> None:
        """Mark the stage as not done; it is about to run again."""
        make_folder(self.folder, OTHER_RUNS)
        self.record.unlink(missing_ok=True)

    def keep_earlier(self) -> Path:
        """Move the stage to `earlier/` in its run, so that training it again loses nothing."""
        numbers = itertools.count(1)
        place = next(place for number in numbers if not (place := self._earlier(number)).exists())
        make_folder(place.parent, OTHER_RUNS)
        self.folder.rename(place)
        return place

    def earlier(self) -> list[Stage]:
        """The stages that `keep_earlier` moved away."""
        pattern = self._earlier("*")
        return [Stage(place) for place in sorted(pattern.parent.glob(pattern.name))]

    def put_back(self, earlier: Stage) -> None:
        """Give a stage that `keep_earlier` moved away its place again; the present one is kept in `earlier/`."""
        if self.folder.exists():
            self.keep_earlier()
        earlier.folder.rename(self.folder)

    def _earlier(self, number: int | str) -> Path:
        return self.folder.parent / "earlier" / f"{self.folder.name}-{number}"

    def finish(self, inputs: Mapping[str, Any], **results: Any) -> None:
        values = {"inputs": plain_json(inputs), "results": results, "version": __version__}
        write_json(self.record, values | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


class RunDir:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_file = folder / "recipe.yaml"
        self.overrides_file = folder / "overrides.json"
        self.rgen = Stage(folder / "rgen")
        self.augmented = Stage(folder / "augmented")
        self.rejected_rows = self.augmented.folder / "rejected.jsonl"
        self.journal = self.augmented.folder / "journal.jsonl"
        self.old_journal = self.augmented.folder / "journal.old.jsonl"
        self.stats = self.augmented.folder / "stats.json"
        self.comparison = folder / "evaluation" / "comparison.json"
        self.report = folder / "report.html"
        self.review = folder / "review.jsonl"
        self.plots = folder / "plots"
        self.pilot_rows = folder / "rows"

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def classifier(self, arm: str) -> Stage:
        """An arm's stage. `arm` is `<arm>-seed<number>` for a seed after the first."""
        return Stage(self.folder / f"classifier-{arm}")

    def chooser(self, half: int) -> Stage:
        """The classifier that learned from one half of the training rows and chooses reasonings for the other."""
        return Stage(self.augmented.folder / f"chooser-{half}")

    def curve(self, arm: str, percent: int) -> Stage:
        """An arm that is trained on a part of the training rows, for the learning curve."""
        return Stage(self.folder / "learning-curve" / f"{arm}-{percent}")

    def evaluation(self, arm: str) -> Stage:
        return Stage(self.folder / "evaluation" / arm)

    def predictions(self, arm: str) -> Path:
        return self.evaluation(arm).folder / "predictions.jsonl"

    def validation_predictions(self, arm: str) -> Path:
        return self.evaluation(arm).folder / "validation.jsonl"

    def entry_result(self, name: str) -> Path:
        """One entry of the comparison, of an arm or a baseline."""
        return self.evaluation(name).folder / "metrics.json"

    def augmented_rows(self, part: str) -> Path:
        return self.augmented.folder / f"{part}.jsonl"

    def export(self, kind: str, arm: str) -> Path:
        return self.folder / "export" / f"{arm}-{kind}"

    def trained_arms(self) -> list[str]:
        """The arms whose first seed is trained."""
        found = (path.parent.name.removeprefix("classifier-") for path in self.folder.glob("classifier-*/done.json"))
        return sorted(name for name in found if not _SEED.search(name))

    def save_recipe(self, recipe: Recipe, overrides: Sequence[str] = ()) -> None:
        """Write the recipe, and the overrides of a recipe file that are part of it."""
        make_folder(self.folder, OTHER_RUNS)
        write_text(self.recipe_file, dump_recipe(recipe))
        write_json(self.overrides_file, {"overrides": list(overrides)})

    def overrides(self) -> tuple[str, ...]:
        """The overrides with which the run's recipe was saved, as `rgen.epochs=1`."""
        hint = "Delete it: the recipe beside it has these keys, too."
        return tuple(read_json(self.overrides_file, hint)["overrides"]) if self.overrides_file.is_file() else ()

    def recipe(self, overrides: tuple[str, ...] = ()) -> Recipe:
        return load_recipe(self.recipe_file, overrides)


def all_runs(root: Path = RUNS) -> list[RunDir]:
    """The runs under `root`, the one that was written last first."""

    def touched(run: RunDir) -> float:
        files = [run.recipe_file, *run.folder.glob("*/done.json"), *run.folder.glob("evaluation/*/done.json")]
        return max(file.stat().st_mtime for file in files)

    recipes = root.glob("*/recipe.yaml") if root.is_dir() else []
    return sorted((RunDir(recipe.parent) for recipe in recipes), key=touched, reverse=True)


def newest_run(root: Path = RUNS, *, trained: bool = False) -> RunDir | None:
    """The run under `root` whose recipe, classifier or evaluation was written last. `trained` skips runs without a
    classifier. A pilot, which learned from few rows, is taken only where there is no other."""
    runs = sorted(all_runs(root), key=lambda run: run.pilot_rows.is_dir())
    return next((run for run in runs if not trained or run.trained_arms()), None)
