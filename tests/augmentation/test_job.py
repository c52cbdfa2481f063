"""Augmentation: nothing is written twice or lost, what is rejected is written again, and the best is chosen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rir_mlx.augmentation.engines.base import GeneratedReasoning, LabelQuestion, ReasoningRequest
from rir_mlx.augmentation.engines.local import LocalEngine
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import (
    AugmentationJob,
    AugmentationSettings,
    AugmentedRow,
    ResultFlags,
)
from rir_mlx.augmentation.summary import AugmentationSummary
from rir_mlx.backends.base import Sampling
from rir_mlx.backends.fake import FakeBackend
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import LabelScores
from rir_mlx.data.rows import Row
from rir_mlx.progress import Silent
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.storage.journal import Journal, read_results
from rir_mlx.types import DEFAULT_FILTERS

LABELS = ["joy", "sadness"]
QUESTION = LabelQuestion(LABELS, "Which label fits?")
IDENTITY = {"model": "m", "revision": "1", "adapter": "a"}


class Writer:
    """Writes what `says` makes of an order, and remembers what it was asked. Raises after `dies_after` orders."""

    def __init__(self, says: Callable[[ReasoningRequest], str] | None = None, dies_after: int | None = None) -> None:
        self.says = says or (lambda order: f"It has to do with {order.text[::-1]}, plainly.")
        self.dies_after = dies_after
        self.asked: list[ReasoningRequest] = []
        self.sampled: list[Sampling] = []

    def identity(self) -> dict[str, str]:
        return IDENTITY

    def write(self, orders: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        self.sampled.append(sampling)
        for order in orders:
            if len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(order)
            text = self.says(order)
            yield GeneratedReasoning(order.key, text, len(text.split()), "stop")

    def close(self) -> None:
        return


def rows_of(*texts: str, label: str = "joy") -> list[Row]:
    return [Row(text, label) for text in texts]


ROWS = [*rows_of("one", "two \U0001f642", "three"), *rows_of("four", "five", label="sadness")]
JOB = AugmentationSettings("prompt", Sampling(max_tokens=32), seed=0)


def run(
    codec: Codec,
    rows: list[Row],
    journal: Path,
    engine: Writer,
    job: AugmentationSettings = JOB,
    identity: dict[str, str] | None = None,
    filters: Any = DEFAULT_FILTERS,
    stopped: Callable[[], bool] = lambda: False,
) -> list[AugmentedRow]:
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction, filters))
    with Journal(journal, flags) as opened:
        augmentation = AugmentationJob(rows, job, identity or IDENTITY, flags, opened)
        augmentation.write(engine, Silent(), stopped)
        return list(augmentation.outcomes())


def kept(outcomes: list[AugmentedRow]) -> list[str | None]:
    return [one.kept["reasoning"] if one.kept else None for one in outcomes]


def test_outcomes_are_in_the_order_of_the_rows(codec: Codec, tmp_path: Path) -> None:
    outcomes = run(codec, ROWS, tmp_path / "journal", Writer())
    assert [one.row for one in outcomes] == ROWS
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
    assert {one.key for one in after.asked}.isdisjoint(one.key for one in dying.asked)
    assert outcomes == run(codec, ROWS, tmp_path / "other journal", Writer())
    keys = [result["key"] for result in read_results(tmp_path / "journal")]
    assert len(keys) == len(set(keys)) == len(ROWS)


def test_a_stop_finishes_what_was_taken_and_takes_nothing_more(codec: Codec, tmp_path: Path) -> None:
    first = Writer()
    run(codec, ROWS, tmp_path / "journal", first, stopped=lambda: len(first.asked) >= 2)
    assert len(first.asked) == len(list(read_results(tmp_path / "journal"))) == 2
    after = Writer()
    run(codec, ROWS, tmp_path / "journal", after)
    assert len(after.asked) == len(ROWS) - 2


def test_rows_that_are_alike_are_written_once(codec: Codec, tmp_path: Path) -> None:
    engine = Writer()
    rows = [*rows_of("same", "other", "same"), Row("same", "sadness")]
    outcomes = run(codec, rows, tmp_path / "journal", engine)
    assert len(engine.asked) == 3
    assert outcomes[0].kept == outcomes[2].kept
    assert [one.kept["label"] for one in outcomes if one.kept] == ["joy", "joy", "joy", "sadness"]


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


# rejected and written again


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
    assert all(one.kept for one in outcomes)
    assert [(one.rejected, one.attempt) for one in outcomes[1].rejected] == [("empty", 0), ("empty", 1)]
    assert outcomes[1].kept
    assert outcomes[1].kept["provenance"]["attempt"] == 2
    assert outcomes[1].kept["provenance"]["sampling"]["temperature"] == 0.7


def test_it_is_given_up_at_the_limit(codec: Codec, tmp_path: Path) -> None:
    engine = Writer(stubborn(100))
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, replace(JOB, retries=2))
    assert len(engine.asked) == len(ROWS) + 2
    assert outcomes[1].kept is None
    assert [one.attempt for one in outcomes[1].rejected] == [0, 1, 2]


def test_killed_while_rejected_rows_are_written_again_it_continues(codec: Codec, tmp_path: Path) -> None:
    job = replace(JOB, retries=3)
    whole = run(codec, ROWS, tmp_path / "whole", Writer(stubborn(2)), job)
    says = stubborn(2)
    for dies_after in (2, 3, 1):
        with pytest.raises(KeyboardInterrupt):
            run(codec, ROWS, tmp_path / "journal", Writer(says, dies_after), job)
    assert run(codec, ROWS, tmp_path / "journal", Writer(says), job) == whole
    assert len(list(read_results(tmp_path / "journal"))) == len(ROWS) + 2


def test_other_filters_judge_what_is_there_and_write_only_what_they_reject(codec: Codec, tmp_path: Path) -> None:
    def says(order: ReasoningRequest) -> str:
        return "The label is joy." if order.text == "one" else f"It has to do with {order.text[::-1]}, plainly."

    run(codec, ROWS, tmp_path / "journal", Writer(says), filters=())
    engine = Writer()
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, replace(JOB, retries=1))
    assert [order.text for order in engine.asked] == ["one"]
    assert [one.rejected for one in outcomes[0].rejected] == ["restating"]
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
    assert [one.rejected for one in outcomes[0].rejected] == ["refused", "refused"]
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
    assert len(list(read_results(tmp_path / "journal"))) == 1


def test_a_journal_that_calls_the_filters_gates_is_still_read(codec: Codec, tmp_path: Path) -> None:
    before = run(codec, ROWS, tmp_path / "journal", Writer())
    lines = (tmp_path / "journal").read_text()
    assert '"filters": ' in lines
    (tmp_path / "journal").write_text(lines.replace('"filters": ', '"gates": '))
    again = Writer()
    assert run(codec, ROWS, tmp_path / "journal", again) == before
    assert run(codec, ROWS, tmp_path / "journal", again, filters=()) == before
    assert again.asked == []


# a reasoning of one's own


def test_own_reasonings_are_judged_and_never_written(codec: Codec, tmp_path: Path) -> None:
    engine = Writer()
    rows = [Row("one", "joy", "Their friend came home."), Row("two", "joy", "joy joy joy joy"), Row("three", "joy")]
    outcomes = run(codec, rows, tmp_path / "journal", engine, replace(JOB, retries=1))
    assert [order.text for order in engine.asked] == ["three"]
    assert outcomes[0].kept
    assert outcomes[0].kept["reasoning"] == "Their friend came home."
    assert outcomes[0].kept["provenance"]["engine"] == "given"
    assert outcomes[1].kept is None
    assert [one.rejected for one in outcomes[1].rejected] == ["repeating"]


# provenance


def test_every_row_says_where_its_reasoning_comes_from(codec: Codec, tmp_path: Path) -> None:
    from rir_mlx import __version__

    engine = Writer()
    outcomes = run(codec, ROWS, tmp_path / "journal", engine, identity=IDENTITY | {"server": "http://here"})
    seeds = {order.text: order.seed for order in engine.asked}
    for one in outcomes:
        assert one.kept
        assert one.kept["provenance"] == {
            **IDENTITY,
            "prompt": "prompt",
            "seed": seeds[one.row.text],
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


# several a row


def choosing(codec: Codec, tmp_path: Path, name: str = "journal", n: int = 4) -> tuple[list[AugmentedRow], Path]:
    from rir_mlx.models.hub import resolve_model

    journal = tmp_path / name
    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    job = AugmentationSettings("prompt", Sampling(max_tokens=16, temperature=1.0), 0, n=n)
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction))
    task = ClassificationTask(dict.fromkeys(LABELS, ""), QUESTION.instruction, 400, 64)
    with Journal(journal, flags) as opened:
        augmentation = AugmentationJob(ROWS, job, IDENTITY, flags, opened)
        says = Writer(lambda order: " " if order.seed % 5 == 0 else f"Number {order.seed % 1000}, {order.label}.")
        augmentation.write(says, Silent())
        scorer = Classifier(model, codec, task, "qra")
        augmentation.choose(scorer, Silent(), batch_size=4, stopped=lambda: False)
        assert augmentation.choices_due() == 0
        return list(augmentation.outcomes()), journal


def test_of_several_the_one_is_kept_under_which_the_label_is_likeliest(codec: Codec, tmp_path: Path) -> None:
    from rir_mlx.models.hub import resolve_model

    outcomes, journal = choosing(codec, tmp_path)
    written = [one for one in read_results(journal) if "reasoning" in one]
    assert len(written) == 4 * len(ROWS)
    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    scorer = Classifier(
        model, codec, ClassificationTask(dict.fromkeys(LABELS, ""), QUESTION.instruction, 400, 64), "qra"
    )
    for one in outcomes:
        assert one.kept
        choice = one.kept["choice"]
        masked = one.kept["reasoning"].replace(one.row.label, "___")
        [prediction] = scorer.predictions(scorer.given([one.row.text], [masked]), "reasoned")
        assert choice["chance"] == pytest.approx(prediction.probabilities[one.row.label], abs=1e-9)
        assert choice["of"] + len(one.rejected) == 4
        assert choice["margin"] >= 0
    assert len({one.kept["provenance"]["k"] for one in outcomes if one.kept}) > 1


def test_a_choice_is_made_once(codec: Codec, tmp_path: Path) -> None:
    first, journal = choosing(codec, tmp_path)
    before = journal.read_bytes()
    assert choosing(codec, tmp_path)[0] == first
    assert journal.read_bytes() == before


def test_a_tie_is_recorded_and_the_first_is_kept(codec: Codec, tmp_path: Path) -> None:
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction))
    with Journal(tmp_path / "journal", flags) as opened:
        job = AugmentationSettings("prompt", Sampling(max_tokens=16, temperature=1.0), 0, n=3)
        augmentation = AugmentationJob(ROWS[:1], job, IDENTITY, flags, opened)
        augmentation.write(Writer(lambda order: "Their friend came home."), Silent())

        class Even:
            task = ClassificationTask({"joy": "", "sadness": ""}, "", 400, 64)

            def given(self, texts: list[str], reasonings: list[str], batch_size: int) -> LabelScores:
                rows = len(texts)
                return LabelScores(np.log([[0.75, 0.25]] * rows), reasonings, [0] * rows, [0] * rows)

        augmentation.choose(Even(), Silent(), batch_size=4, stopped=lambda: False)  # type: ignore[arg-type]
        [outcome] = augmentation.outcomes()
    assert outcome.kept
    assert outcome.kept["choice"] == {"of": 3, "chance": 0.75, "margin": 0.0, "tied": True}
    assert outcome.kept["provenance"]["k"] == 0


# the local engine


def test_a_long_text_leaves_room_for_its_reasoning(codec: Codec) -> None:
    from rir_mlx.models.hub import resolve_model

    seen: list[int] = []
    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    generate = model.generate

    def watched(requests: Any, sampling: Any, *, prefix: Any = (), on_token: Any = None) -> Any:
        for request in requests:
            seen.append(len(prefix) + len(request.tokens))
            yield from generate([request], sampling, prefix=prefix)

    model.generate = watched  # type: ignore[method-assign]
    engine = LocalEngine(model, codec, QUESTION, 220, {})
    orders = [
        ReasoningRequest("a", "happy because my friend came home " * 40, "joy", 1),
        ReasoningRequest("b", "short", "joy", 2),
    ]
    assert [one.key for one in engine.write(orders, Sampling(max_tokens=50))] == ["a", "b"]
    assert seen[0] == 170
    assert seen[1] < 170


def test_the_local_engine_takes_no_more_than_a_batch_ahead(codec: Codec) -> None:
    """Whoever stops giving orders waits for all that were taken."""
    from rir_mlx.models.hub import resolve_model

    taken: list[int] = []

    def orders() -> Iterator[ReasoningRequest]:
        for number in range(10_000):
            taken.append(number)
            yield ReasoningRequest(f"{number:x}", f"text {number}", "joy", number)

    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    going = LocalEngine(model, codec, QUESTION, 400, {}).write(orders(), Sampling(max_tokens=16, batch_size=8))
    assert len([next(going) for _ in range(100)]) == 100
    assert len(taken) <= 100 + 2 * 8


# counting


def test_a_tally_counts_rows_reasons_and_labels() -> None:
    def outcome(
        label: str, *rejected: str, attempt: int | None = 0, tokens: int = 10, margin: float | None = None
    ) -> Any:
        from rir_mlx.augmentation.job import Candidate

        record: dict[str, Any] = {"tokens": tokens, "provenance": {"attempt": attempt}}
        record |= {} if margin is None else {"choice": {"margin": margin, "tied": margin == 0}}
        lost = [Candidate("0", 0, at, "x", 3, why) for at, why in enumerate(rejected)]
        return AugmentedRow(Row("t", label), None if attempt is None else record, lost)

    summary = AugmentationSummary()
    for one in (
        outcome("joy", tokens=10),
        outcome("joy", "empty", attempt=1, tokens=20, margin=0.5),
        outcome("joy", "cut off", "empty", attempt=None),
        outcome("anger", "empty", attempt=None),
        outcome("joy", tokens=30, margin=0.0),
    ):
        summary.add(one)
    values = summary.values()
    assert values["rows"] == 5
    assert values["kept"] == 3
    assert values["rejected"] == {"empty": 3, "cut off": 1}
    assert values["rows_by_label"] == {"anger": 1, "joy": 4}
    assert values["kept_by_label"] == {"anger": 0.0, "joy": 0.75}
    assert values["kept_by_attempt"] == {"0": 2, "1": 1}
    assert values["tokens"] == 60 + 4 * 3
    assert values["lengths"] == {"mean": 20, "p5": 11, "p50": 20, "p95": 29, "max": 30}
    assert values["chosen"] == {"rows": 2, "tied": 1, "mean_margin": 0.25, "median_margin": 0.25}
    [warning] = summary.warnings()
    assert "'anger' 0 have" in warning
    json.dumps(values)


def test_a_tally_of_nothing() -> None:
    values = AugmentationSummary().values()
    assert values["rows"] == values["kept"] == values["tokens"] == 0
    assert values["lengths"] == {}
    assert AugmentationSummary().warnings() == []


# memory


def peak_of(codec: Codec, folder: Path, count: int) -> int:
    """Bytes that Python allocates at most while `count` rows, made as they are asked for, are augmented."""
    import tracemalloc

    class Rows(Sequence[Row]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: Any) -> Any:
            return Row(f"they came home in the {index}th hour and were glad of it", LABELS[index % 2])

        def __iter__(self) -> Iterator[Row]:
            return (self[index] for index in range(count))

    from rir_mlx.models.hub import resolve_model

    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction))
    engine = LocalEngine(FakeBackend().load(resolve_model("builtin:tiny-llama").folder), codec, QUESTION, 400, IDENTITY)
    tracemalloc.start()
    with Journal(folder / f"journal-{count}", flags) as journal:
        augmentation = AugmentationJob(Rows(), JOB, IDENTITY, flags, journal)
        augmentation.write(engine, Silent())
        assert len(journal) == count
        summary = AugmentationSummary()
        for outcome in augmentation.outcomes():
            summary.add(outcome)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_grows_by_the_index_of_the_journal_alone(codec: Codec, tmp_path: Path) -> None:
    """Rows, orders and results that are held would be a thousand bytes each."""
    few, many = peak_of(codec, tmp_path, 4000), peak_of(codec, tmp_path, 12_000)
    assert (many - few) / 8000 < 250
