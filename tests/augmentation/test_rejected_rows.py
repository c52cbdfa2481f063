"""What is rejected is generated again, with new seeds and warmer, as often as the recipe says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_runs import IDENTITY, JOB, LABELS, QUESTION, ROWS, Writer, kept, results_in, run

from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import AugmentationJob, ResultFlags
from rir_mlx.augmentation.summary import AugmentationSummary
from rir_mlx.backends.base import Sampling
from rir_mlx.data.rows import Row
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.storage.journal import Journal


def stubborn(times: int) -> Callable[[ReasoningRequest], str]:
    """Empty texts for `two`, so many times."""
    left = Counter(two=times)

    def says(order: ReasoningRequest) -> str:
        if order.text.startswith("two") and left["two"]:
            left["two"] -= 1
            return " "
        return f"It has to do with {order.text[::-1]}, plainly ({order.seed % 7})."

    return says


def test_a_rejected_row_is_written_again_with_a_new_seed_and_warmer(codec: Codec, tmp_path: Path) -> None:
    engine = Writer(stubborn(2))
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, replace(JOB, retries=3))
    assert len(engine.asked) == len(ROWS) + 2
    again = [order for order in engine.asked if order.text.startswith("two")]
    assert len({order.seed for order in again}) == len({order.key for order in again}) == 3
    assert [sampling.temperature for sampling in engine.sampled] == [0.0, 0.7, 0.7]
    assert all(outcome.kept for outcome in outcomes)
    assert [(rejection.rejected, rejection.attempt) for rejection in outcomes[1].rejected] == [
        ("empty", 0),
        ("empty", 1),
    ]
    assert outcomes[1].kept
    assert outcomes[1].kept["provenance"]["attempt"] == 2
    assert outcomes[1].kept["provenance"]["sampling"]["temperature"] == 0.7


def test_it_is_given_up_at_the_limit(codec: Codec, tmp_path: Path) -> None:
    engine = Writer(stubborn(100))
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, replace(JOB, retries=2))
    assert len(engine.asked) == len(ROWS) + 2
    assert outcomes[1].kept is None
    assert [rejection.attempt for rejection in outcomes[1].rejected] == [0, 1, 2]


def test_killed_while_rejected_rows_are_written_again_it_continues(codec: Codec, tmp_path: Path) -> None:
    job = replace(JOB, retries=3)
    whole = run(codec, ROWS, tmp_path / "whole", Writer(stubborn(2)), job)
    says = stubborn(2)
    for dies_after in (2, 3, 1):
        with pytest.raises(KeyboardInterrupt):
            run(codec, ROWS, tmp_path / "journal", Writer(says, dies_after), job)
    assert run(codec, ROWS, tmp_path / "journal", Writer(says), job) == whole
    assert len(results_in(tmp_path / "journal")) == len(ROWS) + 2


def test_other_filters_judge_what_is_there_and_write_only_what_they_reject(codec: Codec, tmp_path: Path) -> None:
    def says(order: ReasoningRequest) -> str:
        return "The label is joy." if order.text == "one" else f"It has to do with {order.text[::-1]}, plainly."

    run(codec, ROWS, tmp_path / "journal", Writer(says), filters=())
    engine = Writer()
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, replace(JOB, retries=1))
    assert [order.text for order in engine.asked] == ["one"]
    assert [rejection.rejected for rejection in outcomes[0].rejected] == ["restating"]
    none = Writer()
    assert kept(run(codec, ROWS, tmp_path / "journal", none, filters=()))[0] == "The label is joy."
    assert none.asked == []


def test_an_attempt_is_due_only_where_all_before_were_rejected(codec: Codec, tmp_path: Path) -> None:
    """Under other filters the first attempt may be kept though the second was rejected: a third is not needed."""
    says = iter(["The label is joy.", " ", "Never asked for."])
    rows = ROWS[:1]
    first = Writer(lambda order: next(says))
    run(codec, rows, tmp_path / "journal", first, replace(JOB, retries=1))
    assert len(first.asked) == 2
    after = Writer()
    outcomes = run(codec, rows, tmp_path / "journal", after, replace(JOB, retries=3), filters=())
    assert after.asked == []
    assert kept(outcomes) == ["The label is joy."]


def test_what_an_engine_refuses_is_rejected_and_the_rest_goes_on(codec: Codec, tmp_path: Path) -> None:
    class Picky(Writer):
        def write(self, orders: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
            for written in super().write(orders, sampling):
                bad = self.asked[-1].text == "one"
                yield GeneratedReasoning(written.key, "", 0, "stop", refused="not that one") if bad else written

    outcomes = run(codec, ROWS, tmp_path / "journal", Picky(), replace(JOB, retries=1))
    assert [rejection.rejected for rejection in outcomes[0].rejected] == ["refused", "refused"]
    assert all(outcome.kept for outcome in outcomes[1:])
    again = Picky()
    assert run(codec, ROWS, tmp_path / "journal", again, replace(JOB, retries=1), filters=()) is not None
    assert again.asked == []
    summary = AugmentationSummary()
    for outcome in outcomes:
        summary.add(outcome)
    assert "refused 2 requests" in summary.warnings()[0]


def test_half_a_character_does_not_stop_the_journal(codec: Codec, tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.append({"key": "0" * 16, "reasoning": "half of one: \ud83d"})
    assert len(results_in(tmp_path / "journal")) == 1


def test_a_journal_with_the_old_key_of_filters_is_still_read(codec: Codec, tmp_path: Path) -> None:
    before = run(codec, ROWS, tmp_path / "journal", Writer())
    lines = (tmp_path / "journal").read_text()
    assert '"filters": ' in lines
    (tmp_path / "journal").write_text(lines.replace('"filters": ', '"gates": '))
    again = Writer()
    assert run(codec, ROWS, tmp_path / "journal", again) == before
    assert run(codec, ROWS, tmp_path / "journal", again, filters=()) == before
    assert again.asked == []


def test_own_reasonings_are_judged_and_never_written(codec: Codec, tmp_path: Path) -> None:
    engine = Writer()
    rows = [Row("one", "joy", "Their friend came home."), Row("two", "joy", "joy joy joy joy"), Row("three", "joy")]
    outcomes = run(codec, rows, tmp_path / "journal", engine, replace(JOB, retries=1))
    assert [order.text for order in engine.asked] == ["three"]
    assert outcomes[0].kept
    assert outcomes[0].kept["reasoning"] == "Their friend came home."
    assert outcomes[0].kept["provenance"]["engine"] == "given"
    assert outcomes[1].kept is None
    assert [rejection.rejected for rejection in outcomes[1].rejected] == ["repeating"]


class Refusing(Writer):
    """Refuses `one`, and keeps failing on `three`."""

    def write(self, requests: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        for generated in super().write(requests, sampling):
            text = self.asked[-1].text
            if text in ("one", "three"):
                problem = {"one": {"refused": "against the rules"}, "three": {"failed": "status 500"}}[text]
                yield GeneratedReasoning(generated.key, "", 0, "stop", **problem)
            else:
                yield generated


def asked_by(journal: Path, codec: Codec, **flags: Any) -> list[str]:
    """The texts that an engine which answers everything is asked for."""
    engine = Writer()
    with_flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction), **flags)
    with Journal(journal, with_flags) as opened:
        AugmentationJob(ROWS, replace(JOB, retries=1), IDENTITY, with_flags, opened).write(engine, Silent())
    return sorted(request.text for request in engine.asked)


def test_what_a_server_fails_on_is_not_tried_in_another_attempt(codec: Codec, tmp_path: Path) -> None:
    """Another attempt is for another reasoning. The server has tried this request several times already."""
    engine = Refusing()
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, replace(JOB, retries=2))
    assert [candidate.rejected for candidate in outcomes[0].rejected] == ["refused"] * 3
    assert [candidate.rejected for candidate in outcomes[2].rejected] == ["failed"]
    assert asked_by(tmp_path / "journal", codec) == []


def test_refusals_are_due_again_where_asked_for_or_where_the_server_changes(codec: Codec, tmp_path: Path) -> None:
    for name, flags in (("retry", {"retry_refused": True}), ("elsewhere", {"asked": "another server"})):
        run(codec, ROWS, tmp_path / name, Refusing(), replace(JOB, retries=1))
        assert asked_by(tmp_path / name, codec, **flags) == ["one", "three"]
        assert asked_by(tmp_path / name, codec, **flags | {"retry_refused": False}) == []


def test_a_refusal_that_a_later_attempt_made_up_for_is_not_asked_again(codec: Codec, tmp_path: Path) -> None:
    """Another server wrote, and cost, a reasoning for rows that had one."""

    class Once(Refusing):
        def write(self, requests: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
            first = not self.sampled
            return super().write(requests, sampling) if first else Writer.write(self, requests, sampling)

    before = run(codec, ROWS, tmp_path / "journal", Once(), replace(JOB, retries=1))
    assert [bool(outcome.kept) for outcome in before] == [True, True, False, True, True]
    assert asked_by(tmp_path / "journal", codec, asked="another server") == ["three"]


@pytest.mark.parametrize("dies_after", [0, 1])
def test_asking_again_is_resumed_after_a_kill(codec: Codec, tmp_path: Path, dies_after: int) -> None:
    run(codec, ROWS, tmp_path / "journal", Refusing(), JOB)
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction), retry_refused=True)
    with Journal(tmp_path / "journal", flags) as opened, pytest.raises(KeyboardInterrupt):
        AugmentationJob(ROWS, JOB, IDENTITY, flags, opened).write(Writer(dies_after=dies_after), Silent())
    left = ["one", "three"][dies_after:]
    assert asked_by(tmp_path / "journal", codec, retry_refused=True) == left
    assert asked_by(tmp_path / "journal", codec) == []


def test_a_refusal_of_an_earlier_version_is_asked_of_a_server_once_more(codec: Codec, tmp_path: Path) -> None:
    run(codec, ROWS, tmp_path / "journal", Refusing(), replace(JOB, retries=0))
    assert all("asked" not in json.loads(line) for line in (tmp_path / "journal").read_text().splitlines())
    assert asked_by(tmp_path / "journal", codec, asked="a server") == ["one", "three"]
