"""`python -m benchmarks.gpu`: the same rows for every program, and a table that says what was measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as main
from benchmarks.gpu import parts, processes
from benchmarks.gpu.goals import goal
from benchmarks.gpu.parts import TINY, Plan, Step, ordered, steps
from benchmarks.gpu.report import table
from rir_mlx.backends.limits import Limits
from rir_mlx.errors import Failure
from rir_mlx.speed.job import Job

LIMITS = Limits(2e12, 3e9, "float32", 512, 2**26)


def result(rate: float, *, share: float | None = None) -> dict[str, Any]:
    found = {"rows": 2, "rounds": 3, "rows/s": rate, "tokens/s": 10 * rate, "peak GB": 0.0151}
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
            step.run(1.0)
    assert {job.batch for job in jobs} == {2}
    assert {(job.rows, tuple(job.lengths)) for job in jobs if job.task == "augment"} == {(8, (2, 7))}
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
    assert "| train qa, 2 rows at a time | ours |  |  |  | 30 (3 × 2) | 300 | 0.0151 GB | 25% MFU |" in lines
    assert "| train qa, 2 rows at a time | plain | **3.00 ×** |  |  | 10 (3 × 2) | 100 | 0.0151 GB |  |" in lines
    assert "| MLX, augment, 2 rows at a time | ours |  |  |  | 5 (3 × 2) | 50 | 0.0151 GB |  |" in lines
    assert "- contract tests, torch: 7 passed" in lines
    assert "- exact resume, as it is: the same bytes, repeated: yes, resumed: yes; 0.5 s a step" in lines


def planned(parts_: str, plan: Plan) -> list[Step]:
    return ordered(parts_, plan, LIMITS, tiny=False)


def test_two_thousand_rows_are_classified_512_at_a_time_and_a_few_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 was both. Row by row, 32 rows with reasonings took longer than the time, and the one cold round counted."""
    jobs = []

    def measured(given: Mapping[str, Any], _: float) -> dict[str, Any]:
        jobs.append(Job(**given))
        raise Failure("enough")

    monkeypatch.setattr(parts, "run_apart", measured)
    for step in steps("d", Plan("folder"), LIMITS, tiny=False):
        assert step.result(1.0) == {"error": "enough"}
    assert {(job.peer, job.batch, job.rows) for job in jobs} == {
        ("ours", 512, 2000),
        ("generate-batch", 512, 2000),
        ("generate-rows", 1, 4),
    }
    by_peer = {job.peer: job.reasonings() for job in jobs if job.task == "reasoning"}
    assert by_peer["generate-rows"] == [round(statistics.mean(by_peer["ours"]))] * 4, "as much to write a row"


def test_what_the_goals_need_is_measured_first() -> None:
    keys = [step.key for step in planned("abcdf", Plan("folder"))]
    first = keys[: keys.index("a/torch")]
    assert {key.split("/")[2] for key in first} == {"128", "512"}
    for wanted in ("b/qra/128/ours", "b/qa/128/trl-best", "c/augment/128/generate_batch", "d/label/512/generate-rows"):
        assert wanted in first
    assert all(goal(key) is not None or key.endswith("/ours") for key in first)
    assert {"f/16/deterministic", "f/128/deterministic"} <= set(keys)


def test_results_stand_in_the_order_of_their_sizes() -> None:
    found = {f"c/augment/{size}/ours": result(1.0) for size in (128, 16, 512)}
    about = {"device": "1 core", "machine": "Linux", "tiny": True, "accelerator": None, "limits": vars(LIMITS)}
    lines = [line for line in table(about | {"steps": found}) if "ours" in line]
    assert [size for line in lines for size in ("16 rows", "128 rows", "512 rows") if f", {size}" in line] == [
        "16 rows",
        "128 rows",
        "512 rows",
    ]


def test_goals_and_whether_they_are_met_stand_in_the_table() -> None:
    found = {
        "b/qa/16/ours": result(30.0, share=0.25),
        "b/qa/16/plain": result(10.0) | {"settings": "adapter in float32, no autocast"},
        "b/qa/16/trl-best": result(15.0),
        "b/qra/16/ours": result(30.0, share=0.41),
        "c/augment/32/generate_batch": result(5.0),
        "c/augment/128/generate_batch": result(5.0),
        "d/label/512/ours": result(50.0, share=0.5),
        "d/label/512/generate-rows": result(4.0),
    }
    about = {"device": "a card", "machine": "Linux", "tiny": False, "accelerator": "a card", "limits": vars(LIMITS)}
    lines = [line.split(" | ") for line in table(about | {"steps": found}) if line.startswith("| ")]
    assert lines[0][3:5] == ["goal", "met"]
    rows = sorted(cells[1:5] for cells in lines[1:])
    assert rows == [
        ["generate-rows", "**12.50 ×**", "≥ 10 ×", "yes"],
        ["generate_batch", "", "", ""],
        ["generate_batch", "", "≥ 1.3 ×", ""],
        ["ours", "", "", ""],
        ["ours", "", "", ""],
        ["ours", "", "≥ 40% MFU", "yes"],
        ["plain (adapter in float32, no autocast)", "**3.00 ×**", "≥ 2 ×", "yes"],
        ["trl-best", "**2.00 ×**", "≥ 3 ×", "no"],
    ]


def test_a_file_of_another_device_or_plan_is_refused_with_a_hint() -> None:
    """A file that was begun on a processor went on with a GPU of the same machine."""
    known = {"machine": "Linux", "device": "2 processor cores", "accelerator": None, "plan": {"classify": 512}}
    main.check_same(Path("gpu.json"), {"steps": {}}, known)
    main.check_same(Path("gpu.json"), known, dict(known))
    with pytest.raises(SystemExit, match=r"another device: 2 processor cores, and here is H200\.\nhint: .*--out"):
        main.check_same(Path("gpu.json"), known, known | {"device": "H200", "accelerator": "H200"})
    with pytest.raises(SystemExit, match="another plan"):
        main.check_same(Path("gpu.json"), known, known | {"plan": {"classify": 256}})


def test_no_step_begins_that_cannot_end_in_time_and_one_that_was_cut_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def slow(seconds: float) -> dict[str, Any]:
        given.append(seconds)
        time.sleep(seconds)
        raise Failure("It took more than 0 s.")

    monkeypatch.setattr(main, "save", lambda *_: None)
    known: dict[str, Any] = {"steps": {}}
    due = [Step("long", slow, 60, 90), Step("short", slow, 0, 90), Step("later", slow, 1, 90)]
    assert main.run_steps(due, known, tmp_path, time.monotonic() + 0.1) == 3
    assert list(known["steps"]) == ["short"]
    assert len(given) == 1
    assert given[0] < 0.11
    assert main.is_due(due[1], known, again=False)


def test_contract_tests_that_do_not_end_are_counted_as_far_as_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts were read from the last lines of a run, which a run that is stopped never prints. MLX multiplies
    float32 with 10 bits on some GPUs, unless it is told otherwise."""
    test = tmp_path / "test_two.py"
    lines = ["import os", "def test_one():", "    assert os.environ['MLX_ENABLE_TF32'] == '0'", "def test_two():"]
    lines += ["    assert 0"]
    run = processes.bounded

    def stopped(*given: Any) -> Any:
        run(*given)
        raise Failure("It took more than 9 s.")

    monkeypatch.setattr(processes, "bounded", stopped)
    test.write_text("\n".join(lines), encoding="utf-8")
    given = (str(test), "-k", "test", "-c", "/dev/null", "--rootdir", str(tmp_path))
    found = processes.contract_tests("mlx", given, 300.0)
    assert found["counts"] == {"passed": 1, "failed": 1}
    assert [name.rpartition("::")[2] for name in found["failed"]] == ["test_two"]
    about = {"device": "", "machine": "", "tiny": True, "accelerator": None, "limits": vars(LIMITS)}
    [line] = [line for line in table(about | {"steps": {"a/mlx": found}}) if line.startswith("- contract tests")]
    assert "1 passed, 1 failed; stopped before the end: It took more than 9 s.; failed:" in line
