"""A reasoning that many rows share says nothing about any of them; and a few reasonings of each kind to look at."""

from __future__ import annotations

from rir_mlx.augmentation.across.stock import StockReasonings
from rir_mlx.augmentation.examples import ReasoningExamples, example_lines
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import AugmentedRow, Candidate
from rir_mlx.data.rows import Row
from rir_mlx.prompting.codec import Codec

LABELS = ("joy", "delivery")
Given = tuple[str, str, str]
"""A text, its label and its reasoning."""


def row(number: int, text: str, label: str, reasoning: str) -> AugmentedRow:
    kept = {"id": f"train:{number}", "text": text, "label": label, "reasoning": reasoning, "tokens": 9}
    return AugmentedRow(Row(text, label, id=f"train:{number}"), kept | {"provenance": {}}, [])


def judged(codec: Codec, rows: list[Given]) -> tuple[list[bool], StockReasonings]:
    """Whether each row's reasoning is a stock one, and the counts."""
    stock = StockReasonings(ReasoningFilters(codec, LABELS, "Which label fits?"))
    for text, _, reasoning in rows:
        stock.add(text, reasoning)
    found = [stock.is_stock(text, reasoning) for text, _, reasoning in rows]
    for (text, label, reasoning), is_stock in zip(rows, found, strict=True):
        rejected = [Candidate("", 0, 0, reasoning, 3, "stock")] if is_stock else []
        stock.count(AugmentedRow(Row(text, label), None, rejected))
    return found, stock


def test_a_reasoning_that_five_texts_share_is_rejected_and_counted_by_label(codec: Codec) -> None:
    """A base model trained on public explanations wrote this for row after row, and every filter let it pass."""
    said = ("Joy is a happy emotion.", "joy is a HAPPY emotion")
    rows = [(f"we won the game {n}", "joy", said[n % 2]) for n in range(5)]
    rows += [("the lamp is late", "delivery", "A late lamp has not come.")]
    found, stock = judged(codec, rows)
    assert found == [True] * 5 + [False]
    assert stock.values() == {"joy": {"rows": 5, "examples": [[said[0], 3], [said[1], 2]]}}


def test_what_few_texts_share_or_what_takes_up_the_text_is_no_stock_reasoning(codec: Codec) -> None:
    few = [(f"we won the game {n}", "joy", "joy is a happy emotion") for n in range(4)]
    same = [("we won the game", "joy", "joy is a happy feeling inside") for _ in range(9)]
    grounded = [(f"my lamp is late, day {n}", "delivery", "The writer waits for a lamp.") for n in range(9)]
    found, stock = judged(codec, [*few, *same, *grounded])
    assert not any(found)
    assert stock.values() == {}


def test_labels_and_reasons_take_turns_among_the_examples() -> None:
    examples = ReasoningExamples(seed=0)
    for number in range(200):
        label = f"label {number % 7}"
        examples.add(row(number, f"text {number}", label, f"why {number}"))
        reason = ("copying", "empty", "stock")[number % 3]
        rejected = Candidate("", 0, 0, "" if reason == "empty" else f"no {number}", 3, reason)
        examples.add(AugmentedRow(Row(f"text {number}", label), None, [rejected]))
    values = examples.values()
    assert (len(values["kept"]), len(values["rejected"])) == (21, 9)
    assert len({found["label"] for found in values["kept"][:5]}) == 5
    assert [found["rejected"] for found in values["rejected"][:5]] == ["copying", "empty", "stock", "copying", "empty"]
    lines = list(example_lines(values))
    assert (lines[0], lines[6], len(lines)) == ("Kept, for example:", "Rejected, for example:", 12)
    assert lines[8].endswith("→ nothing")
    again = ReasoningExamples(seed=0)
    assert again.values() == {"kept": [], "rejected": []}
    assert list(example_lines(again.values())) == []
