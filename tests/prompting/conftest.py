"""The folder of a small run, and the jobs that its stages hand to the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from arm_runs import make_recipe

from rir_mlx.training import loop
from rir_mlx.training.job import TrainingJob, TrainingOutcome


@pytest.fixture
def folder(tmp_path: Path, tiny: Path) -> Path:
    return make_recipe(tmp_path, tiny)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """The jobs that a stage hands to the training loop."""
    found: list[TrainingJob] = []
    real = loop.train

    def spy(model: Any, job: TrainingJob, *rest: Any, **more: Any) -> TrainingOutcome:
        found.append(job)
        return real(model, job, *rest, **more)

    monkeypatch.setattr("rir_mlx.stages.training.run_training", spy)
    return found
