"""Readings are kept as they are made: nothing is read twice, whatever happened in between."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rir_mlx.classification.scores import LabelScores
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.evaluation import score_cache
from rir_mlx.evaluation.score_cache import MadeWith, OtherFormatError, ScoreCache, TimedScores
from rir_mlx.progress import Silent
from rir_mlx.storage.journal import Journal

HERE = MadeWith("torch", "a processor", "float32")
TEXTS = [f"text {number}" for number in range(10)]


class Fake:
    """Scores three labels by a hash of what it reads, and keeps count. Fails once it has read `patience` texts."""

    def __init__(self, patience: int = 10**9) -> None:
        self.read: list[str] = []
        self.patience = patience

    def _reading(self, texts: Sequence[str], what: str) -> LabelScores:
        if len(self.read) + len(texts) > self.patience:
            raise KeyboardInterrupt
        self.read += [f"{what} {text}" for text in texts]
        draws = [np.random.default_rng(zlib.crc32(f"{what} {text}".encode())) for text in texts]
        scores = np.array([-draw.exponential(size=3) for draw in draws]).reshape(len(texts), 3)
        return LabelScores(
            scores, [f"{what} of {text}" for text in texts], [len(text) for text in texts], [0] * len(texts)
        )

    def direct(self, texts: Sequence[str], batch_size: int) -> LabelScores:
        return self._reading(texts, "direct")

    def reasoned(self, texts: Sequence[str], batch_size: int, *, firsts: Sequence[str] | None = None) -> LabelScores:
        return self._reading(
            list(map(" after ".join, zip(texts, firsts, strict=True))) if firsts else texts, "reasoned"
        )

    def sampled(
        self, texts: Sequence[str], how: PredictOptions, *, after: int = 0, firsts: None = None
    ) -> list[LabelScores]:
        return [self._reading(texts, f"chain {number} at {how.temperature}") for number in range(after, how.samples)]

    def given(
        self, texts: Sequence[str], reasonings: Sequence[str], batch_size: int, *, firsts: None = None
    ) -> LabelScores:
        return self._reading(
            [f"{text} after {reason}" for text, reason in zip(texts, reasonings, strict=True)], "given"
        )

    def explanations(self, texts: Sequence[str], labels: Sequence[str], batch_size: int) -> list[tuple[str, int]]:
        self.read += texts
        return [(f"{label} because {text}", 3) for text, label in zip(texts, labels, strict=True)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_cache, "_CHUNK", 4)


@contextmanager
def reader(folder: Path, model: Fake, identity: str = "this model", made_with: MadeWith = HERE) -> Iterator[ScoreCache]:
    with Journal(folder / "readings.jsonl") as journal:
        yield ScoreCache(journal, identity, lambda: model, Silent(), lambda: made_with)  # type: ignore[arg-type, return-value]


def same(first: TimedScores, second: TimedScores) -> bool:
    ours, other = first.label_scores, second.label_scores
    rest = [(r.reasonings, r.tokens, r.trimmed) for r in (ours, other)]
    return np.array_equal(ours.scores, other.scores) and rest[0] == rest[1]


def test_nothing_is_read_twice_and_no_model_is_loaded_for_what_is_kept(tmp_path: Path) -> None:
    with reader(tmp_path, Fake()) as first:
        before = [first.direct(TEXTS, 8, ""), first.reasoned(TEXTS, 8, ""), first.given(TEXTS, TEXTS, 8, "")]
        explained = first.explanations(TEXTS, TEXTS[::-1], 8, "")
    with Journal(tmp_path / "readings.jsonl") as journal:
        second = ScoreCache(journal, "this model", lambda: pytest.fail("a model was loaded"), Silent(), lambda: HERE)
        after = [second.direct(TEXTS, 8, ""), second.reasoned(TEXTS, 8, ""), second.given(TEXTS, TEXTS, 8, "")]
        assert second.explanations(TEXTS, TEXTS[::-1], 8, "") == explained
    assert all(same(*pair) for pair in zip(before, after, strict=True))
    assert explained[0] == "text 9 because text 0"


def test_what_is_kept_is_what_the_model_said_to_the_last_bit(tmp_path: Path) -> None:
    with reader(tmp_path, Fake()) as kept:
        found = kept.reasoned(TEXTS, 8, "").label_scores
    said = Fake().reasoned(TEXTS, 8)
    assert np.array_equal(found.scores, said.scores)
    assert (found.reasonings, found.tokens) == (said.reasonings, said.tokens)


def test_texts_that_are_alike_are_read_once_and_each_gets_the_answer(tmp_path: Path) -> None:
    model, texts = Fake(), ["a", "b", "a", "c", "b", "a"]
    with reader(tmp_path, model) as kept:
        found = kept.direct(texts, 8, "").label_scores
    assert model.read == ["direct a", "direct b", "direct c"]
    assert np.array_equal(found.scores, Fake().direct(texts, 8).scores)


def test_a_text_given_two_reasonings_is_read_with_both(tmp_path: Path) -> None:
    model = Fake()
    with reader(tmp_path, model) as kept:
        kept.given(["a", "a", "a"], ["x", "y", "x"], 8, "")
    assert model.read == ["given a after x", "given a after y"]


def test_a_kill_in_the_middle_loses_at_most_the_chunk_that_was_being_read(tmp_path: Path) -> None:
    killed, again = Fake(patience=6), Fake()
    with pytest.raises(KeyboardInterrupt), reader(tmp_path, killed) as kept:
        kept.direct(TEXTS, 8, "")
    assert len(killed.read) == 4
    with reader(tmp_path, again) as kept:
        found = kept.direct(TEXTS, 8, "")
    assert again.read == [f"direct {text}" for text in TEXTS[4:]]
    with reader(tmp_path / "whole", Fake()) as kept:
        assert same(found, kept.direct(TEXTS, 8, ""))


def test_a_torn_last_line_is_read_again(tmp_path: Path) -> None:
    with reader(tmp_path, Fake()) as kept:
        before = kept.direct(TEXTS, 8, "")
    path = tmp_path / "readings.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    model = Fake()
    with reader(tmp_path, model) as kept:
        assert same(before, kept.direct(TEXTS, 8, ""))
    assert model.read == ["direct text 9"]


def test_another_identity_reads_anew(tmp_path: Path) -> None:
    model = Fake()
    with reader(tmp_path, model) as kept:
        kept.direct(TEXTS, 8, "")
    with reader(tmp_path, model, "another model") as kept:
        kept.direct(TEXTS, 8, "")
    assert len(model.read) == 2 * len(TEXTS)


def test_more_samples_read_only_the_chains_that_are_new(tmp_path: Path) -> None:
    with reader(tmp_path, Fake()) as kept:
        two = kept.sampled(TEXTS, PredictOptions(samples=2), "")
    model = Fake()
    with reader(tmp_path, model) as kept:
        four = kept.sampled(TEXTS, PredictOptions(samples=4), "")
        fewer = kept.sampled(TEXTS, PredictOptions(samples=3), "")
    assert sorted(model.read) == sorted(f"chain {number} at 0.7 {text}" for number in (2, 3) for text in TEXTS)
    assert all(same(*pair) for pair in zip(two, four, strict=False))
    assert all(same(*pair) for pair in zip(fewer, four, strict=False))
    with reader(tmp_path / "whole", Fake()) as kept:
        whole = kept.sampled(TEXTS, PredictOptions(samples=4), "")
    assert [same(*pair) for pair in zip(four, whole, strict=True)] == [True] * 4


def test_a_text_is_scored_after_each_first_label(tmp_path: Path) -> None:
    with reader(tmp_path, model := Fake()) as kept:
        joy, anger, plain, again = (
            kept.reasoned(TEXTS, 4, "", firsts) for firsts in (["joy"] * 10, ["anger"] * 10, None, ["joy"] * 10)
        )
    assert same(joy, again)
    assert len({tuple(found.label_scores.scores.ravel()) for found in (joy, anger, plain)}) == 3
    assert len(model.read) == 30


def test_chains_of_another_temperature_are_others(tmp_path: Path) -> None:
    with reader(tmp_path, Fake()) as kept:
        cool = kept.sampled(TEXTS, PredictOptions(samples=2, temperature=0.5), "")
        warm = kept.sampled(TEXTS, PredictOptions(samples=2, temperature=1.0), "")
    assert not any(same(*pair) for pair in zip(cool, warm, strict=True))


def test_no_texts_are_no_rows(tmp_path: Path) -> None:
    with Journal(tmp_path / "readings.jsonl") as journal:
        kept = ScoreCache(journal, "", lambda: pytest.fail("a model was loaded"), Silent(), lambda: HERE)
        found = [kept.direct([], 8, ""), kept.reasoned([], 8, ""), *kept.sampled([], PredictOptions(samples=2), "")]
        assert [len(scores.label_scores.scores.argmax(1)) for scores in found] == [0] * 4
        assert len(LabelScores.averaged([scores.label_scores for scores in found]).mass) == 0
        assert kept.explanations([], [], 8, "") == []


def test_the_seconds_of_a_row_are_kept_with_it(tmp_path: Path) -> None:
    with reader(tmp_path, Fake()) as kept:
        before = kept.direct(TEXTS, 8, "").seconds
    with reader(tmp_path, Fake()) as kept:
        assert kept.direct(TEXTS, 8, "").seconds == before
    assert 0 <= before < 1


def test_scores_of_two_number_formats_do_not_stand_side_by_side(tmp_path: Path) -> None:
    """An evaluation that was stopped where `auto` means bfloat16 went on in float32 on another machine."""
    there = HERE._replace(device="a card", dtype="bfloat16")
    with reader(tmp_path, Fake(), made_with=there) as first:
        first.direct(TEXTS[:4], 8, "")
        assert first.used == {there}
    with reader(tmp_path, Fake()) as second:
        assert second.direct(TEXTS[:4], 8, "").label_scores.scores.shape[0] == 4
        assert second.used == {there}, "what is there is named after what made it"
        with pytest.raises(OtherFormatError):
            second.direct(TEXTS, 8, "")
        assert second.other_formats() == {"bfloat16"}
    with reader(tmp_path, Fake()) as third:
        third.may_mix = True
        third.direct(TEXTS, 8, "")
        assert third.used == {there, HERE}


def test_scores_that_do_not_say_what_made_them_are_kept(tmp_path: Path) -> None:
    with reader(tmp_path, Fake()) as first:
        first.direct(TEXTS[:4], 8, "")
    path = tmp_path / "readings.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "with"}) + "\n" for line in lines))
    with reader(tmp_path, Fake()) as second:
        second.direct(TEXTS, 8, "")
        assert {used.dtype for used in second.used} == {"unknown", "float32"}


def test_a_damaged_line_hides_no_other_format(tmp_path: Path) -> None:
    with reader(tmp_path, Fake(), made_with=HERE._replace(dtype="bfloat16")) as first:
        first.direct(TEXTS[:4], 8, "")
    path = tmp_path / "readings.jsonl"
    path.write_text("5\n[]\nnot json\n" + path.read_text())
    with reader(tmp_path, Fake()) as second:
        assert second.other_formats() == {"bfloat16"}
