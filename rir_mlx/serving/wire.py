"""The form of requests and answers: `/v1/systemone` as TypeSafe's clients speak it, and `/classify`.

A `choice` whose options are exactly the run's labels is answered by the trained classifier, as it was trained: what
the question says about the labels is not read. (Where a text may have several labels, the options are combinations.)
Any other question is asked of the same weights without training. The answers carry more than TypeSafe's: `reason`,
`calibrated`, `abstain`, `mass`, `trimmed`. Clients ignore what they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rir_mlx.classification.scores import Prediction
from rir_mlx.data.cells import checked_text
from rir_mlx.prompting.prompts import reasons_first
from rir_mlx.serving.jobs import Item, Question
from rir_mlx.statistics.calibration import abstains
from rir_mlx.types import AnswerMode, Arm, ReasonMode

Content = str | dict[str, Any] | list[Any]
_OPTIONS, _QUESTIONS, _TEXTS = 255, 64, 256
_YES, _NO = "yes", "no"


@dataclass(frozen=True)
class Served:
    """The classifier that answers: the `name` of its run, its `arm` and `labels`, the day and the second (Unix time) on
    which it was trained, whether its probabilities are calibrated, and for each way of classifying the probability
    below which it abstains. Where a text may have several labels, `labels` are their combinations and `single` these.
    """

    name: str
    arm: Arm
    labels: tuple[str, ...]
    trained_on: str
    created: int
    calibrated: bool
    thresholds: Mapping[AnswerMode, float] = field(default_factory=dict)
    single: tuple[str, ...] = ()

    def threshold(self, reason: ReasonMode) -> float | None:
        """The one for texts that are classified like this; the highest, if none was measured for that."""
        modes: dict[ReasonMode, AnswerMode] = {"never": "direct", "always": "reasoned", "auto": "auto"}
        mode = modes[reason] if reasons_first(self.arm) else "direct"
        return self.thresholds.get(mode, max(self.thresholds.values(), default=None))

    @property
    def description(self) -> str:
        return f"rir-mlx classifier ({self.arm}) of {', '.join(self.single or self.labels)}"


class NoulCriteria(BaseModel):
    """What counts as yes, and what as no."""

    true: Content | None = None
    false: Content | None = None


class NoulQuestion(BaseModel):
    """A yes/no question, or a statement that may be true."""

    type: Literal["noul"]
    instructions: Content | None = None
    criteria: NoulCriteria | None = None

    @model_validator(mode="after")
    def _says_something(self) -> NoulQuestion:
        criteria = self.criteria or NoulCriteria()
        if self.instructions is None and criteria.true is None and criteria.false is None:
            raise ValueError("a noul question needs instructions, or criteria that describe true or false")
        return self


class ChoiceQuestion(BaseModel):
    """Which of the options fits. `criteria` maps each to its description, or to null."""

    type: Literal["choice"]
    instructions: Content | None = None
    criteria: dict[str, Content | None] = Field(min_length=1, max_length=_OPTIONS)


class ScoreQuestion(BaseModel):
    """Where on a scale. `criteria` describes its levels, the lowest first."""

    type: Literal["score"]
    instructions: Content | None = None
    criteria: list[Content] = Field(min_length=1, max_length=_OPTIONS)


AnyQuestion = Annotated[NoulQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]


class SystemOneRequest(BaseModel):
    """Questions about a state. `reason` says whether a reasoning is written; `auto`: only where the trained classifier
    is in doubt without one. Any `model` is accepted: the server has one."""

    state: Content
    questions: dict[str, AnyQuestion] = Field(min_length=1, max_length=_QUESTIONS)
    model: str | None = None
    reason: ReasonMode = "never"
    assets: dict[str, Any] | None = None
    images: list[Any] | None = None

    @model_validator(mode="after")
    def _is_text(self) -> SystemOneRequest:
        if self.assets or self.images:
            raise ValueError("this model reads text alone: no assets, no images")
        check_text(text_of(self.state), "the state")
        return self


class First(BaseModel):
    """What an arm that answers twice answered before its reasoning."""

    label: str
    probability: float


class Answer(BaseModel):
    """What every answer has.

    calibrated  whether the trained classifier gave it, with probabilities fitted on validation rows
    abstain     whether its probability is below the run's threshold; null where there is none
    mass        the share of the model's whole probability that the options hold: low for a text that fits none
    trimmed     tokens that were cut from the end of a text too long for the model
    reason      the reasoning that the model wrote, where one was asked for
    first       what an arm that answers twice answered before it
    """

    calibrated: bool
    abstain: bool | None
    mass: float
    trimmed: int
    reason: str | None = None
    first: First | None = None


class NoulAnswer(Answer):
    """The probability of yes."""

    type: Literal["noul"] = "noul"
    noul: float


class ChoiceAnswer(Answer):
    """The likeliest option. `confidence` is how far its probability is above an even split, from 0 to 1."""

    type: Literal["choice"] = "choice"
    choice: str
    confidence: float
    probabilities: dict[str, float]


class ScoreAnswer(Answer):
    """The mean level. `confidence` is 1 minus the spread around the likeliest level over that of an even split."""

    type: Literal["score"] = "score"
    score: float
    confidence: float
    legend: dict[str, Content]
    probabilities: dict[str, float]


AnyAnswer = Annotated[NoulAnswer | ChoiceAnswer | ScoreAnswer, Field(discriminator="type")]


class Usage(BaseModel):
    """Tokens of all prompts, and of all reasonings."""

    input_tokens: int
    output_tokens: int


class SystemOneResponse(BaseModel):
    model: str
    answers: dict[str, AnyAnswer]
    usage: Usage


class ClassifyRequest(BaseModel):
    """Texts for the trained classifier. With `stream` the answer comes as server-sent events. `arm` names another
    trained arm of the run, which is loaded when it is first asked. `threshold` stands in place of the server's. Any
    `model` is accepted: the server has one. Another field is refused: a misspelt `reason` would be left out in
    silence."""

    model_config = ConfigDict(extra="forbid")

    texts: list[str] = Field(min_length=1, max_length=_TEXTS)
    reason: ReasonMode = "always"
    stream: bool = False
    arm: Arm | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    model: str | None = None

    @model_validator(mode="after")
    def _has_texts(self) -> ClassifyRequest:
        for place, text in enumerate(self.texts):
            check_text(text, f"texts[{place}]")
        return self


class Classified(BaseModel):
    """As `rir-mlx classify --json` prints it; `label` is null if its probability is below the threshold. Where a text
    may have several labels, `label` is the likeliest combination, `labels` are those that are likely enough one by one,
    and `probabilities` those of single labels; else `labels` is null. `probability` is that of `label`."""

    label: str | None
    probability: float
    labels: list[str] | None = None
    abstained: bool
    probabilities: dict[str, float]
    mass: float
    reasoning: str | None
    trimmed: int
    first: First | None = None


class ClassifyResponse(BaseModel):
    model: str
    calibrated: bool
    predictions: list[Classified]
    usage: Usage


def check_text(text: str, what: str) -> None:
    """Raises ValueError for a text that a model cannot be given."""
    try:
        checked_text(text, "text")
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def text_of(content: Content) -> str:
    """What the model reads: a string as it is, an object's only string, else JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and len(content) == 1 and isinstance(only := next(iter(content.values())), str):
        return only
    return json.dumps(content, ensure_ascii=False)


def _described(content: Content | None) -> str:
    return "" if content is None else content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def is_trained_for(question: NoulQuestion | ChoiceQuestion | ScoreQuestion, served: Served) -> bool:
    return isinstance(question, ChoiceQuestion) and set(question.criteria) == set(served.labels)


def item_of(
    text: str, question: NoulQuestion | ChoiceQuestion | ScoreQuestion, reason: ReasonMode, served: Served
) -> Item:
    """What the model is asked."""
    if is_trained_for(question, served):
        return Item(text, reason)
    reason = "always" if reason == "always" else "never"  # when to doubt was measured for the trained labels alone
    return Item(text, reason, Question(_described(question.instructions) or _DEFAULT[question.type], _labels(question)))


_DEFAULT = {
    "choice": "Which option fits the text?",
    "noul": "Is this true of the text?",
    "score": "Which level fits the text?",
}


def _labels(question: NoulQuestion | ChoiceQuestion | ScoreQuestion) -> tuple[tuple[str, str], ...]:
    """The options as labels with descriptions. Levels are labelled by number: their texts are of any length."""
    match question:
        case ChoiceQuestion():
            return tuple((option, _described(what)) for option, what in question.criteria.items())
        case ScoreQuestion():
            return tuple((str(level), _described(what)) for level, what in enumerate(question.criteria))
        case NoulQuestion():
            criteria = question.criteria or NoulCriteria()
            return (_YES, _described(criteria.true)), (_NO, _described(criteria.false))


def answer_of(
    question: NoulQuestion | ChoiceQuestion | ScoreQuestion, prediction: Prediction, served: Served, reason: ReasonMode
) -> NoulAnswer | ChoiceAnswer | ScoreAnswer:
    """The answer that a prediction gives to a question, as the request wanted it reasoned about."""
    trained, found = is_trained_for(question, served), prediction.probabilities
    threshold = served.threshold(reason) if trained else None
    common: dict[str, Any] = {
        "calibrated": trained and served.calibrated,
        "abstain": None if threshold is None else abstains(prediction.probability, threshold),
        "mass": _mass(prediction),
        "trimmed": prediction.trimmed,
        "reason": prediction.reasoning,
        "first": _first(prediction),
    }
    match question:
        case NoulQuestion():
            return NoulAnswer(noul=found[_YES], **common)
        case ChoiceQuestion():
            ordered = {option: found[option] for option in question.criteria}
            confidence = choice_confidence(list(ordered.values()))
            return ChoiceAnswer(choice=prediction.label, confidence=confidence, probabilities=ordered, **common)
        case ScoreQuestion():
            legend = {str(level): what for level, what in enumerate(question.criteria)}
            score = sum(level * found[name] for level, name in enumerate(legend))
            confidence = score_confidence([found[name] for name in legend])
            return ScoreAnswer(score=score, confidence=confidence, legend=legend, probabilities=found, **common)


def _mass(prediction: Prediction) -> float:
    assert prediction.mass is not None  # a server asks its classifier for it
    return prediction.mass


def classified(
    prediction: Prediction, served: Served, reason: ReasonMode, threshold: float | None = None
) -> Classified:
    """A prediction's form; `threshold` stands in place of the server's."""
    withheld = abstains(prediction.probability, served.threshold(reason) if threshold is None else threshold)
    return Classified(
        label=None if withheld else prediction.label,
        probability=prediction.probability,
        labels=None if prediction.singly is None else [] if withheld else list(prediction.labels),
        abstained=withheld,
        probabilities=prediction.by_label,
        mass=_mass(prediction),
        reasoning=prediction.reasoning,
        trimmed=prediction.trimmed,
        first=_first(prediction),
    )


def _first(prediction: Prediction) -> First | None:
    first = prediction.first
    return None if first is None else First(label=first.label, probability=first.probability)


def choice_confidence(probabilities: Sequence[float]) -> float:
    """How far the highest of k probabilities is above 1/k, from 0 to 1, as TypeSafe's API has it."""
    even = 1 / len(probabilities)
    return 1.0 if len(probabilities) < 2 else max(0.0, (max(probabilities) - even) / (1 - even))


def score_confidence(probabilities: Sequence[float]) -> float:
    """1 minus the mean distance to the likeliest level, over that of an even split to the middle; at least 0."""
    count = len(probabilities)
    if count < 2:
        return 1.0
    likeliest = max(range(count), key=probabilities.__getitem__)
    spread = sum(share * abs(level - likeliest) for level, share in enumerate(probabilities))
    even = sum(abs(level - (count - 1) / 2) for level in range(count)) / count
    return max(0.0, 1 - spread / even)


def models_of(served: Served) -> Mapping[str, Any]:
    """The list of models in the forms of TypeSafe (`models`) and of OpenAI (`data`)."""
    model = {"name": served.name, "description": served.description, "release_date": served.trained_on}
    listed = {"id": served.name, "object": "model", "created": served.created, "owned_by": "rir-mlx"}
    return {"models": [model], "object": "list", "data": [listed]}
