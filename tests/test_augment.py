"""Augmentation: nothing is written twice, nothing is lost, and what is unfit to learn from is set aside."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rir_mlx import augment
from rir_mlx.augment import Job, gate, read_journal, statistics, write_reasonings
from rir_mlx.backends.base import Completion, OnToken, Request, Sampling, Tokens
from rir_mlx.data import Row
from rir_mlx.errors import Failure
from rir_mlx.progress import Silent
from rir_mlx.tokens import Codec

LABELS = ["joy", "sadness"]


class Writer:
    """Writes `because …` for each row, and remembers what it was asked. Raises after `dies_after` rows."""

    def __init__(self, codec: Codec, dies_after: int | None = None) -> None:
        self.codec, self.dies_after = codec, dies_after
        self.asked: list[Request] = []
        self.prefixes: list[Tokens] = []

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, *, prefix: Tokens = (), on_token: OnToken | None = None
    ) -> Iterator[Completion]:
        self.prefixes.append(prefix)
        # The last first: completions come as rows finish, in no promised order.
        for count, request in enumerate(reversed(list(requests))):
            if count == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            text = self.codec.decode(request.tokens).partition("\n")[0]
            yield Completion(request.key, self.codec.given(f"because {text}"), "stop")


def rows_of(*texts: str, label: str = "joy") -> list[Row]:
    return [Row(text, label) for text in texts]


def job_of(**changes: Any) -> Job:
    sampling = Sampling(max_tokens=32)
    return replace(Job(LABELS, "Which label fits?", sampling, 0, "adapter-1", 512), **changes)


def write(model: Any, codec: Codec, rows: list[Row], journal: Path, job: Job | None = None) -> list[dict[str, Any]]:
    return write_reasonings(model, codec, rows, job or job_of(), journal=journal, progress=Silent(), what="augment")


ROWS = [*rows_of("one", "two \U0001f642", "three"), *rows_of("four", "five", label="sadness")]


def test_results_are_in_the_order_of_the_rows(codec: Codec, tmp_path: Path) -> None:
    results = write(Writer(codec), codec, ROWS, tmp_path / "journal")
    assert [(one["text"], one["label"], one["reasoning"]) for one in results] == [
        (row.text, row.label, f"because {row.text}") for row in ROWS
    ]
    assert all(set(one) == {"text", "label", "reasoning", "tokens", "rejected"} for one in results)
    assert [one["rejected"] for one in results] == [None] * len(ROWS)
    assert [one["tokens"] for one in results] == [len(codec.given(f"because {row.text}")) for row in ROWS]


def test_a_finished_job_asks_for_nothing_again(codec: Codec, tmp_path: Path) -> None:
    first = write(Writer(codec), codec, ROWS, tmp_path / "journal")
    before = (tmp_path / "journal").read_bytes()
    again = Writer(codec)
    assert write(again, codec, ROWS, tmp_path / "journal") == first
    assert again.asked == []
    assert (tmp_path / "journal").read_bytes() == before


@pytest.mark.parametrize("dies_after", [0, 1, 4])
def test_a_job_killed_in_the_middle_writes_every_row_once(codec: Codec, tmp_path: Path, dies_after: int) -> None:
    journal = tmp_path / "journal"
    dying = Writer(codec, dies_after)
    with pytest.raises(KeyboardInterrupt):
        write(dying, codec, ROWS, journal)
    assert len(journal.read_bytes().splitlines()) == dies_after
    after = Writer(codec)
    results = write(after, codec, ROWS, journal)
    assert len(after.asked) == len(ROWS) - dies_after
    assert {one.key for one in after.asked}.isdisjoint(one.key for one in dying.asked)
    assert results == write(Writer(codec), codec, ROWS, tmp_path / "other journal")
    keys = [json.loads(line)["key"] for line in journal.read_text(encoding="utf-8").splitlines()]
    assert len(keys) == len(set(keys)) == len(ROWS)


@pytest.mark.parametrize("torn", [1, 5, 20, 60])
def test_a_torn_last_line_is_cut_off_and_written_anew(codec: Codec, tmp_path: Path, torn: int) -> None:
    """Appended after a torn line, the next result would have been lost with it."""
    journal = tmp_path / "journal"
    expected = write(Writer(codec), codec, ROWS, journal)
    whole = journal.read_bytes()
    assert len(whole.splitlines()[-1]) > torn
    journal.write_bytes(whole[:-torn])
    after = Writer(codec)
    assert write(after, codec, ROWS, journal) == expected
    assert len(after.asked) == 1
    lines = journal.read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == len(ROWS)


def test_a_line_torn_inside_a_character_is_cut_off(codec: Codec, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    write(Writer(codec), codec, rows_of("one", "smile \U0001f642"), journal)
    whole = journal.read_bytes()
    place = whole.index("\U0001f642".encode())
    lines = whole.splitlines(keepends=True)
    torn = next(line for line in lines if "\U0001f642".encode() in line)
    other = b"".join(line for line in lines if line != torn)
    journal.write_bytes(other + torn[: torn.index("\U0001f642".encode()) + 2])
    assert place > 0
    results = write(Writer(codec), codec, rows_of("one", "smile \U0001f642"), journal)
    assert results[1]["reasoning"] == "because smile \U0001f642"
    assert len(list(read_journal(journal))) == 2


def test_a_journal_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "nothing")) == []
    assert not (tmp_path / "nothing").exists()


def test_rows_that_are_alike_are_written_once(codec: Codec, tmp_path: Path) -> None:
    model = Writer(codec)
    rows = [*rows_of("same", "other", "same"), Row("same", "sadness")]
    results = write(model, codec, rows, tmp_path / "journal")
    assert len(model.asked) == 3
    assert len((tmp_path / "journal").read_text().splitlines()) == 3
    assert results[0] == results[2]
    assert [one["label"] for one in results] == ["joy", "joy", "joy", "sadness"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"adapter": "adapter-2"},
        {"instruction": "What now?"},
        {"labels": ["joy", "anger"]},
        {"sampling": Sampling(max_tokens=31)},
        {"sampling": Sampling(max_tokens=32, temperature=0.5)},
        {"sampling": Sampling(max_tokens=32, top_p=0.9)},
    ],
    ids=str,
)
def test_whatever_decides_a_reasoning_makes_it_written_anew(
    codec: Codec, tmp_path: Path, change: dict[str, Any]
) -> None:
    write(Writer(codec), codec, ROWS, tmp_path / "journal")
    again = Writer(codec)
    write(again, codec, ROWS, tmp_path / "journal", job_of(**change))
    assert len(again.asked) == len(ROWS)


def test_the_batch_size_does_not(codec: Codec, tmp_path: Path) -> None:
    write(Writer(codec), codec, ROWS, tmp_path / "journal")
    again = Writer(codec)
    write(again, codec, ROWS, tmp_path / "journal", job_of(sampling=Sampling(max_tokens=32, batch_size=1)))
    assert again.asked == []


def test_a_rows_seed_is_its_own_and_stays_when_the_others_change(codec: Codec, tmp_path: Path) -> None:
    all_rows, one_row = Writer(codec), Writer(codec)
    write(all_rows, codec, ROWS, tmp_path / "journal")
    write(one_row, codec, ROWS[2:3], tmp_path / "other journal")
    seeds = {request.key: request.seed for request in all_rows.asked}
    assert len(set(seeds.values())) == len(ROWS)
    assert one_row.asked[0].seed == seeds[2]


def test_a_long_text_leaves_room_for_its_reasoning(codec: Codec, tmp_path: Path) -> None:
    model = Writer(codec)
    job = job_of(max_seq_length=220, sampling=Sampling(max_tokens=50))
    write(model, codec, rows_of("happy because my friend came home " * 40), tmp_path / "journal", job)
    assert len(model.prefixes[0]) + len(model.asked[0].tokens) == 170


def test_no_rows_are_no_work(codec: Codec, tmp_path: Path) -> None:
    assert write(Writer(codec), codec, [], tmp_path / "journal") == []


def test_a_full_disk_says_that_what_was_written_is_kept(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        name = str(tmp_path / "journal")

        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            return

    appending = augment._appending(tmp_path / "journal")
    appending.file.close()
    monkeypatch.setattr(appending, "file", Full())
    with appending as append, pytest.raises(Failure, match=r"No space left on device.*is kept") as failed:
        append({"key": "x"})
    assert "same command again" in failed.value.mend


# gates


Made = Callable[[Codec], tuple[Tokens, str]]

CASES: list[tuple[str | None, str, Made]] = [
    (None, "a plain reasoning", lambda c: (c.given("The writer smiles, so joy."), "stop")),
    (None, "line breaks and emoji", lambda c: (c.given("First.\n\nThen \U0001f642.\n"), "stop")),
    (None, "the word label without its colon", lambda c: (c.given("So the\nLabel fits, and the label: joy"), "stop")),
    (None, "a control token that is spelt out", lambda c: (c.given("They write <|eot_id|> here."), "stop")),
    ("cut off", "it ran into the limit", lambda c: (c.given("The writer smiles, so joy."), "length")),
    ("empty", "no tokens at all", lambda c: ((), "stop")),
    ("empty", "white space", lambda c: (c.given(" \n\t "), "stop")),
    ("control", "an end of turn inside", lambda c: ((*c.given("a"), c.terminator, *c.given("b")), "stop")),
    ("control", "a header inside", lambda c: ((*c.constant("<|start_header_id|>"), *c.given("user")), "stop")),
    ("delimiter", "the delimiter inside", lambda c: (c.given("Smiles.\nLabel: joy"), "stop")),
    ("delimiter", "the delimiter at the start", lambda c: (c.given("Label: joy, as they smile"), "stop")),
    ("delimiter", "the delimiter at the end", lambda c: (c.given("Smiles.\nLabel:"), "stop")),
]


@pytest.mark.parametrize(("reason", "what", "made"), CASES, ids=[what for _, what, _ in CASES])
def test_gates(codec: Codec, reason: str | None, what: str, made: Made) -> None:
    tokens, finish_reason = made(codec)
    assert gate(codec, tokens, finish_reason) == reason


def test_what_passes_the_gates_is_learned_up_to_one_delimiter(codec: Codec) -> None:
    """A classifier stops at the first delimiter: a second one in what it learned would put its label elsewhere."""
    from rir_mlx.classifier import reasoning_tokens

    delimiter = codec.constant("\nLabel:")
    passed = [codec.decode(made(codec)[0]) for reason, _, made in CASES if reason is None]
    assert len(passed) == 4
    for text in passed:
        tokens = reasoning_tokens(codec, text)
        places = [at for at in range(len(tokens)) if tokens[at : at + len(delimiter)] == delimiter]
        assert places == [len(tokens) - len(delimiter)]


def test_what_is_rejected_is_kept_in_the_journal_with_its_reason(codec: Codec, tmp_path: Path) -> None:
    class Empty(Writer):
        def generate(self, requests: Iterable[Request], *_: Any, **__: Any) -> Iterator[Completion]:
            for request in requests:
                yield Completion(request.key, (), "stop")

    results = write(Empty(codec), codec, ROWS[:2], tmp_path / "journal")
    assert [one["rejected"] for one in results] == ["empty", "empty"]
    again = Writer(codec)
    assert write(again, codec, ROWS[:2], tmp_path / "journal") == results
    assert again.asked == []


def test_statistics_count_what_was_kept_and_why_not() -> None:
    def result(label: str, rejected: str | None, tokens: int) -> dict[str, Any]:
        return {"text": "x", "label": label, "reasoning": "y", "rejected": rejected, "tokens": tokens}

    results = [
        result("joy", None, 10),
        result("joy", "empty", 1),
        result("joy", None, 20),
        result("joy", "cut off", 64),
        result("anger", "empty", 0),
    ]
    assert statistics(results) == {
        "rows": 5,
        "kept": 2,
        "rejected": {"empty": 2, "cut off": 1},
        "kept_by_label": {"anger": 0.0, "joy": 0.5},
        "tokens": 95,
        "mean_tokens_kept": 15.0,
    }


def test_statistics_of_nothing() -> None:
    assert statistics(iter([])) == {
        "rows": 0,
        "kept": 0,
        "rejected": {},
        "kept_by_label": {},
        "tokens": 0,
        "mean_tokens_kept": 0.0,
    }
