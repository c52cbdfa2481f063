"""`/v1/decisions` in the form of OpenAI's Decisions API: the same questions in other words.

Text alone. `predicate` is a noul question, the `levels` of a `score` have names, and the options of a `choice` may be
true and false. Source: the types of the `openai` package, 2026-10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr, model_validator

from rir_mlx.serving.wire import (
    ChoiceAnswer,
    ChoiceQuestion,
    NoulAnswer,
    NoulQuestion,
    ScoreAnswer,
    ScoreQuestion,
    check_text,
    text_of,
)
from rir_mlx.types import ReasonMode


class TextPart(BaseModel):
    type: Literal["input_text", "output_text"]
    text: str


class JsonPart(BaseModel):
    type: Literal["input_json"]
    data: dict[str, Any] | list[dict[str, Any]]


Parts = str | list[Annotated[TextPart | JsonPart, Field(discriminator="type")]]


class Message(BaseModel):
    """A message whose content is text."""

    type: Literal["message"] = "message"
    role: Literal["user", "developer", "system", "assistant"]
    content: Parts


class Predicate(BaseModel):
    """How likely it is that a statement about the input is true."""

    type: Literal["predicate"]
    name: str | None = None
    instructions: Parts


class Option(BaseModel):
    value: StrictStr | StrictBool
    description: str | None = None


class Choice(BaseModel):
    type: Literal["choice"]
    name: str | None = None
    instructions: Parts
    choices: list[Option] = Field(min_length=2, max_length=255)

    @model_validator(mode="after")
    def _are_unique(self) -> Choice:
        if len({_option_name(option.value) for option in self.choices}) < len(self.choices):
            raise ValueError("each choice must be unique")
        return self


class Level(BaseModel):
    label: str
    description: str | None = None


class Score(BaseModel):
    type: Literal["score"]
    name: str | None = None
    instructions: Parts
    levels: list[Level] = Field(min_length=1, max_length=255)


DecisionQuestion = Annotated[Predicate | Choice | Score, Field(discriminator="type")]


class DecisionsRequest(BaseModel):
    """Questions about an input. `reason` is as in `/v1/systemone`."""

    input: str | Annotated[list[Message], Field(min_length=1)]
    questions: list[DecisionQuestion] = Field(min_length=1, max_length=64)
    model: str | None = None
    reason: ReasonMode = "never"

    @model_validator(mode="after")
    def _has_text(self) -> DecisionsRequest:
        said = self.input if isinstance(self.input, str) else "".join(_text(part.content) for part in self.input)
        check_text(said, "the input")
        return self

    @property
    def text(self) -> str:
        """The input as one text: a single user message as it is, several with their roles."""
        if isinstance(self.input, str):
            return self.input
        if len(self.input) == 1 and self.input[0].role == "user":
            return _text(self.input[0].content)
        return "\n\n".join(f"{message.role}: {_text(message.content)}" for message in self.input)


def question_of(asked: Predicate | Choice | Score) -> NoulQuestion | ChoiceQuestion | ScoreQuestion:
    """The question in the form of `/v1/systemone`."""
    instructions = _text(asked.instructions)
    match asked:
        case Predicate():
            return NoulQuestion(type="noul", instructions=instructions)
        case Choice():
            criteria = {_option_name(option.value): option.description for option in asked.choices}
            return ChoiceQuestion(type="choice", instructions=instructions, criteria=dict(criteria))
        case Score():
            levels = [
                f"{level.label}: {level.description}" if level.description else level.label for level in asked.levels
            ]
            return ScoreQuestion(type="score", instructions=instructions, criteria=list(levels))


def decision_of(asked: Predicate | Choice | Score, answer: NoulAnswer | ChoiceAnswer | ScoreAnswer) -> dict[str, Any]:
    """The answer in OpenAI's form, with what `/v1/systemone` adds."""
    common = answer.model_dump(include={"calibrated", "abstain", "mass", "trimmed", "reason", "first"}) | {
        "name": asked.name
    }
    match asked, answer:
        case Predicate(), NoulAnswer():
            return {"type": "predicate", "probability": answer.noul, **common}
        case Choice(), ChoiceAnswer():
            values = {_option_name(option.value): option.value for option in asked.choices}
            listed = [{"value": values[name], "probability": share} for name, share in answer.probabilities.items()]
            chosen = {"choice": values[answer.choice], "confidence": answer.confidence, "probabilities": listed}
            return {"type": "choice", **chosen, **common}
        case Score(), ScoreAnswer():
            shares = answer.probabilities.values()
            levels = [
                {"value": value, "label": level.label, "probability": share}
                for value, (level, share) in enumerate(zip(asked.levels, shares, strict=True))
            ]
            rated = {"score": answer.score, "confidence": answer.confidence, "probabilities": levels}
            return {"type": "score", **rated, **common}
    raise AssertionError(f"{type(answer).__name__} does not answer {type(asked).__name__}")


def decision_usage(prompt: int, generated: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": generated},
        "total_tokens": prompt + generated,
    }


def _option_name(value: str | bool) -> str:
    """How an option is written for the model. A string that spells a boolean differs from it by quotation marks."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if value in ("true", "false") else value


def _text(parts: Parts | Sequence[TextPart | JsonPart]) -> str:
    if isinstance(parts, str):
        return parts
    return "\n".join(part.text if isinstance(part, TextPart) else text_of(part.data) for part in parts)
