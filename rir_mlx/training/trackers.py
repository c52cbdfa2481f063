"""Optional destinations for training metrics: TensorBoard, Weights & Biases, trackio.

`metrics.jsonl` is always written. These are optional packages, imported on demand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rir_mlx.errors import UserError, install_extra
from rir_mlx.storage.atomic import write_text
from rir_mlx.types import Reporter

Log = Callable[[int, Mapping[str, float]], None]

_MODULES: dict[Reporter, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


@dataclass(frozen=True)
class Reporting:
    """Logs a step's numbers everywhere; `close` flushes."""

    logs: Sequence[Log]
    closes: Sequence[Callable[[], Any]]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for log in self.logs:
            log(step, values)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            for close in self.closes:
                close()


def check_installed(names: Sequence[Reporter]) -> None:
    """Raises UserError, naming what to install, before any work is done."""
    for name in names:
        try:
            import_module(_MODULES[name])
        except ImportError as error:
            raise UserError(
                f"report_to names {name}, and {_MODULES[name]} is not installed.",
                hint=f"{install_extra(name)} installs it.",
            ) from error


def open_reporting(names: Sequence[Reporter], folder: Path, what: str, *, after: int) -> Reporting:
    """Open each of `names` for a training in `folder` that resumes after the step `after`. `what` is `run/stage`."""
    with redirect_stdout(sys.stderr):  # stdout is for data, and some of these print to it
        opened = [_OPEN[name](folder, what, after) for name in names]
    return Reporting([log for log, _ in opened], [close for _, close in opened])


def _tensorboard(folder: Path, what: str, after: int) -> tuple[Log, Callable[[], Any]]:
    from tensorboardX import SummaryWriter

    # Steps after the checkpoint run again, so purge the points already logged for them.
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def _wandb(folder: Path, what: str, after: int) -> tuple[Log, Callable[[], Any]]:
    import wandb

    mode: Any = "offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else None
    known = folder / "wandb-id.txt"
    if not (after and known.is_file()):
        write_text(known, wandb.util.generate_id())
    run = wandb.init(
        project="rir-mlx", name=what, id=known.read_text(encoding="utf-8"), resume="allow", dir=str(folder), mode=mode
    )
    return (lambda step, values: run.log(dict(values), step=step)), run.finish


def _trackio(folder: Path, what: str, after: int) -> tuple[Log, Callable[[], Any]]:
    import trackio

    trackio.init(project="rir-mlx", name=what, resume="allow" if after else "never")
    return (lambda step, values: trackio.log(dict(values), step=step)), trackio.finish


_OPEN: dict[Reporter, Callable[[Path, str, int], tuple[Log, Callable[[], Any]]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
