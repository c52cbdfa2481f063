"""What commands print at a terminal of 40 to 80 columns: no line is wider, and no word is broken."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run
from comparisons import a_comparison
from rich.cells import cell_len
from rir_cli.console import StageLines, print_demo
from rir_cli.starting.questions import agrees, ask

from rir_mlx.evaluation.schema import Comparison
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


STRAYS = "Probably misspelt: 'sadnes' (1 row) for 'sadness'. Leave these rows out?"


def a_stage() -> None:
    with StageLines().stage("Classifier qra-scrambled: control: reasonings of other rows"):
        pass


@pytest.mark.parametrize(
    "shown",
    [
        lambda: agrees(STRAYS, default=True),
        lambda: ask("The question that the labels answer", "Which label fits the text best of these?"),
        lambda: print_demo(Comparison.model_validate(a_comparison()), "qa", {}),
        a_stage,
    ],
    ids=["yes or no", "question", "demo", "stage"],
)
def test_questions_and_the_demo_fit_too(
    shown: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal broke `init`'s questions inside words, and what the demo prints in 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    printed = {}
    for columns in (40, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
        shown()
        printed[columns] = _ESCAPE.sub("", "".join(capsys.readouterr()))
    assert [line for line in printed[40].splitlines() if cell_len(line) > 40] == []
    whole = set(_BETWEEN.split(printed[1000]))
    assert {word for word in _BETWEEN.split(printed[40]) if word not in whole} == set()


def test_a_stage_ends_at_a_terminal_of_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for columns in ("1", "5"):
        monkeypatch.setenv("COLUMNS", columns)
        a_stage()
