"""Training R-Gen on triples and on reasonings that the rows come with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from arm_runs import context_of, heard

from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import LabelQuestion
from rir_mlx.stages import train_rgen
from rir_mlx.stages.reasoning_model import ReasoningModel
from rir_mlx.training.job import TrainingJob


def test_rgen_learns_from_own_reasonings_behind_the_prompt_that_it_will_get(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    context = context_of(folder, codec)
    train_rgen(context)
    (job,) = jobs
    labels, instruction = list(context.data.labels), context.recipe.data.instruction
    for part, examples in (("train", job.train), ("validation", job.validation)):
        rows = getattr(context.data, part)
        assert len(examples.rows) == len(rows) > 0
        for row, example in zip(rows, examples.rows, strict=True):
            prompt = codec.encode(LabelQuestion(labels, instruction).of_row(row.text, row.label), 256)
            assert examples.prefix + example.prompt == prompt.prefix + prompt.row
            assert example.learned == (*codec.given(row.reasoning), codec.terminator)


def test_triples_and_own_reasonings_are_learned_together_and_named_rightly(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    triples = [{"question": f"how is {n}?", "answer": "so", "reasoning": f"because {n}"} for n in range(7)]
    (folder / "triples.jsonl").write_text("".join(json.dumps(triple) + "\n" for triple in triples))
    source = f"reasoning.source={folder / 'triples.jsonl'}"
    context = context_of(folder, codec, source, "reasoning.val_size=2")
    train_rgen(context)
    (job,) = jobs
    assert len(job.train.rows) == 5 + len(context.data.train)
    assert len(job.validation.rows) == 2 + len(context.data.validation)
    for row in job.train.rows:
        assert row.text
        assert row.text in codec.decode(job.train.prefix + row.prompt)


def test_rgen_without_anything_to_learn_from_is_refused(folder: Path, codec: Codec) -> None:
    context = context_of(folder, codec, "data.reasoning_column=null")
    with pytest.raises(UserError, match="nothing to learn from") as refused:
        train_rgen(context)
    assert "reasoning.source" in refused.value.hint
    assert "data.reasoning_column" in refused.value.hint


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_changed_reasoning_of_ones_own_trains_rgen_again(folder: Path, codec: Codec, part: str) -> None:
    context = context_of(folder, codec)
    train_rgen(context)
    text = getattr(context.data, part)[0].text
    lines = (folder / "rows.csv").read_text().splitlines()
    changed = [line + " and more" if line.startswith(f"{text},") else line for line in lines]
    (folder / "rows.csv").write_text("\n".join(changed) + "\n")
    assert changed != lines
    again = context_of(folder, codec)
    train_rgen(again)
    assert any(line.startswith("R-Gen: runs") for line in heard(again).said)
    once_more = context_of(folder, codec)
    train_rgen(once_more)
    assert any(line.startswith("R-Gen: already done") for line in heard(once_more).said)


def test_rgen_is_trained_and_asked_with_the_prompt_of_the_recipe(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    for asked, why in (("words", ""), ("sentence", "prompt was words, is sentence"), ("steps", "prompt was sentence")):
        context = context_of(folder, codec, f"reasoning.prompt={asked}")
        train_rgen(context)
        [line] = [line for line in heard(context).said if line.startswith("R-Gen: runs")]
        assert why in line
        labels, instruction = list(context.data.labels), context.recipe.data.instruction
        row = context.data.train[0]
        wanted = LabelQuestion(labels, instruction, context.recipe.reasoning.prompt).of_row(row.text, row.label)
        assert ReasoningModel(context).question.of_row(row.text, row.label) == wanted
        encoded = codec.encode(wanted, 256)
        assert jobs[-1].train.prefix + jobs[-1].train.rows[0].prompt == encoded.prefix + encoded.row
    assert len({job.train.prefix for job in jobs}) == 3


def test_rgen_is_shown_own_reasonings_and_does_not_learn_from_them(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    context = context_of(folder, codec, "reasoning.examples=3", "max_seq_length=800")
    train_rgen(context)
    shown = context.question.examples
    assert [example.reasoning for example in shown] == [
        row.reasoning for row in context.data.train if row.text in {example.text for example in shown}
    ]
    assert {example.label for example in shown} == set(context.data.labels)
    [job] = jobs
    learned = {row.text for row in job.train.rows}
    assert learned == {row.text for row in context.data.train} - {example.text for example in shown}
    for example in shown:
        solved = f"Text: {example.text}\nAnswer: {example.label}\nReasoning: {example.reasoning}\n\nQuestion: "
        assert solved in codec.decode(job.train.prefix)
    again = context_of(folder, codec, "reasoning.examples=4", "max_seq_length=800")
    with pytest.raises(UserError, match="trained with other examples in its prompt"):
        ReasoningModel(again).require_rgen()
    train_rgen(again)
    assert any(line.startswith("R-Gen: runs") for line in heard(again).said)
    with pytest.raises(UserError, match=r"reasoning\.examples is 999, and \d+ training rows"):
        train_rgen(context_of(folder, codec, "reasoning.examples=999"))
