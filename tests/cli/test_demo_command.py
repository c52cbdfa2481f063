"""What the demo shows: a line for each stage, a table, a row that reasoning won, and what to do next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from commands import Finished, Run
from comparisons import a_comparison
from rir_cli.console import print_demo

from rir_mlx.evaluation.schema import Comparison
from rir_mlx.stages import open_run

BRIEF = "Trained too briefly, for the loss was still falling at the end."


def _row(predicted: str, probability: float, reasoning: str | None = None) -> dict[str, Any]:
    probabilities = dict.fromkeys(("joy", "anger"), 1 - probability) | {predicted: probability}
    text = f"i was glad, now i am cranky {probability}"
    return {
        "text": text,
        "label": "anger",
        "predicted": predicted,
        "probabilities": probabilities,
        "reasoning": reasoning,
    }


def _printed(rows: dict[str, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str], arm: str = "qra") -> str:
    print_demo(Comparison.model_validate(a_comparison() | {"warnings": [BRIEF]}), arm, rows)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return out


def test_the_demo_shows_the_surest_row_that_reasoning_won_with_the_bars_of_both(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = [_row("joy", 0.6), _row("joy", 0.7), _row("anger", 0.8), _row("anger", 0.9)]
    reasoned = [_row("anger", 0.9, "Sure."), _row("anger", 0.8, "Less so."), _row("joy", 0.9, "No."), _row("anger", 1)]
    out = _printed({"qa": plain, "qra": reasoned}, capsys)
    assert "Only qra is right in 2 rows, only qa in 1." in out
    assert f"note: {BRIEF}\n\n" in out
    assert "the right label is anger:\n\ni was glad, now i am cranky 0.9\n" in out
    assert re.search(r"qa, without a reasoning:\njoy +60\.0%  █+\nanger +40\.0%  █+\n", out)
    assert re.search(r"qra: Sure\.\nanger +90\.0%  █+\njoy +10\.0%  █+\n", out)
    assert "Less so." not in out


def test_the_demo_shows_no_row_where_reasoning_won_none(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"qa": [_row("anger", 0.9)], "qra": [_row("joy", 0.9, "No.")]}
    out = _printed(rows, capsys)
    assert "Only qra is right in 0 rows, only qa in 1." in out
    assert "wins" not in out
    assert "right in" not in _printed({"qra": rows["qra"]}, capsys)
    assert "right in" not in _printed({"qa": rows["qa"]}, capsys, arm="qa")


def test_the_demo_says_a_line_for_each_stage_and_opens_the_report(
    rir: Run, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("rir_mlx.stages.open_run", lambda _, options: open_run("small.yaml", options))
    monkeypatch.setattr("typer.launch", opened.append)
    result = rir("demo", "--open")
    assert result.code == 0, result.err
    stages = re.findall(r"^(\S+ \S+).* +\d+ s$", result.err, re.MULTILINE)
    assert stages[:3] == ["R-Gen learns", "R-Gen writes", "Classifier qa:"]
    assert stages[-1] == "All are"
    assert "already done" not in result.err
    assert "runs/small/report.html" in result.out
    assert result.out.splitlines()[-1].startswith("Next: ")
    assert [Path(urlparse(url).path) for url in opened] == [Path("runs/small/report.html").resolve()]
