"""A disk that is full at the n-th change of every stage, then room, and the same command again: is anything lost?

    PYTHONPATH=tests python -m benchmarks.trouble.full_disk [--most 1000] [--backends torch mlx] [--stages export]

Each backend first runs every stage undisturbed, on a tiny model with random weights. Then each stage is started where
it began, on a disk that is full from its first change on; then from its second on; and so on, at most `--most` of
them, evenly spaced. A change is a file or folder that is made, or bytes that are written or synced, by any library:
`full_disk.c` stands before the C library's functions, and needs a C compiler and Linux. Each time the command must
end with one clear error and exit code 1, and the same command with room must leave what the undisturbed one left. A
server has a session of its own (`served.py`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import close_server, prepare, start_command

from benchmarks.trouble.served import Session
from benchmarks.trouble.stages import LIMIT, STAGES, differences, finish, run_stages

_SERVE = "serve"


@dataclass
class Told:
    """What came of a stage on full disks. `unnoticed`: it had all that it needed, and ended well."""

    changes: int
    tried: int = 0
    unnoticed: int = 0
    wrong: list[str] = field(default_factory=list)


def what_is_wrong(code: int, err: str) -> str:
    """What is wrong with how a command ended, or nothing."""
    if code == 0 and not err:
        return ""
    if code != 1 or err.count("error: ") != 1 or "Traceback" in err or "No space left on device" not in err:
        return f"exit code {code}: {err}"
    return ""


def run_on(folder: Path, command: list[str], full_at: int, count: Path) -> tuple[int, str]:
    """Run a command on a disk that is full from that change on, or never if it is 0. Returns its exit code and what it
    said."""
    disk = {"FULL_DISK_FOLDER": str(folder), "FULL_DISK_AT": str(full_at), "FULL_DISK_COUNT": str(count)}
    process = start_command(folder, *command, "-q", **disk)
    return process.wait(LIMIT), process.err()


def try_stage(before: Path, after: Path, command: list[str], most: int) -> Told:
    with tempfile.TemporaryDirectory(prefix="full-disk-") as temporary:
        count = Path(temporary) / "count"
        shutil.copytree(before, Path(temporary) / "0")
        run_on(Path(temporary) / "0", command, 0, count)
        told = Told(int(count.read_text(encoding="utf-8")))
        step = max(1.0, told.changes / most)
        for number in sorted({round(1 + step * turn) for turn in range(min(most, told.changes))}):
            folder = Path(temporary) / str(number)
            shutil.copytree(before, folder)
            code, err = run_on(folder, command, number, count)
            told.tried += 1
            told.unnoticed += code == 0
            wrong = what_is_wrong(code, err)
            if code:
                finish(folder, command)
            wrong += ", ".join(differences(folder, after))
            if wrong:
                told.wrong.append(f"change {number}: {wrong}")
            shutil.rmtree(folder)
    return told


def try_serving(trained: Path, most: int) -> Told:
    """A reviewer's session on a server, see `served.py`. Every session has something refused, or noticed nothing."""
    with tempfile.TemporaryDirectory(prefix="full-disk-") as temporary:
        count = Path(temporary) / "count"
        told = Told(0)
        whole: list[tuple[Any, ...]] = []
        numbers = [0]
        while numbers:
            number = numbers.pop(0)
            folder = Path(temporary) / str(number)
            shutil.copytree(trained, folder)
            session = Session(folder, number, count)
            session.run()
            if not number:
                whole, told.changes = session.decisions(), int(count.read_text(encoding="utf-8"))
                step = max(1.0, told.changes / most)
                numbers = sorted({round(1 + step * turn) for turn in range(min(most, told.changes))})
            else:
                told.tried += 1
                told.unnoticed += not session.refused
            if session.decisions() != whole:
                session.wrong.append(f"decisions {session.decisions()}, not {whole}")
            if session.wrong:
                told.wrong.append(f"change {number}: {'; '.join(session.wrong)}")
            shutil.rmtree(folder)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--backends", nargs="+", default=["torch", "mlx"])
    parser.add_argument("--stages", nargs="+", choices=[*STAGES, _SERVE], default=[*STAGES, _SERVE])
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="full-disks-"))
    library = folder / "full_disk.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_suffix(".c"), "-ldl"], check=True
    )
    os.environ["LD_PRELOAD"] = str(library)
    wrong = 0
    prepare()
    print("| backend | stage | changes | disks | noticed nothing | wrong |\n|---|---|---|---|---|---|")
    try:
        for backend in options.backends:
            snapshots, _ = run_stages(folder / backend, backend)
            for place, (stage, command) in enumerate([*STAGES.items(), (_SERVE, [])]):
                if stage not in options.stages:
                    continue
                if stage == _SERVE:
                    told = try_serving(snapshots[-1], options.most)
                else:
                    told = try_stage(snapshots[place], snapshots[place + 1], command, options.most)
                wrong += len(told.wrong)
                cells = [backend, stage, told.changes, told.tried, told.unnoticed, len(told.wrong)]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
                for line in told.wrong:
                    print(f"{backend}, {stage}, {line}", file=sys.stderr, flush=True)
    finally:
        close_server()
        shutil.rmtree(folder)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
