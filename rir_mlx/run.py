"""A run's folder: the only file that spells the names of artifacts, and the only way they are written.

Every file is written beside its place, synced, and renamed, so that a reader never sees half of one. A stage's
`done.json` is written last and holds what the stage was made from: a stage whose inputs still match is skipped, and
one whose inputs changed can say which.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rir_mlx import __version__
from rir_mlx.errors import Failure, UserError
from rir_mlx.recipe import Recipe, dump_recipe, load_recipe

RUNS = Path("runs")
_SEED = re.compile(r"-seed\d+$")


class Stage:
    """One stage's folder inside a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.adapter = folder / "adapter"
        self.metrics = folder / "metrics.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.calibration = folder / "calibration.json"
        self.readings = folder / "readings.jsonl"

    def why_not_done(self, inputs: Mapping[str, Any]) -> str | None:
        """None where the stage was finished with just these inputs, else what is new about them."""
        done = self.done()
        if done is None:
            return "it has not been finished yet"
        changed = changes(done["inputs"], inputs)
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        return changed[0] + more if changed else None

    def done(self) -> dict[str, Any] | None:
        path = self.folder / "done.json"
        return read_json(path) if path.is_file() else None

    def begin(self) -> None:
        """The stage is about to be made anew: from here on it is not done."""
        make_folder(self.folder)
        (self.folder / "done.json").unlink(missing_ok=True)

    def finish(self, inputs: Mapping[str, Any], **results: Any) -> None:
        values = {"inputs": _plain(inputs), "results": results, "version": __version__}
        write_json(self.folder / "done.json", values | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


class RunDir:
    """The folder that a recipe fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_file = folder / "recipe.yaml"
        self.rgen = Stage(folder / "rgen")
        self.augmented = Stage(folder / "augmented")
        self.comparison = folder / "evaluation" / "comparison.json"
        self.report = folder / "report.html"
        self.plots = folder / "plots"

    def classifier(self, arm: str) -> Stage:
        """An arm's stage; of a seed after the first, `<arm>-seed<number>`."""
        return Stage(self.folder / f"classifier-{arm}")

    def evaluation(self, arm: str) -> Stage:
        return Stage(self.folder / "evaluation" / arm)

    def predictions(self, arm: str) -> Path:
        return self.evaluation(arm).folder / "predictions.jsonl"

    def figures(self, name: str) -> Path:
        """An arm's or a baseline's line of the comparison."""
        return self.evaluation(name).folder / "metrics.json"

    def augmented_rows(self, part: str) -> Path:
        return self.augmented.folder / f"{part}.jsonl"

    def rejected_rows(self) -> Path:
        return self.augmented.folder / "rejected.jsonl"

    def journal(self) -> Path:
        return self.augmented.folder / "journal.jsonl"

    def old_journal(self) -> Path:
        return self.augmented.folder / "journal.old.jsonl"

    def stats(self) -> Path:
        return self.augmented.folder / "stats.json"

    def export(self, kind: str, arm: str) -> Path:
        return self.folder / "export" / f"{arm}-{kind}"

    def trained_arms(self) -> list[str]:
        """Arms whose first seed is trained."""
        found = (path.parent.name.removeprefix("classifier-") for path in self.folder.glob("classifier-*/done.json"))
        return sorted(name for name in found if not _SEED.search(name))

    def save_recipe(self, recipe: Recipe) -> None:
        make_folder(self.folder)
        write_text(self.recipe_file, dump_recipe(recipe))

    def recipe(self, overrides: tuple[str, ...] = ()) -> Recipe:
        return load_recipe(self.recipe_file, overrides)


def newest_run(root: Path = RUNS, *, trained: bool = False) -> RunDir | None:
    """The run under `root` whose recipe, classifier or evaluation was written last; `trained`: with a classifier."""
    recipes = list(root.glob("*/recipe.yaml")) if root.is_dir() else []
    if trained:
        recipes = [recipe for recipe in recipes if RunDir(recipe.parent).trained_arms()]
    if not recipes:
        return None

    def touched(recipe: Path) -> float:
        files = [recipe, *recipe.parent.glob("*/done.json"), *recipe.parent.glob("evaluation/*/done.json")]
        return max(file.stat().st_mtime for file in files)

    return RunDir(max(recipes, key=touched).parent)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}.", mend="Choose another folder with --runs FOLDER."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path`, a file or a folder, when the block ends well."""
    make_folder(path.parent)
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary / path.name
            _sync(temporary / path.name)
            _take_place(temporary / path.name, path, aside=temporary / "old")
            _sync_names(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise Failure(f"{path} could not be written: {error.strerror or error}.") from error


def _take_place(new: Path, path: Path, *, aside: Path) -> None:
    """Rename `new` to `path`. A folder cannot be renamed over another, so the old one steps aside, and back again if
    the new one cannot come."""
    if not path.is_dir():
        os.replace(new, path)
        return
    os.replace(path, aside)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(aside, path)
        raise


def _sync(path: Path) -> None:
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _sync_names(folder: Path) -> None:
    """A rename outlives a power cut once the folder that holds the name is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(_plain(values), indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", mend="Delete it; the stage then runs again.") from error
    return values


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def digest_of(values: Any) -> str:
    """A short hash of anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(_plain(values), sort_keys=True).encode()).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def changes(before: Any, now: Any) -> list[str]:
    """`key was this, is that` for every key that differs between two nested dictionaries."""
    old, new = _flatten(_plain(before)), _flatten(_plain(now))
    return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in old | new if old.get(key) != new.get(key)]


def _plain(values: Any) -> Any:
    return json.loads(json.dumps(values, default=str))


def _flatten(values: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {at: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{at}.{key}" if at else key)
    return flat
