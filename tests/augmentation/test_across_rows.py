"""Filters that look across rows: what many texts share, what is about no text, and what R-Gen would write anyway."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_runs import IDENTITY, LABELS, QUESTION, Writer

from rir_mlx.augmentation.across.filters import FiltersAcrossRows
from rir_mlx.augmentation.across.information import (
    FloatArray,
    TextGroup,
    Threshold,
    chance_information,
    information,
    text_groups,
    threshold_of,
)
from rir_mlx.augmentation.engines.base import ReasoningRequest
from rir_mlx.augmentation.engines.local import LocalLikelihoods
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import AugmentationJob, AugmentationSettings, AugmentedRow, ResultFlags
from rir_mlx.backends.base import Sampling
from rir_mlx.backends.fake import FakeBackend
from rir_mlx.data.rows import Row
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.storage.journal import Journal
from rir_mlx.types import DEFAULT_FILTERS, Filter

ALL: tuple[Filter, ...] = tuple(dict.fromkeys([*DEFAULT_FILTERS, "uninformative"]))
THINGS = ["lamp", "boat", "parcel", "train", "violin", "garden", "kettle", "ladder", "window", "barrel"]


class SeesWords:
    """Finds a reasoning likelier by 3 nats with a text that has its last word. Dies after `dies_after` groups."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.asked, self.dies_after = 0, dies_after

    def log_probabilities(self, label: str, texts: Sequence[str], reasonings: Sequence[str]) -> FloatArray:
        if self.asked == self.dies_after:
            raise KeyboardInterrupt
        self.asked += 1
        noise = [[math.sin(hash_of(text + said)) / 10 for said in reasonings] for text in texts]
        found = [[3.0 * (said.split()[-1].strip(".") in text) for said in reasonings] for text in texts]
        return np.array(found) + np.array(noise) - 20


def hash_of(text: str) -> int:
    return sum(ord(letter) * place for place, letter in enumerate(text, 1))


def rows() -> list[Row]:
    """Twenty training rows and twenty validation rows."""
    return [Row(f"{number} days ago our {THINGS[number % 10]}{number} broke", "joy") for number in range(40)]


def says(request: ReasoningRequest) -> str:
    """Of each third text something that stands in it, and that would be said of any of them."""
    words = request.text.split()
    if not words[0].isdigit():
        return "The funeral shows it."
    return "All happened many days ago." if int(words[0]) % 3 == 0 else f"What gladdens them is the {words[-2]}."


def judged(
    codec: Codec,
    journal: Path,
    model: Any,
    names: Sequence[Filter] = ALL,
    data: Sequence[Row] = (),
    most: float = 0.1,
    sampled: int = 0,
) -> tuple[list[AugmentedRow], FiltersAcrossRows]:
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction, names))
    data = list(data) or rows()
    with Journal(journal, flags) as opened:
        job = AugmentationJob(data, AugmentationSettings("prompt", Sampling(32), 0), IDENTITY, flags, opened)
        job.write(Writer(says), Silent())
        across = FiltersAcrossRows(job, range(20, len(data)), most, "scorer", sampled)
        across.read()
        if across.due():
            across.score(model, Silent())
        across.measure()
        job.across = across
        outcomes = list(job.outcomes())
        for outcome in outcomes:
            across.count(outcome)
    return outcomes, across


def test_what_r_gen_would_write_for_other_texts_too_is_rejected_and_counted(codec: Codec, tmp_path: Path) -> None:
    """A base model wrote reasonings that every filter of a row let pass and that said nothing about the row."""
    outcomes, across = judged(codec, tmp_path / "journal", SeesWords())
    anyway = {outcome.row.text for outcome in outcomes if int(outcome.row.text.split()[0]) % 3 == 0}
    rejected = {outcome.row.text for outcome in outcomes if outcome.kept is None}
    assert len(rejected & anyway) >= 0.8 * len(anyway)
    assert not rejected - anyway
    assert {found.rejected for outcome in outcomes for found in outcome.rejected} == {"uninformative"}
    values = across.values()["mutual_information"]
    assert 0 <= values["threshold"] < 1
    assert values["by_label"] == {
        "joy": {"reasonings": 40, "median": pytest.approx(3, abs=0.3), "below": len(rejected)}
    }
    [line] = [line for line in across.lines() if line.startswith("Mutual")]
    assert f"{len(rejected)} of 40 reasonings are below" in line
    assert f"{values['pairs']} pairs of a reasoning of the validation rows and another text of its label exceed" in line
    assert "which 5% of " in line
    json.dumps(across.values())


def test_a_threshold_that_nothing_was_there_to_find_rejects_and_states_nothing(codec: Codec, tmp_path: Path) -> None:
    """Groups of two texts have no pairs that do not belong together: the threshold was 0, and said to be what 5 % of
    such pairs exceed."""
    data = [Row(f"{number} days ago our lamp{number} broke", label) for number, label in enumerate(LABELS[:2] * 2)]
    outcomes, across = judged(codec, tmp_path / "journal", SeesWords(), data=data)
    assert all(outcome.kept for outcome in outcomes)
    values = across.values()["mutual_information"]
    assert (values["threshold"], values["pairs"], values["applied"]) == (None, 0, True)
    [line] = [line for line in across.lines() if line.startswith("Mutual")]
    assert "too few texts a label for a threshold" in line
    assert "nats" not in line


def test_mutual_information_can_be_measured_of_a_few_rows_without_rejecting_any(codec: Codec, tmp_path: Path) -> None:
    """A pilot reports it, and its recipe need not have the filter."""
    model = SeesWords()
    data = [
        *rows(),
        *(Row(f"{number} days ago their {THINGS[number]}{number} fell", "sadness") for number in range(10)),
    ]
    outcomes, across = judged(codec, tmp_path / "journal", model, DEFAULT_FILTERS, data, sampled=16)
    assert model.asked == 4, "two groups of four texts for each of two labels"
    assert not any(found.rejected == "uninformative" for outcome in outcomes for found in outcome.rejected)
    values = across.values()["mutual_information"]
    assert not values["applied"]
    assert values["by_label"]["joy"]["reasonings"] == 8
    assert any(line.endswith("reasonings). It rejects none.") for line in across.lines())
    many = SeesWords()
    judged(codec, tmp_path / "fewer", many, DEFAULT_FILTERS, data, sampled=4)
    assert many.asked == 1, "no more rows than asked for, however many labels there are"


def test_a_kill_while_scoring_changes_nothing(codec: Codec, tmp_path: Path) -> None:
    whole, _ = judged(codec, tmp_path / "whole", SeesWords())
    with pytest.raises(KeyboardInterrupt):
        judged(codec, tmp_path / "cut", SeesWords(dies_after=3))
    rest = SeesWords()
    assert judged(codec, tmp_path / "cut", rest)[0] == whole
    assert rest.asked == 10 - 3
    assert judged(codec, tmp_path / "cut", None)[0] == whole  # nothing is due: no model is needed
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_ungrounded_is_applied_only_where_it_costs_few_rows(codec: Codec, tmp_path: Path) -> None:
    names: tuple[Filter, ...] = ("ungrounded",)
    data = [*rows(), Row("we sang and sang", "sadness")]
    for most, lost in ((0.1, ["we sang and sang"]), (0.04, [])):
        outcomes, across = judged(codec, tmp_path / f"{most}", None, names, data, most)
        assert [outcome.row.text for outcome in outcomes if outcome.kept is None] == lost
        assert across.values()["ungrounded"] == {"applied": bool(lost), "cost": 1 / 21, "at_most": most}
        [line] = across.lines()
        assert ("is applied: it costs 5%" if lost else "is not applied: it would cost 5%") in line


def test_stock_reasonings_are_no_cost_of_ungrounded(codec: Codec, tmp_path: Path) -> None:
    """They go in any case, and so many of them switched `ungrounded` off where it was needed most."""
    data = [
        *rows(),
        *(Row(f"we sang {word} songs", "sadness") for word in ("old", "new", "sad", "long", "loud", "odd")),
    ]
    for names, cost in ((("stock", "ungrounded"), 0.0), (("ungrounded",), 6 / 26)):
        _, across = judged(codec, tmp_path / f"{len(names)}", None, names, data)
        assert across.values()["ungrounded"] == {"applied": not cost, "cost": cost, "at_most": 0.1}


def groups_of(rows: Iterable[tuple[int, str, str]]) -> list[TextGroup]:
    rows = list(rows)
    return list(text_groups(rows, {number: text for number, text, _ in rows}.__getitem__))


def test_groups_are_of_one_label_and_do_not_depend_on_the_order(codec: Codec) -> None:
    triples = [(number, f"text {number % 21}", "joy" if number % 21 < 11 else "anger") for number in range(42)]
    groups = groups_of([*triples, (99, "alone", "fear")])
    assert [(group.label, len(group.texts)) for group in groups] == [("anger", 4), ("anger", 6), ("joy", 4), ("joy", 7)]
    assert sorted(number for group in groups for number in group.numbers) == list(range(21))
    assert {group.texts for group in groups_of(reversed(triples))} == {group.texts for group in groups}
    assert groups_of([(0, "alone", "fear"), (1, "alone", "fear")]) == []


def test_mutual_information_is_the_log_ratio_of_likelihoods() -> None:
    scores = np.log([0.5, 0.1, 0.2, 0.3])
    assert information(scores, 0) == pytest.approx(math.log(0.5 / 0.2))
    assert chance_information(scores, 0) == pytest.approx([math.log(x) for x in (0.1 / 0.25, 0.2 / 0.2, 0.3 / 0.15)])
    assert chance_information(scores[:2], 0) == []
    assert information(np.array([-2000.0, -2001.0]), 0) == pytest.approx(1)
    assert threshold_of(list(range(101))) == Threshold(95, 101, 5 / 101)
    assert threshold_of([-1.0, -2.0]) == Threshold(0.0, 2, 0.0), "at least 0, which fewer exceed"
    assert threshold_of([]) == Threshold(None, 0)


def test_the_model_scores_each_reasoning_with_each_text(codec: Codec) -> None:
    from rir_mlx.models.hub import resolve_model

    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    texts, reasonings = ["a lamp fell", "we won"], ["Winning is joyful.", "The lamp, joy.", "So."]
    found = LocalLikelihoods(model, codec, QUESTION, 200).log_probabilities("joy", texts, reasonings)
    for row, text in zip(found, texts, strict=True):
        prompt = codec.encode(QUESTION.of_row(text, "joy"), 200)
        for value, said in zip(row, reasonings, strict=True):
            tokens = (*prompt.prefix, *prompt.row, *codec.given(said), codec.terminator)
            logits = model.logits(tokens)[len(prompt.prefix) + len(prompt.row) - 1 : -1].astype(np.float64)
            steps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            wanted = tokens[len(prompt.prefix) + len(prompt.row) :]
            assert value == pytest.approx(steps[np.arange(len(wanted)), list(wanted)].sum(), abs=1e-4)
