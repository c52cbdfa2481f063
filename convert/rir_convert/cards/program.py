"""A program that prompts an exported classifier as in training, with only transformers; and running it.

The program is text: neither PyTorch nor transformers is imported here. The prompt is constant strings around the row's
text. The chat template's parts are tokenised with control tokens, a user's text without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rir_convert.prompt_parts import MADE_UP, prompt_around, way_of
from rir_mlx.errors import Failure
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import (
    DELIMITER,
    REASONING,
    answer_format,
    label_text,
    reasons_first,
    writes_reasoning,
)
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.templates import template_environment
from rir_mlx.types import AnswerFormat, Arm

if TYPE_CHECKING:
    from jinja2 import Environment


_TEMPLATES = Path(__file__).parent / "templates"
_NEEDED = ("torch", "transformers")
_LAST_LINES = 15


def example_code(
    arm: Arm, task: ClassificationTask, codec: Codec, *, text: str = MADE_UP, calibration: Calibration | None = None
) -> str:
    """The source of a program that classifies `text` with the model in its working directory.

    It prints `First label: …` (only for `qarqa`), `Reasoning: …` (of arms that write one), `Label: …`, and a line
    `0.1234 name` for each label, in order, as `rir_mlx.classification.classifier.Classifier` computes them, with the
    same prompts and ids. It does not trim texts.

    Raises Failure if the prompt cannot be written as constant strings around the text."""
    asked = answer_format(arm)
    before, question, after = prompt_around(codec, task.prompt(text, asked))
    again: AnswerFormat = "reasoning"
    _, question_why, after_why = prompt_around(codec, task.prompt(text, again))
    spell = codec.tokenizer.convert_ids_to_tokens
    source = environment().get_template("example.py.j2")
    return source.render(
        asked=asked,
        writes_reasoning=writes_reasoning(arm),
        text=text,
        labels=task.names,
        steps=json.dumps(codec.steps_without_space, ensure_ascii=False) if codec.steps_without_space else None,
        before=before,
        question=question,
        after=after,
        asks_again=arm == "multitask",
        question_why=question_why,
        after_why=after_why,
        label_first=asked.startswith("label, reasoning"),
        label_last=reasons_first(arm),
        max_reasoning_tokens=task.max_reasoning_tokens,
        delimiter=DELIMITER,
        reasoning=REASONING,
        space=label_text(""),
        terminator=spell(codec.terminator),
        ends=[word for token in codec.stops if (word := spell(token)) is not None],
        temperature=(calibration or Calibration()).temperature[way_of(arm)],
    )


def example_prompt(arm: Arm, task: ClassificationTask, codec: Codec, text: str = MADE_UP) -> str:
    """Everything that the model reads before it writes, as text, including control tokens."""
    before, question, after = prompt_around(codec, task.prompt(text, answer_format(arm)))
    return before + question + text + after


def run_example(folder: Path, code: str, timeout: float) -> str | None:
    """The program's output when run in `folder`, in a separate process without network; None if PyTorch or transformers
    is not installed. `timeout` is in seconds.

    Raises Failure if it fails or takes longer."""
    if not all(find_spec(module) for module in _NEEDED):
        return None
    # -P: a module in the folder must not shadow the real one.
    command = [sys.executable, "-P", "-X", "utf8", "-c", code]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    hint = "Please report this, with the recipe."
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"The example of {folder} ran for more than {timeout:g} seconds.", hint=hint) from error
    if ended.returncode != 0:
        last = "\n".join(ended.stderr.strip().splitlines()[-_LAST_LINES:])
        raise Failure(f"The example of {folder} ended with exit code {ended.returncode}:\n{last}", hint=hint)
    return ended.stdout


def printed_answer(output: str, labels: Sequence[str]) -> tuple[str | None, str | None]:
    """The reasoning and the label in what the program printed; None for either that is not there. The label is read
    from the end: a reasoning may spell out anything."""
    lines = output.rstrip("\n").split("\n")
    last, where = lines[-1 - len(labels) :], len(lines) - 1 - len(labels)
    label = last[0].removeprefix("Label: ")
    if where < 0 or not last[0].startswith("Label: ") or label not in labels:
        return None, None
    before = "\n".join(lines[1 if lines[0].startswith("First label: ") else 0 : where])
    return (before.removeprefix("Reasoning:").strip() if before.startswith("Reasoning:") else None), label


@cache
def environment() -> Environment:
    """The templates of the card and of the example."""
    return template_environment(_TEMPLATES, {"literal": _literal})


def _literal(text: str) -> str:
    """The text as a Python literal: every JSON string is also a Python string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")
