"""How a comparison was made, on which rows, and what its trainings cost. Parts of `comparison.json` (`schema.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the comparison. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelFacts(Part):
    """The base model."""

    name: str
    """Hub id or folder."""
    revision: str | None = None
    """Commit of the hub."""
    fingerprint: str | None = None
    """Hash of its files."""


class DataFacts(Part):
    """The labelled rows."""

    digest: str
    """Hash of the rows, labels and splits as used."""
    train: str | None = None
    """Where the training rows come from."""
    validation: str | None = None
    """Where the validation rows come from. Null if they were split off the training rows."""
    test: str | None = None
    """Where the test rows come from. Null if they were split off the training rows."""


class RunFacts(Part):
    """How the comparison was made."""

    name: str
    """Name of the run's folder."""
    command: str
    """The command as typed; empty from Python."""
    finished: str
    """ISO 8601 time with offset."""
    versions: dict[str, str]
    """Installed version of each package."""
    backend: str
    """`mlx`, `torch` or `fake`: with which the answers were measured; several are joined by "and".
    `unknown`: by a version that did not record it."""
    device: str
    """Name of the processor, or of several."""
    dtype: str = ""
    """Number format of the frozen weights, or several; `as stored` is the model folder's own."""
    seed: int
    """Seed of the splits."""
    seeds: Sequence[int]
    """Training seeds of every arm."""
    model: ModelFacts
    """The base model."""
    data: DataFacts
    """The labelled rows."""
    recipe: str
    """The resolved recipe as YAML."""


class RowCounts(Part):
    """How many rows each part has."""

    train: int
    """Labelled training rows."""
    validation: int
    """Rows for early stopping, calibration and choosing the arm."""
    copied: int = 0
    """Validation rows whose text is also that of a training row. They serve early stopping alone."""
    test: int
    """Rows that everything is measured on."""
    cleaned: int
    """Test rows that are neither copies of training or validation rows nor texts with two labels."""
    leaked: int = 0
    """Test rows whose text is also that of a training or validation row."""
    conflicting: int = 0
    """Test rows whose text occurs among them with two labels."""


class TrainingCost(Part):
    """What training the entry cost, mean over seeds unless a field says otherwise."""

    steps: float
    """Optimizer steps taken."""
    planned: int | None = None
    """Optimizer steps of the whole training (first seed). Early stopping takes fewer."""
    tokens: float
    """Tokens that went through the model in training, padding included. A prefix that the rows of a batch share counts
    once per batch."""
    rows: int
    """Training rows (first seed)."""
    seconds: float
    """Wall-clock time."""
    best_step: Sequence[int] = ()
    """The step whose weights were kept, for each seed."""
