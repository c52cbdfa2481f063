"""What engines are asked, and what their answers have to be: arrays alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from rir_convert.verification.comparison import Tolerance, compare_answers
from rir_convert.verification.probe import Probe, ProbeAnswers, asked_labels, engine_answers, most_tokens


def test_near_ties_may_fall_either_way_and_other_labels_may_not() -> None:
    chances = np.log(np.full((4, 5), 0.2, np.float32))

    def answers(scores: Sequence[Sequence[float]]) -> ProbeAnswers:
        return ProbeAnswers([chances] * 40, chances, np.log(np.array(scores)), [])

    ours = answers([[0.5, 0.49, 0.01]] * 40)
    tie = compare_answers("x", ours, answers([[0.49, 0.5, 0.01]] * 40), Tolerance("bfloat16", 1))
    assert (tie.label_agreement, tie.faults) == (0.0, ())
    clear = answers([[0.6, 0.3, 0.1]] * 40)
    other = compare_answers("x", clear, answers([[0.4, 0.5, 0.1]] * 40), Tolerance("4 bits", 1))
    assert other.label_agreement == 0.0
    assert [fault for fault in other.faults if "agrees on 0.0 % of rows (at least 80 % is required)" in fault]
    result = compare_answers(
        "x", clear, answers([[0.3, 0.6, 0.1]] * 3 + [[0.6, 0.3, 0.1]] * 37), Tolerance("bfloat16", 1)
    )
    assert result.label_agreement == pytest.approx(37 / 40)
    assert [fault for fault in result.faults if "likeliest label agrees on 92.5 %" in fault]
    assert [fault for fault in result.faults if "probability differs by 0.3" in fault]


def test_a_layer_whose_output_is_another_is_a_fault_although_the_answers_are_near() -> None:
    """A square matrix of one layer, transposed, at the width of Llama-3.2-1B: log-probabilities differ by 0.31."""
    flat, rng = np.full((4, 5), -1.6, np.float32), np.random.default_rng(0)
    layers = [rng.normal(size=(7, 16)).astype(np.float32) for _ in range(3)]
    ours = ProbeAnswers([flat] * 3, flat, None, layers)
    near = compare_answers(
        "x", ours, ProbeAnswers([flat] * 3, flat, None, [layer * 1.01 for layer in layers]), Tolerance("bfloat16", 1)
    )
    assert (near.faults, near.first_difference) == ((), None)
    off = [layers[0], layers[1], layers[2] * 1.05]
    result = compare_answers("x", ours, ProbeAnswers([flat] * 3, flat, None, off), Tolerance("bfloat16", 1))
    assert result.faults == ("the output of model.layers.1 differs by more than bfloat16 explains",)
    assert result.first_difference == "model.layers.1"


def test_the_longest_sequence_is_what_an_engine_needs_room_for() -> None:
    short = Probe(tuple(range(9)), [(1, 2), (3,)], [(5,), (6, 7, 8)])
    assert short.longest == len(short.long) == 9 + 4 + 9 + 3
    wide = Probe(tuple(range(2000)), [(1, 2), (3,)], [(5,), (6, 7, 8)])
    assert (len(wide.long), wide.longest) == (1024, 2004)


def test_another_vocabulary_is_a_fault_and_not_an_error() -> None:
    ours, theirs = (
        ProbeAnswers([np.zeros((4, words), np.float32)] * 3, np.zeros((4, words), np.float32), None, [])
        for words in (5, 6)
    )
    result = compare_answers("x", ours, theirs, Tolerance("bfloat16", 1))
    assert [fault for fault in result.faults if "differ by inf" in fault]


def test_many_labels_and_long_prompts_are_asked_in_part() -> None:
    """Each label is a pass of its own: all of 77 labels over all rows would take hours."""
    probe = Probe(tuple(range(400)), [(1, 2)] * 64, [(label, 9) for label in range(77)])
    scores = np.random.default_rng(0).normal(size=(64, 77))
    asked = asked_labels(probe, scores)
    rows = asked.any(axis=1)
    assert rows.tolist() == [True] * 5 + [False] * 59  # 8 labels of 403 tokens a row, of 16,384
    assert all(set(np.flatnonzero(asked[row])) == set(np.argsort(-scores[row])[:8]) for row in range(5))
    assert asked_labels(probe, scores, every_row=True).sum() == 64 * 8
    assert probe.rows_within(8192) == 20
    short = Probe((), [(1, 2)] * 64, [(3, 9), (4, 9)])
    assert asked_labels(short, scores[:, :2]).all()
    assert short.rows_within(8192) == 64


def test_labels_that_were_not_asked_count_on_neither_side() -> None:
    flat = np.log(np.full((4, 5), 0.2, np.float32))
    ours = ProbeAnswers([flat] * 3, flat, np.log(np.array([[0.1, 0.3, 0.6]] * 3)), [])
    asked = np.array([[False, True, True], [False, True, True], [False, False, False]])
    theirs = ProbeAnswers([flat] * 3, flat, np.where(asked, ours.scores, 0.0), [], asked)
    result = compare_answers("x", ours, theirs, Tolerance("float32", 1))
    assert (result.label_rows, result.label_agreement, result.probability_difference) == (2, 1.0, 0.0)


def test_the_long_sequence_is_no_longer_than_a_model_takes() -> None:
    probe = Probe((), [tuple(range(40))] * 64, (), limit=most_tokens({"max_position_embeddings": 256}))
    assert len(probe.long) == 256
    assert most_tokens({"n_positions": 512}) == 512
    assert most_tokens({"max_position_embeddings": 131_072}) == 1024
    assert most_tokens({"max_position_embeddings": 131_072}, 16) == 16


@pytest.mark.parametrize(("factor", "passes"), [(25.25 / math.sqrt(640), True), (0.99, False), (1.0, False)])
def test_an_embedding_factor_that_mlx_lm_rounds_is_no_other_model(factor: float, passes: bool) -> None:
    """mlx-lm rounds Gemma 3's √640 to 25.25, transformers in float32 does not: every adapter of the real model was
    refused with log-probabilities 0.034 off. Any other factor is still a fault."""
    embedding = np.random.default_rng(0).normal(size=(5, 640)).astype(np.float32)
    rows = [np.log(np.array([[0.5, 0.3, 0.2]] * 5, dtype=np.float32))]
    ours = ProbeAnswers(rows, None, None, [embedding, embedding])
    theirs = ProbeAnswers([rows[0] + 0.03], None, None, [np.float32(factor) * embedding, embedding * 1.001])
    assert (not compare_answers("mlx-lm", ours, theirs, Tolerance("float32", 20.0)).faults) == passes


class KeepsOneRow:
    """Like llama.cpp: a prompt that differs from the latest one runs again."""

    def __init__(self) -> None:
        self.latest: tuple[int, ...] = ()
        self.prompts_run = 0

    def option_score(self, row: tuple[int, ...], option: tuple[int, ...]) -> float:
        self.prompts_run += row != self.latest
        self.latest = row
        return float(len(row) + option[0])

    def last_logits(self, rows: Iterable[tuple[int, ...]], last: int, **_: object) -> Iterator[np.ndarray]:
        for row in rows:
            yield np.zeros((min(last, len(row)), 5), np.float32)


def test_an_engine_that_keeps_the_latest_row_runs_each_prompt_once_for_all_labels() -> None:
    """Label by label, llama.cpp ran every prompt anew for each of six labels."""
    probe = Probe((1,), [(2,), (2, 3), (2, 3, 4)], [(3, 9), (4, 9)])
    engine = KeepsOneRow()
    answers = engine_answers(engine, probe, np.zeros((3, 2)))
    assert engine.prompts_run == 3
    assert answers.scores is not None
    assert answers.scores.tolist() == [[5, 6], [6, 7], [7, 8]]
