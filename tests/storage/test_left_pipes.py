"""A pipe whose reader has left, as in `rir-mlx runs | head -1`: every command ends in silence, with one exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import pytest
from rir_cli.app import main
from rir_cli.streams import READER_LEFT

COMMANDS = {
    "help": ("--help",),
    "runs": ("runs",),
    "compare": ("compare", "small", "small"),
    "check": ("check", "small.yaml", "--offline"),
    "recipe": ("recipe", "demo"),
    "report": ("report", "small", "--no-open"),
    "evaluate": ("evaluate", "runs/small", "-q"),
    "json": ("evaluate", "runs/small", "-q", "--json"),
    "classify": ("classify", "i feel happy", "-q"),
}


@pytest.fixture
def left() -> Iterator[TextIOWrapper]:
    """The end of a pipe that is written to, where nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_reader_has_left_ends_in_silence(
    evaluated_run: Path,
    left: TextIOWrapper,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """Exit code 1 or 0, by the library that wrote and the moment that the reader left."""
    monkeypatch.chdir(evaluated_run.parents[1])
    monkeypatch.setattr(sys, "argv", ["rir-mlx", *COMMANDS[name]])
    monkeypatch.setattr(sys, "stdout", left)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == READER_LEFT
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if not line.startswith(("note: ", "Counting "))] == []


def test_python_has_nothing_to_complain_of_as_it_exits(left: TextIOWrapper) -> None:
    """It flushes what is buffered once more."""
    command = [sys.executable, "-m", "rir_mlx", "--help"]
    ended = subprocess.run(command, stdout=left, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (READER_LEFT, b"")
