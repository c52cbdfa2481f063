"""The typed content of `comparison.json`: what an evaluation measured. Every reader and writer uses this schema.

Shares, accuracies and probabilities go from 0 to 1 unless a field says otherwise. A part that was not measured is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from rir_mlx.errors import UserError
from rir_mlx.evaluation.run_facts import Part, RowCounts, RunFacts, TrainingCost
from rir_mlx.statistics.intervals import Interval
from rir_mlx.statistics.metrics import CoveragePoint, LabelMetrics, ReliabilityBin
from rir_mlx.statistics.paired_tests import PairedComparison
from rir_mlx.storage.atomic import read_json, write_json
from rir_mlx.types import AnswerMode, Finding

VERSION: Final = 3
"""The version of `comparison.json` that this code writes and reads."""

EntryKind = Literal["arm", "control", "baseline"]


class Metrics(Part):
    """Metrics of one entry: means over its seeds with 95 % intervals over rows and seeds."""

    accuracy: Interval
    """Share of test rows whose predicted label is correct."""
    balanced_accuracy: Interval
    """Mean recall of the labels that occur in the test rows."""
    macro_f1: Interval
    """Mean F1 of the labels that occur in the test rows."""
    mcc: Interval
    """Matthews' correlation coefficient, -1 to 1; 0 where it is undefined."""
    log_loss: Interval | None = None
    """Mean of -ln p(true label), in nats; against a label's distribution, where it is one, the cross-entropy. Null for
    an entry without probabilities, like the next two."""
    brier: Interval | None = None
    """Brier score: squared differences summed over labels, mean over rows, 0 to 2."""
    calibration_error: Interval | None = None
    """Root-mean-square gap between confidence and share of correct answers, in 15 groups, without the gap that noise
    alone would show (Kumar et al. 2019). 0 for perfect calibration."""


class SetMetrics(Part):
    """How well a text's labels are found where it may have several: means over seeds with 95 % intervals over rows and
    seeds, on all test rows."""

    micro_f1: Interval
    """F1 over all labels of all rows together."""
    macro_f1: Interval
    """Mean F1 of the labels that occur in the test rows."""
    jaccard: Interval
    """Mean over rows of the labels found, as a share of those that the row has or was given."""


class SeveralLabels(Part):
    """Measured where a text may have several labels."""

    by_threshold: SetMetrics
    """Of the labels that are likely enough one by one, as they are given."""
    likeliest: SetMetrics
    """Of the likeliest combination of labels, whose accuracy is measured."""
    thresholds: Sequence[Sequence[float]]
    """[seeds, labels] the probability from which on a label is given: fitted on the validation rows, or 0.5."""


class SeedMetrics(Part):
    """The same metrics for each seed, in the order of the entry's `seeds`."""

    accuracy: Sequence[float]
    """Accuracy of each seed."""
    balanced_accuracy: Sequence[float] = ()
    """Balanced accuracy of each seed."""
    macro_f1: Sequence[float] = ()
    """Macro-F1 of each seed."""
    mcc: Sequence[float] = ()
    """Matthews' correlation coefficient of each seed."""
    log_loss: Sequence[float] | None = None
    """Log-loss of each seed, in nats."""
    brier: Sequence[float] | None = None
    """Brier score of each seed."""
    calibration_error: Sequence[float] | None = None
    """Calibration error of each seed."""


class CalibrationMetrics(Part):
    """Means over seeds on the test rows."""

    log_loss: float
    """In nats."""
    brier: float
    """0 to 2."""
    calibration_error: float
    """Root-mean-square, as above."""


class AnsweredRows(Part):
    """What a threshold for a wanted accuracy answers, in one way of classifying."""

    mode: AnswerMode
    """`direct` without a reasoning, `reasoned` after one, `sampled` averaged over several, or `auto`."""
    threshold: float
    """Lowest confidence at which the classifier answers. 2 abstains on every text."""
    validation_rows: int
    """Validation rows that it rests on: those at or above it."""
    share: float
    """Share of the cleaned test rows that are answered."""
    accuracy: Interval | None = None
    """Of the answered ones, with an interval over rows alone. Null if none is answered."""


class CalibrationResult(Part):
    """What was fitted on the validation rows, and what it changed on the test rows. Lists hold one value a seed."""

    rows: int
    """Validation rows."""
    temperature: Sequence[float]
    """Temperature of the way of scoring by which the entry is measured."""
    at_bounds: Sequence[str] = ()
    """Ways of scoring whose temperature is at a bound of what is fitted, for some seed."""
    reason_below: Sequence[float | None] = ()
    """`auto` reasons if the direct confidence is below this. Null if nothing was fitted."""
    answer_from: Sequence[float | None] = ()
    """Lowest confidence at which the classifier answers. 2 abstains on every text: no threshold was shown to reach the
    wanted accuracy. Null if no accuracy was wanted."""
    answered_rows: Sequence[int | None] = ()
    """Validation rows at or above this threshold. Null if no accuracy was wanted."""
    wanted: float | None = None
    """The accuracy that was wanted."""
    answered: Sequence[AnsweredRows] = ()
    """For each way of classifying, what its threshold answers (first seed). Empty if no accuracy was wanted."""
    before: CalibrationMetrics
    """With the model's own probabilities."""
    after: CalibrationMetrics
    """With calibrated probabilities."""


class Reliability(Part):
    """Accuracy by confidence."""

    before: Sequence[ReliabilityBin]
    """With the model's own probabilities."""
    after: Sequence[ReliabilityBin]
    """With calibrated probabilities."""


class CostPoint(Part):
    """One way to classify with the entry: what it costs and what it reaches."""

    reason: Literal["never", "always", "auto"]
    """When a reasoning is generated."""
    samples: int = 1
    """Reasonings drawn per row, over which probabilities are averaged."""
    threshold: float | None = None
    """For `auto`: a reasoning is generated if the direct confidence is below this. Null for the fitted threshold."""
    share_reasoned: float
    """Share of the rows that get a reasoning."""
    tokens_generated: float
    """Mean over rows."""
    accuracy: Interval
    """On the test rows."""


class Probe(Part):
    """What happens when the reasoning is replaced."""

    flips: float
    """Share of rows whose predicted label changes."""
    accuracy: float
    """Accuracy afterwards."""


class Faithfulness(Part):
    """Whether the label depends on the reasoning (arXiv:2307.13702): the first seed on the first test rows, at most
    500."""

    rows: int
    """Test rows probed."""
    accuracy: float | None = None
    """Accuracy on these rows with the classifier's own reasonings."""
    swapped: Probe | None = None
    """With the reasoning of a row that was given another label."""
    corrupted: Probe | None = None
    """With half of the reasoning's words replaced."""


class Outcome(Part):
    """Test rows with one outcome of a reasoning."""

    rows: int
    """Summed over seeds."""
    share: Interval
    """Of all rows and seeds."""


class Changes(Part):
    """What the reasoning changed in an arm that answers twice: its first label against its second, on the cleaned test
    rows."""

    first_accuracy: Interval
    """Accuracy of the first label."""
    corrected: Outcome
    """Wrong first, right second."""
    spoiled: Outcome
    """Right first, wrong second."""
    kept_right: Outcome
    """Right both times."""
    kept_wrong: Outcome
    """The same wrong label both times."""
    wrong_otherwise: Outcome
    """Two wrong labels that differ."""
    against_first: PairedComparison
    """The second label compared with the first. Gained rows are the corrected ones, lost rows the spoiled ones."""


class LabelMass(Part):
    """Probability of all labels together before renormalisation. If it is low, the prompt does not make the model write
    a label."""

    mean: float
    """Mean over rows and seeds."""
    p5: float
    """5 % of the rows lie below this."""
    p50: float
    """Median."""


class InferenceCost(Part):
    """What classifying one test row costs, mean over rows and seeds."""

    tokens_generated: float
    """Tokens of the reasoning."""
    seconds: float
    """On the machine of the evaluation, in batches."""


class EntryResult(Part):
    """One line of the comparison: an arm, a control arm or a baseline, measured on the test rows."""

    name: str
    """The arm or baseline."""
    kind: EntryKind
    """`arm`, `control` (an arm trained on spoiled reasonings) or `baseline`."""
    description: str
    """The name in words."""
    seeds: Sequence[int]
    """Training seeds."""
    metrics: Metrics
    """On all test rows."""
    by_seed: SeedMetrics
    """Metrics of each seed on all test rows."""
    cleaned: Metrics | None = None
    """On the cleaned test rows: no copies of training or validation rows, no texts with two labels. Null if cleaning
    removes no row, or all of them."""
    against: PairedComparison | None = None
    """Paired comparison with the label-only arm (`qa`) on the cleaned test rows, corrected for the number of reasoning
    arms. Null for `qa` itself, and if it was not trained."""
    beats: Sequence[str] = ()
    """Baselines that the entry is better than, by paired comparisons on the cleaned test rows, corrected for the number
    of reasoning arms and baselines. Empty if no test row is clean."""
    several: SeveralLabels | None = None
    """How well labels are found. Null where a text has one label. Where it may have several, accuracy is the share of
    rows whose labels are all right, and `metrics` are those of combinations of labels."""
    per_class: Sequence[LabelMetrics] | None = None
    """Metrics of each label, in the order of the comparison's `labels`."""
    confusion: Sequence[Sequence[int]] | None = None
    """[labels, labels] test rows by true label (row) and predicted label (column), summed over seeds. Null where a text
    may have several labels."""
    risk_coverage: Sequence[CoveragePoint] | None = None
    """Accuracy on the most confident rows, from few to all of them."""
    validation_accuracy: float | None = None
    """Mean over seeds on the validation rows. It decides which arm is chosen."""
    cost: InferenceCost | None = None
    """Null for baselines, like everything that follows."""
    training: TrainingCost | None = None
    """What the training cost."""
    label_mass: LabelMass | None = None
    """Probability of all labels together."""
    calibration: CalibrationResult | None = None
    """Null with fewer than 20 validation rows."""
    reliability: Reliability | None = None
    """Accuracy by confidence."""
    cost_curve: Sequence[CostPoint] | None = None
    """Accuracy against tokens generated. Null for arms that write the label first."""
    faithfulness: Faithfulness | None = None
    """Null for arms that write the label first."""
    changes: Changes | None = None
    """Null for arms that answer once."""
    trimmed: int = 0
    """Test texts whose end was cut to fit into `max_seq_length` (first seed)."""


class Headline(Part):
    """The outcome in at most twelve words."""

    text: str
    """One sentence."""
    finding: Finding
    """Which way it points: reasoning helped, it hurt, neither is shown, or the run cannot say (`failed`)."""


class CurvePoint(Part):
    """A classifier that was trained on a part of the training rows."""

    rows: int
    """Training rows. The smaller parts are in the larger ones."""
    accuracy: Interval
    """On the test rows that comparisons use, with an interval over their draw."""


class LearningCurve(Part):
    """Accuracy against training rows: one arm and seed, the same optimizer steps for every part."""

    arm: str
    """The arm."""
    seed: int
    """Training seed."""
    points: Sequence[CurvePoint]
    """From few training rows to all."""
    gain: Interval
    """Accuracy with all training rows minus that of the point before, over the draw of test rows alone."""
    text: str
    """Whether more labels would help, and more than reasonings do, in words."""


class Comparison(Part):
    """What an evaluation measured: every trained arm and baseline on the same test rows, and the verdict."""

    version: Literal[3] = VERSION
    """Version of this format."""
    run: RunFacts
    """How the comparison was made."""
    labels: Sequence[str]
    """The labels, in the order that every matrix and list by label follows. Where a text may have several, each by
    itself."""
    rows: RowCounts
    """Size of each part."""
    headline: Headline | None = None
    """The outcome in one sentence."""
    verdict: str | None = None
    """Whether reasoning helped, in words. Null if no reasoning arm was trained."""
    chosen: str | None = None
    """The reasoning arm with the best validation accuracy, of ties the cheapest; never chosen by test rows."""
    recommended: str | None = None
    """The arm or baseline to use. Null if none is shown to be better than the most frequent label, or if no test row is
    clean."""
    recommendation: str | None = None
    """Which one to use, and why. It compares the classifiers of this run, not ways of training."""
    warnings: Sequence[str] = ()
    """What to know before relying on the numbers."""
    entries: Sequence[EntryResult]
    """Arms, controls and baselines, in this order."""
    learning_curve: LearningCurve | None = None
    """Null if none was trained (`classifier.learning_curve`), or if no test row is clean."""
    augmentation: dict[str, Any] | None = None
    """The content of `augmented/stats.json`. Null if there is none."""

    def entry(self, name: str) -> EntryResult | None:
        """The line of an arm or baseline; None if it was not measured."""
        return next((entry for entry in self.entries if entry.name == name), None)


def write_comparison(path: Path, comparison: Comparison) -> None:
    write_json(path, comparison.model_dump(mode="json"))


def read_comparison(path: Path) -> Comparison:
    """Raises UserError if the file was written by another version of rir-mlx or is not a comparison."""
    hint = f"Run `rir-mlx evaluate {path.parent.parent}` to write it again; measured answers are reused."
    values = read_json(path, hint)
    found = values.get("version")
    if found != VERSION:
        raise UserError(f"{path} has format version {found}; this rir-mlx reads version {VERSION}.", hint=hint)
    try:
        return Comparison.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path} is not a comparison: {place}: {fault['msg']}.", hint=hint) from error
