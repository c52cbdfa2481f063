"""A pytest plugin that writes each test's outcome to a file as soon as it is known, so that a run that is stopped can
be counted too: `-p benchmarks.gpu.outcomes`, with the file's path in the environment."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

PLACE = "RIR_BENCHMARK_OUTCOMES"


def pytest_configure(config: Any) -> None:
    if not hasattr(config, "workerinput"):  # the process that started the workers hears of all tests
        config.pluginmanager.register(_Outcomes())


class _Outcomes:
    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            with Path(os.environ[PLACE]).open("a", encoding="utf-8") as file:
                file.write(json.dumps([report.outcome, report.nodeid]) + "\n")


def counted(place: Path) -> tuple[dict[str, int], list[str]]:
    """How many tests passed, failed or were skipped, and those that failed."""
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    outcomes = [json.loads(line) for line in lines]
    return dict(Counter(outcome for outcome, _ in outcomes)), [
        name for outcome, name in outcomes if outcome == "failed"
    ]
