"""What comes of a text: the scores of every label, and the prediction made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LOW_MASS = 0.5
"""Labels that hold less of the model's probability are not what it would write. A trained classifier gives them nearly
all of it for texts like those that it learned from."""


@dataclass(frozen=True)
class LabelScores:
    """A model's scores of every label for n texts, all scored the same way (`Way`).

    scores      [n, labels] log p of each label among everything that the model could write
    reasonings  the reasoning in front of the label; None if there is none
    tokens      how many tokens were generated
    trimmed     how many tokens were cut from the end of the text
    knows_mass  False if the scores of a text share a constant that is not known
    """

    scores: NDArray[np.float64]
    reasonings: Sequence[str | None]
    tokens: Sequence[int]
    trimmed: Sequence[int]
    knows_mass: bool = True

    @property
    def mass(self) -> NDArray[np.float64]:
        """[n] the labels' share of the model's whole probability. Means nothing unless `knows_mass`."""
        return np.asarray(np.exp(_log_sum(self.scores, 1)[:, 0]))

    @property
    def log_probabilities(self) -> NDArray[np.float64]:
        """[n, labels], renormalised over the labels."""
        return np.asarray(self.scores - _log_sum(self.scores, 1))

    @staticmethod
    def averaged(chains: Sequence[LabelScores]) -> LabelScores:
        """The mean of several chains: probabilities and masses are averaged (self-consistency, arXiv:2203.11171), and
        of the chains that chose the winning label the first one's reasoning is kept."""
        each = np.stack([chain.log_probabilities for chain in chains])
        mean = _log_sum(each, 0)[0] - np.log(len(chains))
        mass = np.mean([chain.mass for chain in chains], axis=0)
        winners, votes = mean.argmax(1), each.argmax(2)
        agreeing = [int(np.argmax(votes[:, row] == winner)) for row, winner in enumerate(winners)]
        return LabelScores(
            mean + np.log(mass)[:, None],
            [chains[which].reasonings[row] for row, which in enumerate(agreeing)],
            np.sum([chain.tokens for chain in chains], axis=0).tolist(),
            chains[0].trimmed,
            all(chain.knows_mass for chain in chains),
        )

    def where(self, chosen: NDArray[np.bool_], other: LabelScores) -> LabelScores:
        """These scores, with the chosen rows [n] replaced by those of `other`, which has the chosen rows alone."""
        scores, places = self.scores.copy(), np.flatnonzero(chosen).tolist()
        scores[chosen] = other.scores
        reasonings, tokens, trimmed = list(self.reasonings), list(self.tokens), list(self.trimmed)
        for index, place in enumerate(places):
            reasonings[place], tokens[place] = other.reasonings[index], other.tokens[index]
            trimmed[place] = other.trimmed[index]
        return LabelScores(scores, reasonings, tokens, trimmed, self.knows_mass and other.knows_mass)


@dataclass(frozen=True)
class Prediction:
    """A label for a text. `probabilities` sum to 1 over the labels; `mass` is the share of the model's whole
    probability that the labels hold, low for a text that fits none of them, None if it was not asked for. `reasoning`
    is None if none was generated, `tokens` its length; `trimmed` tokens of the text were cut off. `first` is what an
    arm that answers twice had answered before its reasoning.

    Where a text may have several labels, `label` is the likeliest combination and `probabilities` are those of
    combinations; `labels` are those that are likely enough one by one, and `singly` the probability of each label."""

    label: str
    probabilities: dict[str, float]
    mass: float | None
    reasoning: str | None = None
    trimmed: int = field(default=0, compare=False)
    tokens: int = field(default=0, compare=False)
    first: Prediction | None = None
    labels: tuple[str, ...] = ()
    singly: dict[str, float] | None = None

    @property
    def probability(self) -> float:
        """The probability of the label."""
        return self.probabilities[self.label]

    @property
    def by_label(self) -> dict[str, float]:
        """The probability of each label by itself. They sum to 1 only where a text has one label."""
        return self.probabilities if self.singly is None else self.singly

    @property
    def fits_no_label(self) -> bool:
        """Whether the labels hold so little of the model's probability that it would rather write something else."""
        return self.mass is not None and self.mass < LOW_MASS


def unfit_texts(count: int) -> str:
    """A warning about texts that fit no label."""
    return (
        f"Texts that may fit no label, since the labels hold less than {LOW_MASS:.0%} of the model's probability: "
        f"{count:,}."
    )


def _log_sum(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """log Σ exp along an axis, which is kept. SciPy's takes as long to import as all that classifying needs of it."""
    highest = values.max(axis=axis, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0)
    with np.errstate(divide="ignore"):  # the sum of no probability at all
        return np.asarray(highest + np.log(np.exp(values - highest).sum(axis=axis, keepdims=True)))
