"""Augmentation: nothing is generated twice or lost, whatever stops it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_runs import IDENTITY, JOB, ROWS, Writer, kept, results_in, rows_of, run

from rir_mlx.backends.base import Sampling
from rir_mlx.data.rows import Row
from rir_mlx.prompting.codec import Codec


def test_outcomes_are_in_the_order_of_the_rows(codec: Codec, tmp_path: Path) -> None:
    outcomes = run(codec, ROWS, tmp_path / "journal", Writer())
    assert [outcome.row for outcome in outcomes] == ROWS
    assert kept(outcomes) == [f"It has to do with {row.text[::-1]}, plainly." for row in ROWS]


def test_a_finished_job_asks_for_nothing_again(codec: Codec, tmp_path: Path) -> None:
    first = run(codec, ROWS, tmp_path / "journal", Writer())
    before = (tmp_path / "journal").read_bytes()
    again = Writer()
    assert run(codec, ROWS, tmp_path / "journal", again) == first
    assert again.asked == []
    assert (tmp_path / "journal").read_bytes() == before


@pytest.mark.parametrize("dies_after", [0, 1, 4])
def test_a_job_killed_in_the_middle_writes_every_row_once(codec: Codec, tmp_path: Path, dies_after: int) -> None:
    dying, after = Writer(dies_after=dies_after), Writer()
    with pytest.raises(KeyboardInterrupt):
        run(codec, ROWS, tmp_path / "journal", dying)
    outcomes = run(codec, ROWS, tmp_path / "journal", after)
    assert len(after.asked) == len(ROWS) - dies_after
    assert {order.key for order in after.asked}.isdisjoint(order.key for order in dying.asked)
    assert outcomes == run(codec, ROWS, tmp_path / "other journal", Writer())
    keys = [result["key"] for result in results_in(tmp_path / "journal")]
    assert len(keys) == len(set(keys)) == len(ROWS)


def test_a_stop_finishes_what_was_taken_and_takes_nothing_more(codec: Codec, tmp_path: Path) -> None:
    first = Writer()
    run(codec, ROWS, tmp_path / "journal", first, stopped=lambda: len(first.asked) >= 2)
    assert len(first.asked) == len(results_in(tmp_path / "journal")) == 2
    after = Writer()
    run(codec, ROWS, tmp_path / "journal", after)
    assert len(after.asked) == len(ROWS) - 2


def test_rows_that_are_alike_are_written_once(codec: Codec, tmp_path: Path) -> None:
    engine = Writer()
    rows = [*rows_of("same", "other", "same"), Row("same", "sadness")]
    outcomes = run(codec, rows, tmp_path / "journal", engine)
    assert len(engine.asked) == 3
    assert outcomes[0].kept == outcomes[2].kept
    assert [outcome.kept["label"] for outcome in outcomes if outcome.kept] == ["joy", "joy", "joy", "sadness"]


CHANGES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"seed": 1}, {}),
    ({"prompt": "another"}, {}),
    ({"sampling": Sampling(max_tokens=31)}, {}),
    ({"sampling": Sampling(max_tokens=32, temperature=0.5)}, {}),
    ({"sampling": Sampling(max_tokens=32, top_p=0.9)}, {}),
    ({"sampling": Sampling(max_tokens=32, min_p=0.1)}, {}),
    ({"sampling": Sampling(max_tokens=32, repetition_penalty=1.1)}, {}),
    ({}, {"adapter": "b"}),
    ({}, {"revision": "2"}),
    ({}, {"model": "n"}),
]


@pytest.mark.parametrize(("job", "identity"), CHANGES, ids=str)
def test_whatever_decides_a_reasoning_makes_it_written_anew(
    codec: Codec, tmp_path: Path, job: dict[str, Any], identity: dict[str, str]
) -> None:
    run(codec, ROWS, tmp_path / "journal", Writer())
    again = Writer()
    run(codec, ROWS, tmp_path / "journal", again, replace(JOB, **job), IDENTITY | identity)
    assert len(again.asked) == len(ROWS)


@pytest.mark.parametrize(
    ("job", "identity"), [({"sampling": Sampling(max_tokens=32, batch_size=1)}, {}), ({}, {"server": "elsewhere"})]
)
def test_what_decides_nothing_does_not(
    codec: Codec, tmp_path: Path, job: dict[str, Any], identity: dict[str, str]
) -> None:
    run(codec, ROWS, tmp_path / "journal", Writer())
    again = Writer()
    run(codec, ROWS, tmp_path / "journal", again, replace(JOB, **job), IDENTITY | identity)
    assert again.asked == []


def test_a_rows_seed_is_its_own_and_stays_when_the_others_change(codec: Codec, tmp_path: Path) -> None:
    all_rows, one_row = Writer(), Writer()
    run(codec, ROWS, tmp_path / "journal", all_rows)
    run(codec, ROWS[2:3], tmp_path / "other journal", one_row)
    seeds = {order.text: order.seed for order in all_rows.asked}
    assert len(set(seeds.values())) == len(ROWS)
    assert one_row.asked[0].seed == seeds["three"]
    assert all(0 <= seed < 2**63 for seed in seeds.values())


def test_rows_come_shortest_first(codec: Codec, tmp_path: Path) -> None:
    """Side by side, texts of like length need the least padding."""
    engine = Writer()
    run(codec, rows_of("b" * 30, "c", "d" * 12, "e" * 7), tmp_path / "journal", engine)
    assert [len(order.text) for order in engine.asked] == [1, 7, 12, 30]


def test_no_rows_are_no_work(codec: Codec, tmp_path: Path) -> None:
    engine = Writer()
    assert run(codec, [], tmp_path / "journal", engine) == []
    assert engine.sampled == []


def test_every_row_says_where_its_reasoning_comes_from(codec: Codec, tmp_path: Path) -> None:
    from rir_mlx import __version__

    engine = Writer()
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, identity=IDENTITY | {"server": "http://here"})
    seeds = {order.text: order.seed for order in engine.asked}
    for outcome in outcomes:
        assert outcome.kept
        assert outcome.kept["provenance"] == {
            **IDENTITY,
            "prompt": "prompt",
            "seed": seeds[outcome.row.text],
            "k": 0,
            "attempt": 0,
            "sampling": {
                "max_tokens": 32,
                "temperature": 0.0,
                "top_p": 1.0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
            },
            "version": __version__,
        }
