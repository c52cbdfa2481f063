"""How texts are classified: with which reasoning, from how many samples, how many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rir_mlx.classifier import Classifier, OnText, Prediction
from rir_mlx.errors import UserError

Reason = Literal["never", "always", "auto"]


@dataclass(frozen=True)
class Decoding:
    """`reason` says whether a reasoning is written before the label; the probabilities of several `samples`, drawn at
    `temperature`, are averaged, and one is greedy; `batch_size` texts are worked on at once."""

    reason: Reason = "always"
    samples: int = 1
    temperature: float = 0.7
    batch_size: int = 32


def ask(
    classifier: Classifier, texts: Sequence[str], how: Decoding, *, on_text: OnText | None = None
) -> list[Prediction]:
    """What a classifier answers, in the order of the texts. Raises UserError for what it cannot do."""
    if not isinstance(classifier, Classifier):
        return classifier.predict(texts, how, on_text=on_text)
    if how.reason != "always" or how.samples != 1:
        raise UserError(
            "This classifier writes one reasoning for every text.", mend="Leave out `reason` and `samples`."
        )
    return classifier.predict(texts, batch_size=how.batch_size, on_text=on_text)
