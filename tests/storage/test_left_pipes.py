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
from rir_cli.streams import READER_LEFT, ends_with_its_reader

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


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_python_has_nothing_to_complain_of_as_it_exits(left: TextIOWrapper, encoding: str) -> None:
    """It flushes what is buffered once more. Where the encoding is ASCII, click writes the bytes itself."""
    command, variables = [sys.executable, "-m", "rir_mlx", "--help"], os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(command, stdout=left, stderr=subprocess.PIPE, timeout=60, check=False, env=variables)
    assert (ended.returncode, ended.stderr) == (READER_LEFT, b"")


@pytest.mark.parametrize(
    ("end", "code"), [(SystemExit(0), READER_LEFT), (SystemExit(), READER_LEFT), (SystemExit(2), 2), (KeyError(), None)]
)
def test_what_fails_before_the_last_is_written_keeps_its_exit_code(
    left: TextIOWrapper, monkeypatch: pytest.MonkeyPatch, end: BaseException, code: int | None
) -> None:
    monkeypatch.setattr(sys, "stdout", left)

    def command() -> None:
        with ends_with_its_reader():
            print("still buffered")
            raise end

    with pytest.raises((SystemExit, KeyError)) as ended:
        command()
    assert getattr(ended.value, "code", None) == code
