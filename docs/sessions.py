"""The transcripts of the pages, taken from real runs: `make docs-sessions` runs every command again and pastes what it
prints. Takes some minutes; nothing is fetched.

A comment above a code block says what to do with it. The commands of a page run one after another in one new folder.

    <!-- session: file make_table.py -->   the block is the content of this file
    <!-- session: run python make_table.py -->   run a command whose output the page does not show
    <!-- session: stdout -->   the block begins with `$ COMMAND`, which is run, or shows more of the last command
    <!-- session: stderr, first 4, last 2 -->   of the other stream, only so many lines, with `…` for those left out
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/index.md", "docs/tutorial.md")
_MARK = re.compile(r"^<!-- session: (?P<what>.+?) -->$")
_PROGRESS = re.compile(r" [\d,]+/[\d,]+ .*(left|took)")
"""Lines of progress, in whose place a terminal has bars."""
_STREAMS = ("stdout", "stderr", "both")


@dataclass(frozen=True)
class Step:
    """A marked place of a page: what its comment says, and the lines of the block below it. `start` is the index of
    the block's first line in the page."""

    what: str
    start: int = 0
    block: tuple[str, ...] = ()

    @property
    def stream(self) -> str:
        """The stream that the block shows, or nothing."""
        name = re.split(r"[,\s]", self.what)[0]
        return name if name in _STREAMS else ""

    @property
    def command(self) -> str:
        """The command that is run, or nothing."""
        if self.what.startswith("run "):
            return self.what.removeprefix("run ")
        return self.block[0].removeprefix("$ ") if self.stream and self.block[0].startswith("$ ") else ""

    def limit(self, end: str) -> int | None:
        """How many lines of the `first` or `last` ones are shown, if not all are."""
        found = re.search(rf"{end} (\d+)", self.what)
        return int(found[1]) if found else None


def steps_of(page: str) -> list[Step]:
    """The marked places of a page in order. Raises ValueError for a mark of no known kind, or one without a block."""
    lines, steps = page.splitlines(), list[Step]()
    for number, line in enumerate(lines):
        if not (mark := _MARK.match(line)):
            continue
        what = mark["what"]
        if what.startswith("run "):
            steps.append(Step(what))
            continue
        if not lines[number + 1].startswith("```") or not (what.startswith("file ") or Step(what).stream):
            raise ValueError(f"line {number + 1}: no session to make of this: {line}")
        start = number + 2
        end = lines.index("```", start)
        steps.append(Step(what, start, tuple(lines[start:end])))
    return steps


def shown(step: Step, output: str) -> list[str]:
    """The lines of the output that a step shows, without progress. Those left out become one `…`."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines() if not _PROGRESS.search(line)]
    first, last = step.limit("first"), step.limit("last")
    if (first is None and last is None) or (first or 0) + (last or 0) >= len(lines):
        return lines
    return [*lines[: first or 0], "…", *lines[len(lines) - (last or 0) :]]


def play(page: str, folder: Path) -> str:
    """Run the page's commands in a folder, and return the page with what they print."""
    lines, shift, printed = page.splitlines(), 0, {}
    for step in steps_of(page):
        if step.what.startswith("file "):
            (folder / step.what.removeprefix("file ")).write_text("\n".join(step.block) + "\n", encoding="utf-8")
            continue
        if step.command:
            printed = run(step.command, folder)
        if step.stream:
            block = [f"$ {step.command}"] * bool(step.command) + shown(step, printed[step.stream])
            start = step.start + shift
            lines[start : start + len(step.block)] = block
            shift += len(block) - len(step.block)
    return "\n".join(lines) + "\n"


def run(command: str, folder: Path) -> dict[str, str]:
    """What a command prints, 80 columns wide, by stream. Raises CalledProcessError if it fails."""
    words = shlex.split(command)
    words[:1] = {"rir-mlx": [sys.executable, "-m", "rir_cli"], "python": [sys.executable]}[words[0]]
    print(f"$ {command}", flush=True)
    environment = os.environ | {"COLUMNS": "80", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    out, err = (text.replace(f"{folder}/", "") for text in (done.stdout, done.stderr))
    return {"stdout": out, "stderr": err, "both": f"{err}\n{out}"}


def main(names: tuple[str, ...]) -> None:
    for name in names:
        path = ROOT / name
        with tempfile.TemporaryDirectory() as folder:
            path.write_text(play(path.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or PAGES)
