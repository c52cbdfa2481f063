"""`python -m benchmarks.gpu`: the same rows for every program, and a table that says what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.gpu import parts
from benchmarks.gpu.parts import TINY, Plan, steps
from benchmarks.gpu.report import table
from rir_mlx.backends.limits import Limits
from rir_mlx.speed.job import Job

LIMITS = Limits(2e12, 3e9, "float32", 512, 2**26)


def result(rate: float, *, share: float | None = None) -> dict[str, Any]:
    found = {"rows at a time": 2, "rounds": 3, "rows/s": rate, "tokens/s": 10 * rate, "peak GB": 0.0151}
    return found | {"share": share, "limit": "arithmetic"}


def test_every_program_is_told_how_many_rows_to_take_and_none_may_take_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours took one row at a time where it was slow, beside others that took two."""
    jobs = []

    def measured(given: Mapping[str, Any], _: float) -> dict[str, Any]:
        jobs.append(Job(**given))
        return {"rows": 1, "seconds": [1.0], "rows/s": [1.0], "tokens/s": [1.0], "peak GB": 0.1, "works": []}

    monkeypatch.setattr(parts, "run_apart", measured)
    for part in "bc":
        for step in steps(part, Plan("folder", **TINY), LIMITS, tiny=True):  # type: ignore[arg-type]
            step.run()
    assert {job.batch for job in jobs} == {2}
    assert not any(job.may_shrink for job in jobs)
    assert {job.peer for job in jobs if job.task == "qra"} == {"ours", "plain", "trl-best"}


def test_the_table_says_what_machine_it_is_of_and_names_what_was_measured() -> None:
    found = {
        "a/torch": {"counts": {"passed": 7}, "failed": []},
        "b/qa/2/ours": result(30.0, share=0.25),
        "b/qa/2/plain": result(10.0),
        "e/c/augment/2/ours": result(5.0),
        "f/as it is": {"same bytes": {"repeated": True, "resumed": True}, "seconds a step": 0.5},
    }
    about = {"device": "1 core", "machine": "Linux", "tiny": True, "accelerator": None, "limits": vars(LIMITS)}
    lines = list(table(about | {"steps": found}))
    assert lines[0].startswith("**Measured on a processor, no GPU**: 1 core; Linux. A tiny model of 2 layers")
    assert "no figure says how fast anything is" in lines[2]
    assert "| train qa, 2 rows at a time | plain | **3.00 ×** | 10 (3 × 2) | 100 | 0.0151 GB |  |" in lines
    assert "| MLX, augment, 2 rows at a time | ours |  | 5 (3 × 2) | 50 | 0.0151 GB |  |" in lines
    assert "- contract tests, torch: 7 passed" in lines
    assert "- exact resume, as it is: the same bytes, repeated: yes, resumed: yes; 0.5 s a step" in lines
