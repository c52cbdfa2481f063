"""How many tokens are left for a prompt and its text beside what follows them."""

from __future__ import annotations

from rir_mlx.errors import UserError
from rir_mlx.prompting.arms import ClassificationTask, label_tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER, REASONING, answer_format, classifier_prompt, reasons_first
from rir_mlx.types import AnswerFormat, Arm


def prompt_room(codec: Codec, task: ClassificationTask, arm: Arm, *, reasoning: bool) -> int:
    """Tokens that a prompt may take where the longest label follows it, and with `reasoning` the longest reasoning."""
    room = task.max_seq_length - max(len(label_tokens(codec, label)) for label in task.labels)
    if not reasoning:
        return room
    between = codec.constant(DELIMITER if reasons_first(arm) else REASONING)
    return room - task.max_reasoning_tokens - len(between)


def text_room(codec: Codec, task: ClassificationTask, arm: Arm) -> int:
    """Tokens that a text may take in a prediction of the arm before it is trimmed. Negative where even the prompt is
    too long."""
    prompt = classifier_prompt("", task.labels, task.instruction, answer_format(arm))
    empty = codec.encode(prompt, task.max_seq_length + _UNLIMITED)
    room = prompt_room(codec, task, arm, reasoning=reasons_first(arm))
    return room - len(empty.prefix) - len(empty.row)


def check_room(codec: Codec, task: ClassificationTask, arm: Arm) -> None:
    """Check, before a training, that a text fits beside all that the arm reads and writes.

    Raises UserError if none does."""
    formats: set[AnswerFormat] = {answer_format(arm), "reasoning"} if arm == "multitask" else {answer_format(arm)}
    prompts = [classifier_prompt("", task.labels, task.instruction, wanted) for wanted in formats]
    try:
        codec.encode_many(prompts, prompt_room(codec, task, arm, reasoning=arm != "qa"))
    except UserError as error:
        if arm == "qa":
            raise
        raise no_room(task) from error


def rgen_room(max_seq_length: int, max_reasoning_tokens: int) -> int:
    """Tokens that R-Gen's prompt may take where the longest reasoning follows it."""
    return max_seq_length - max_reasoning_tokens


def no_room(task: ClassificationTask) -> UserError:
    return UserError(
        f"max_seq_length {task.max_seq_length} leaves no room for a text beside "
        f"{task.max_reasoning_tokens} tokens of reasoning.",
        hint="Raise max_seq_length, or lower evaluate.max_reasoning_tokens.",
    )


_UNLIMITED = 1 << 20
"""More tokens than any prompt has without its text."""
