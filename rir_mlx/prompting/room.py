"""How many tokens are left for a prompt and its text beside what follows them."""

from __future__ import annotations

from collections.abc import Sequence

from rir_mlx.errors import UserError
from rir_mlx.prompting.arms import ClassificationTask, label_tokens
from rir_mlx.prompting.codec import Codec, EncodedPrompt
from rir_mlx.prompting.prompts import (
    DELIMITER,
    REASONING,
    LabelQuestion,
    answer_format,
    answers_twice,
    reasons_first,
    writes_reasoning,
)
from rir_mlx.types import AnswerFormat, Arm


def prompt_room(codec: Codec, task: ClassificationTask, arm: Arm, *, reasoning: bool) -> int:
    """Tokens that a prompt may take where the longest label follows it, and with `reasoning` the longest reasoning. The
    first of two labels counts too."""
    longest, asked = max(len(label_tokens(codec, label)) for label in task.names), answer_format(arm)
    between = len(codec.constant(DELIMITER if asked.endswith("reasoning, label") else REASONING))
    if not reasoning:
        return task.max_seq_length - longest - (between if asked == "reasoning, label" else 0)
    if answers_twice(arm):
        between += longest + len(codec.constant(REASONING))
    return task.max_seq_length - longest - task.max_reasoning_tokens - between


def text_room(codec: Codec, task: ClassificationTask, arm: Arm) -> int:
    """Tokens that a text may take in a prediction of the arm before it is trimmed. Negative where even the prompt is
    too long."""
    return prompt_room(codec, task, arm, reasoning=reasons_first(arm)) - _empty(codec, task, answer_format(arm))


def learning_room(codec: Codec, task: ClassificationTask, arm: Arm) -> int:
    """Tokens that a text may take beside the longest reasoning and label that the arm learns. Below 1 `check_room`
    refuses a training."""
    empty = max(_empty(codec, task, wanted) for wanted in _formats(arm))
    return prompt_room(codec, task, arm, reasoning=arm != "qa") - empty


def rgen_text_room(codec: Codec, question: LabelQuestion, labels: Sequence[str], room: int) -> int:
    """Tokens that a text may take in R-Gen's prompt, which has `room`, beside the longest of the labels."""
    longest = max(labels, key=lambda label: len(codec.given(label)))
    return room - _length(codec.encode(question.of_row("", longest), _UNLIMITED))


def longest_answer(codec: Codec, task: ClassificationTask, arm: Arm) -> int:
    """Tokens that an arm writes at most behind its prompt for a label: labels, a reasoning, what stands between them,
    and the terminator."""
    reasons = writes_reasoning(arm) and answer_format(arm) != "label"
    return task.max_seq_length - prompt_room(codec, task, arm, reasoning=reasons)


def check_room(codec: Codec, task: ClassificationTask, arm: Arm) -> None:
    """Check, before a training, that a text fits beside all that the arm reads and writes.

    Raises UserError if none does."""
    prompts = [task.prompt("", wanted) for wanted in _formats(arm)]
    try:
        codec.encode_many(prompts, prompt_room(codec, task, arm, reasoning=arm != "qa"))
    except UserError as error:
        raise no_room(codec, task, arm, reasoning=arm != "qa") from error


def rgen_room(max_seq_length: int, max_reasoning_tokens: int) -> int:
    """Tokens that R-Gen's prompt may take where the longest reasoning follows it."""
    return max_seq_length - max_reasoning_tokens


def no_room(codec: Codec, task: ClassificationTask, arm: Arm, *, reasoning: bool) -> UserError:
    """An error that says how many tokens an arm's prompt and answer take without a text."""
    empty = max(_empty(codec, task, wanted) for wanted in _formats(arm))
    taken = empty + task.max_seq_length - prompt_room(codec, task, arm, reasoning=reasoning)
    beside = f"{task.max_reasoning_tokens} tokens of reasoning" if reasoning else "the instruction and the labels"
    return UserError(
        f"max_seq_length {task.max_seq_length} leaves no room for a text beside {beside}.",
        hint=f"Without a text, {arm} takes {taken} tokens; `rir-mlx check` says which max_seq_length your texts need. "
        f"Or {'lower evaluate.max_reasoning_tokens' if reasoning else 'shorten the descriptions of the labels'}.",
    )


def _formats(arm: Arm) -> set[AnswerFormat]:
    """What the prompts of an arm's training ask for."""
    return {answer_format(arm), "reasoning"} if arm == "multitask" else {answer_format(arm)}


def _empty(codec: Codec, task: ClassificationTask, wanted: AnswerFormat) -> int:
    """Tokens of a prompt without its text."""
    return _length(codec.encode(task.prompt("", wanted), task.max_seq_length + _UNLIMITED))


def _length(encoded: EncodedPrompt) -> int:
    return len(encoded.prefix) + len(encoded.row)


_UNLIMITED = 1 << 20
"""More tokens than any prompt has without its text."""
