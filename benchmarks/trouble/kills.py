"""SIGKILL at random moments of every stage, then the same command again: does it end as if it had never been killed?

    PYTHONPATH=tests python -m benchmarks.trouble.kills [--kills 100] [--backends torch mlx] [--seed 0]

Each backend first runs every stage undisturbed, on a tiny model with random weights. Then each stage is started where
it began, killed at a moment drawn evenly from its measured time, started again, killed again, and so on three times,
and run to its end. All that it leaves is compared with the undisturbed run: weights and rows byte by byte, the
journals by their results, each of which must be there once. A process is forked from one that has imported the
libraries, so that kills fall into the work.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from processes import close_server, prepare, start_command

from benchmarks.trouble.stages import LIMIT, STAGES, differences, finish, run_stages

_CHAIN = 3
"""Kills one after another before the command may end."""


@dataclass
class Killed:
    """What came of the kills in a stage. `early` commands had ended before their kill."""

    seconds: float
    kills: int = 0
    early: int = 0
    ends: int = 0
    different: list[str] = field(default_factory=list)


def kill_stage(before: Path, after: Path, command: list[str], told: Killed, moments: list[float]) -> None:
    """Start a stage from the folder `before`, kill it at these moments, let it end, and compare with `after`."""
    folder = Path(tempfile.mkdtemp(prefix="killed-"))
    try:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        for moment in moments:
            process = start_command(folder, *command, "-q")
            time.sleep(moment * told.seconds)
            if process.poll() is None:
                process.send_signal(9)
                told.kills += 1
            else:
                told.early += 1
            process.wait(LIMIT)
        if not (command[0] == "classify" and (folder / "out.csv").exists()):  # it had ended before its kill
            finish(folder, command)
        told.ends += 1
        told.different += differences(folder, after)
    finally:
        shutil.rmtree(folder)


def run_backend(backend: str, kills: int, rng: random.Random, folder: Path) -> dict[str, Killed]:
    snapshots, seconds = run_stages(folder, backend)
    told = {stage: Killed(took) for stage, took in seconds.items()}
    for place, (stage, command) in cycle(enumerate(STAGES.items())):
        left = kills - sum(killed.kills for killed in told.values())
        if not left:
            return told
        moments = [rng.random() for _ in range(min(_CHAIN, left))]
        kill_stage(snapshots[place], snapshots[place + 1], command, told[stage], moments)
        print(f"{backend}, {stage}: {told[stage]}", file=sys.stderr, flush=True)
    raise AssertionError("a cycle ends never")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--backends", nargs="+", default=["torch", "mlx"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    different = 0
    prepare()
    print("| backend | stage | undisturbed, s | kills | ended before | finished and compared | different |")
    print("|---|---|---|---|---|---|---|")
    try:
        for number, backend in enumerate(options.backends):
            share = options.kills // len(options.backends) + (number < options.kills % len(options.backends))
            told = run_backend(backend, share, random.Random(f"{options.seed}/{backend}"), folder / backend)
            for stage, killed in told.items():
                different += len(killed.different)
                cells = [backend, stage, f"{killed.seconds:.1f}", killed.kills, killed.early, killed.ends]
                print(f"| {' | '.join(map(str, cells))} | {', '.join(killed.different) or 0} |", flush=True)
    finally:
        close_server()
        shutil.rmtree(folder)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
