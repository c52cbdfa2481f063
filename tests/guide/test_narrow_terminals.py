"""What commands print at a terminal of 60 and 80 columns: no line is wider, and no word is broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import Run
from rich.cells import cell_len

from rir_mlx.guide import doctor
from rir_mlx.guide.doctor import Check

COMMANDS = {
    "runs": ("runs",),
    "compare": ("compare", "runs/small", "runs/small"),
    "check": ("check", "small.yaml", "--offline"),
    "models": ("models",),
    "doctor": ("doctor", "--offline"),
    "init": ("init", "rows.csv", "--yes", "--offline", "-o", "new.yaml"),
    "review": ("review", "runs/small"),
}
_BETWEEN = re.compile(r"[\s\u2500-\u259f|.,;:]+")
CHECK = Check("Hub", "warn", "not reachable, so that models come from this machine alone", "HF_HUB_OFFLINE=1 says so")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("name", COMMANDS)
def test_lines_fit_and_words_are_whole(
    rir: Run, evaluated_run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(evaluated_run.parents[1])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(doctor, "examine", lambda **_: iter([CHECK]))
    printed = {}
    for columns in (60, 80, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        Path("new.yaml").unlink(missing_ok=True)
        result = rir(*COMMANDS[name])
        assert result.out.strip()
        printed[columns] = _ESCAPE.sub("", result.out + result.err)
    whole = set(_BETWEEN.split(printed.pop(1000)))
    for columns, text in printed.items():
        assert [line for line in text.splitlines() if cell_len(line) > columns] == []
        assert {word for word in _BETWEEN.split(text) if word not in whole} == set()
