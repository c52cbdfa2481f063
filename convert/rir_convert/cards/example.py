"""The example of a model card: its program, run in the written folder, and its answer beside the trained model's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rir_convert.cards.card import CardExample, CardForm
from rir_convert.cards.program import example_code, example_prompt, printed_answer, run_example
from rir_convert.gguf.modelfile import without_first_token
from rir_convert.trained_arm import TrainedArm
from rir_convert.verification.comparison import near_tie
from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import Failure
from rir_mlx.prompting.prompts import reasons_first
from rir_mlx.types import Arm

_SECONDS = 1800.0
RUNNABLE: tuple[CardForm, ...] = ("hf", "mlx")
"""Forms whose card has a program: transformers reads them."""


@dataclass(frozen=True)
class ProgramResult:
    """What the program answered.

    label           the one that it printed; None if it was not run, or failed
    expected        the trained model's label for the same text
    same_reasoning  whether it wrote the trained model's reasoning; None if the label does not rest on one
    note            why it was not run, or why another label is no fault
    faults          what is wrong with it
    """

    label: str | None = None
    expected: str | None = None
    same_reasoning: bool | None = None
    note: str | None = None
    faults: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """For the terminal."""
        if self.label is None:
            return f"The model card's program was not run: {self.note}."
        same = "as the trained model does" if self.label == self.expected else f"not {self.expected!r}; {self.note}"
        return f"The model card's program answers {self.label!r}, {same}."

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "faults"}


def card_example(trained: TrainedArm, form: CardForm) -> CardExample:
    """The prompt of a made-up text, and the program where transformers reads the form."""
    prompt = example_prompt(trained.arm, trained.task, trained.codec)
    if form == "gguf":
        return CardExample(without_first_token(trained.codec, prompt))
    if form not in RUNNABLE:
        return CardExample(prompt)
    return CardExample(prompt, example_code(trained.arm, trained.task, trained.codec, calibration=trained.calibration))


def run_program(
    example: CardExample, written: Path, trained: TrainedArm, expected: Prediction | None, number_format: str
) -> tuple[str | None, ProgramResult]:
    """What the program printed in the folder `written`, whose weights have that number format, and what that says."""
    if example.code is None or expected is None:
        return None, ProgramResult(note="a card of this format has none")
    trained.context.progress.say("Running the model card's program …")
    try:
        output = run_example(written, example.code, _SECONDS)
    except Failure as error:
        return None, ProgramResult(expected=expected.label, faults=(error.what,))
    if output is None:
        return None, ProgramResult(expected=expected.label, note="PyTorch or transformers is not installed")
    return output, judge_answer(output, trained.arm, expected, near_tie(number_format))


def judge_answer(output: str, arm: Arm, expected: Prediction, tie: float) -> ProgramResult:
    """Whether the printed label is the trained model's. Two labels that differ by `tie` at most may change places; and
    after another reasoning, which rounding can bring about, another label may follow."""
    names = list(expected.probabilities)
    reasoning, label = printed_answer(output, names)
    if label is None:
        return ProgramResult(expected=expected.label, faults=(f"it was to print a label, and printed:\n{output}",))
    same = reasoning == expected.reasoning if reasons_first(arm) else None
    if label == expected.label:
        return ProgramResult(label, expected.label, same)
    if same is False:
        return ProgramResult(label, expected.label, same, "its reasoning is another one")
    if expected.probability - expected.probabilities[label] <= tie:
        return ProgramResult(label, expected.label, same, "the trained model finds both as likely")
    return ProgramResult(
        label, expected.label, same, faults=(f"it answers {label!r}, and the trained model {expected.label!r}",)
    )
