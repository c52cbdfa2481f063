"""Checkpoints on disk: everything a stopped training needs to resume exactly.

A checkpoint is a folder, written under a temporary name and renamed. `state.safetensors` holds the backend's tensors,
`state.json` the loop's state. The last two are kept. `inputs.json` beside them records what the training was made
from; a training with other inputs does not resume from here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.errors import Failure, UserError
from rir_mlx.json_text import parse_json
from rir_mlx.models.weight_files import save_tensors
from rir_mlx.storage.atomic import read_json, replacing, write_json
from rir_mlx.storage.digests import changes
from rir_mlx.storage.layout import Stage

_KEPT = 2


class Checkpoints:
    """The checkpoints of one training, in a folder of their own."""

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self.folder, self.inputs = folder, inputs
        self._inputs = folder / "inputs.json"

    def check(self) -> None:
        """Raises UserError if the checkpoints here were made from other inputs."""
        saved = self._saved()
        if not saved or not self._inputs.is_file():  # `begin` deletes them
            return
        changed = changes(read_json(self._inputs), self.inputs)
        if changed:
            raise UserError(
                f"{self.folder} holds a training stopped at step {_step(saved[-1])} that was made from other inputs: "
                f"{'; '.join(changed)}.",
                hint="Restore those inputs to resume, or start over with --force.",
            )

    def fit(self) -> bool:
        """Whether there are checkpoints here, made from just these inputs."""
        return bool(self._saved()) and self._inputs.is_file() and not changes(read_json(self._inputs), self.inputs)

    def begin(self) -> None:
        """Start writing checkpoints of these inputs. Deletes checkpoints whose inputs are unknown."""
        if not self._inputs.is_file():
            self.clear()
        write_json(self._inputs, dict(self.inputs))

    def save(self, step: int, tensors: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step atomically, then delete all but the last two."""
        with replacing(self.folder / f"step-{step:08}") as temporary:
            temporary.mkdir()
            # safetensors writes raw memory: an array that is not C-contiguous would come back transposed.
            own = {name: np.require(tensor, requirements="C") for name, tensor in tensors.items()}
            save_tensors(own, temporary / "state.safetensors", "np")
            (temporary / "state.json").write_text(json.dumps(dict(values)) + "\n", encoding="utf-8")
        for old in self._saved()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Tensors and values of the newest checkpoint that can be read, or None."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for folder in reversed(self._saved()):
            try:
                values = parse_json((folder / "state.json").read_text(encoding="utf-8"))
                return load_file(folder / "state.safetensors"), values
            except (OSError, ValueError, SafetensorError):
                continue  # damaged from outside: the previous one is only a little older
        return None

    def clear(self) -> None:
        """Delete all checkpoints atomically; a stale one could be mistaken for another run's."""
        aside = self.folder.with_name(f".{self.folder.name}.old.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        if self.folder.exists():
            try:
                self.folder.rename(aside)
            except OSError as error:
                raise Failure(f"{self.folder} cannot be cleared: {error.strerror}.") from error
        shutil.rmtree(aside, ignore_errors=True)

    def step(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        saved = self._saved()
        return _step(saved[-1]) if saved else 0

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def earlier_training(stage: Stage, inputs: Mapping[str, Any], checkpoints: Checkpoints) -> Stage | None:
    """Of the trainings that were moved to `earlier/`, the one that was finished with just these inputs; else one that
    was stopped and resumes from such checkpoints, unless the present one does."""
    found: list[tuple[Stage, dict[str, Any] | None]] = []
    for each in stage.earlier():
        with suppress(UserError):  # one that is damaged is left alone
            found.append((each, each.done()))
    finished = (each for each, done in found if done is not None and not changes(done["inputs"], inputs))
    stopped = (each for each, done in found if done is None and Checkpoints(each.checkpoints, checkpoints.inputs).fit())
    return next(finished, None) or (None if checkpoints.fit() else next(stopped, None))


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
