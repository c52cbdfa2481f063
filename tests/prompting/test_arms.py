"""What each arm of the classifier learns, from the tokens of a row to the weights that are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from rir_mlx.backends.base import Tokens
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.data.rows import Row
from rir_mlx.prompting.arms import ClassificationTask, training_examples
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.prompting.prompts import (
    answer_format,
    classifier_prompt,
    reasons_first,
)
from rir_mlx.prompting.room import longest_answer
from rir_mlx.types import CONTROLS, Arm

LABELS = {"joy": "feels good", "sadness": "", "anger": ""}
TASK = ClassificationTask(LABELS, "Which label fits the text?", 320, 16)
ARMS: tuple[Arm, ...] = get_args(Arm)
ROW = ("i feel happy today", "joy", "because my friend came home")
LONG = "because " * 300
"""A reasoning that fits beside no text."""


def learned(
    codec: Codec, arm: Arm, *rows: tuple[str, str, str | None], task: ClassificationTask = TASK
) -> TrainingExamples:
    return training_examples(codec, task, [Row(*row) for row in rows], arm)


def classifier_of(codec: Codec, arm: Arm) -> Classifier:
    return Classifier(FakeModel(400), codec, TASK, arm)


# the tokens


def test_each_arm_learns_just_the_tokens_of_its_completion(codec: Codec) -> None:
    between = codec.constant("\nReasoning:")
    delimiter, end = codec.constant("\nLabel:"), codec.terminator
    label, own, after = codec.given(" joy"), codec.given(ROW[2]), codec.given(f" {ROW[2]}")
    first = (*own, *delimiter, *label, end)
    expected: dict[Arm, Tokens] = {"qa": (*label, end), "qar": (*label, *between, *after, end), "qra": first}
    expected |= {"qarqa": (*label, *between, *after, *delimiter, *label, end)} | dict.fromkeys(CONTROLS, first)
    for arm, tokens in expected.items():
        (example,) = learned(codec, arm, ROW).rows
        assert example.learned == tokens, arm
    both = learned(codec, "multitask", ROW)
    assert both.second is not None
    assert [task.rows[0].learned for task in (both, both.second)] == [(*label, end), (*own, end)]


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "curriculum"])
def test_the_longest_answer_has_room_for_all_that_is_written(codec: Codec, arm: Arm) -> None:
    """A Modelfile let Ollama write a reasoning and a label, and cut the label by what stands between them."""
    longest, reasoning = max(LABELS, key=lambda label: len(codec.given(f" {label}"))), " because" * 40
    task = replace(TASK, max_reasoning_tokens=len(codec.given(f" {reasoning}")))
    [example] = learned(codec, arm, ("i left", longest, reasoning), task=task).rows
    assert 0 <= longest_answer(codec, task, arm) - len(example.learned) <= 1


@pytest.mark.parametrize("arm", ARMS)
def test_a_row_is_learned_behind_the_prompt_that_it_is_asked_by(codec: Codec, arm: Arm) -> None:
    examples = learned(codec, arm, ROW)
    whole = codec.decode(examples.prefix + examples.rows[0].prompt)
    prompt = classifier_prompt(ROW[0], LABELS, TASK.instruction, answer_format(arm))
    assert prompt.message in whole
    assert whole.endswith("Label:") == (answer_format(arm) != "reasoning, label")
    if arm == "multitask":
        assert examples.second is not None
        whole = codec.decode(examples.second.prefix + examples.second.rows[0].prompt)
        assert classifier_prompt(ROW[0], LABELS, TASK.instruction, "reasoning").message in whole
        assert not whole.endswith("Label:")


@pytest.mark.parametrize("arm", ARMS)
def test_what_scoring_scores_is_what_training_learned_there(codec: Codec, arm: Arm) -> None:
    """Else the label's probability would be that of tokens which the model was never taught."""
    reader = classifier_of(codec, arm)
    (example,) = learned(codec, arm, ROW).rows
    place = reader.task.names.index("joy")
    assert (example.answer or example.first) == reader.label_tokens[place]
    assert (example.first or example.answer) == reader.first_tokens[place]
    if reasons_first(arm):
        assert example.reasoning[-len(reader.delimiter) :] == reader.delimiter


def test_an_arm_without_a_reasoning_for_a_row_still_learns_its_label(codec: Codec) -> None:
    rows = [ROW, ("i was sad", "sadness", None), ("now i am angry", "anger", "")]
    alone = codec.given(" sadness")
    for arm in ("qa", "multitask"):
        examples = learned(codec, arm, *rows)
        assert [len(row.reasoning) for row in examples.rows] == [0, 0, 0]
        assert examples.rows[1].learned == (*alone, codec.terminator)
    both = learned(codec, "multitask", *rows)
    assert both.second is not None
    assert [bool(row.learned) for row in both.second.rows] == [True, False, False]
    first = learned(codec, "qar", *rows)
    assert first.rows[1].learned == (*alone, codec.constant("\nReasoning:")[0])
    assert [bool(row.reasoning) for row in first.rows] == [True, False, False]


@pytest.mark.parametrize("arm", ["qra", *CONTROLS])
def test_an_arm_that_reasons_first_leaves_out_rows_without_a_reasoning(codec: Codec, arm: Arm) -> None:
    examples = learned(codec, arm, ("i was sad", "sadness", None), ROW)
    assert len(examples.rows) == 1
    assert examples.rows[0].learned == learned(codec, arm, ROW).rows[0].learned


def test_a_row_that_fits_one_of_two_tasks_is_left_out_of_both_and_counted(codec: Codec) -> None:
    other = ("i was sad", "sadness", "now it rained")
    both = learned(codec, "multitask", ROW, (ROW[0], "joy", LONG), other)
    assert both.second is not None
    assert (len(both.rows), len(both.second.rows), both.dropped) == (2, 2, 1)
    for task in (both, both.second):
        assert [example.text for example in task.rows] == [ROW[0], other[0]]
    assert both.second.rows[1].reasoning == (*codec.given(other[2]), codec.terminator)
    assert both.rows[1].answer == (*codec.given(" sadness"), codec.terminator)
    assert len(learned(codec, "qa", ROW, (ROW[0], "joy", LONG), other).rows) == 3
