"""Everything that a comparison is said to mean, from its entries and how they were trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rir_mlx.evaluation.comparison import (
    USEFUL,
    accuracy,
    between_classifiers,
    choose_arm,
    controls_as_good,
    different_steps,
    learned,
)
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement import headline as headlines
from rir_mlx.evaluation.judgement.recommendation import recommend
from rir_mlx.evaluation.judgement.sentences import (
    controls_sentence,
    different_steps_verdict,
    likely_cause,
    no_label_only_verdict,
    nothing_learned_verdict,
    too_few_rows_verdict,
    verdict,
    worse_than_tfidf_sentence,
    worse_than_tfidf_verdict,
)
from rir_mlx.evaluation.judgement.warnings import Journals, ended_too_early, far_apart, warnings
from rir_mlx.evaluation.schema import EntryResult, Headline
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.statistics.paired_tests import is_better, is_significant


@dataclass(frozen=True)
class Case:
    """What is judged.

    entries   arms, controls and baselines
    results   their lines of the comparison, in the same order
    majority  the most frequent training label as an entry, whether or not it is among the baselines
    journals  the metrics.jsonl of each trained entry and seed
    """

    entries: Sequence[EntryPredictions]
    results: Sequence[EntryResult]
    rows: EvaluationRows
    majority: EntryPredictions
    journals: Journals = field(default_factory=dict)

    @property
    def most_frequent(self) -> str:
        return self.rows.labels[int(self.majority.probabilities[0, 0].argmax())]


@dataclass(frozen=True)
class Judgement:
    """The fields of a `Comparison` that say what it means."""

    headline: Headline
    verdict: str | None
    chosen: str | None
    recommended: str | None
    recommendation: str | None
    warnings: list[str]


def judge(case: Case) -> Judgement:
    chosen = choose_arm(case.entries)
    headline, text = failure_to_learn(case) or _comparison(case, chosen)
    advice = recommend(case.entries, case.rows, chosen, case.majority)
    found = warnings(case.entries, case.rows, case.journals)
    return Judgement(headline, text, chosen, advice.name, advice.text or None, found)


def failure_to_learn(case: Case) -> tuple[Headline, str] | None:
    """For arms that are not shown to have learned the task: none of them is better than the most frequent label, the
    test rows cannot show it, or all are worse than TF-IDF. None if they did learn it. It is about these classifiers,
    so the draw of rows alone counts."""
    entries, rows = case.entries, case.rows
    arms = [entry for entry in entries if entry.kind == "arm"]
    if not arms or not len(rows.test):
        return None
    best = max(((arm.name, accuracy(arm, rows)) for arm in arms), key=lambda pair: pair[1])
    falling = [name for name in ended_too_early(case.journals) if name in {arm.name for arm in arms}]
    cause = likely_cause(len(rows.labels), falling)
    majority, count = (case.most_frequent, accuracy(case.majority, rows)), int(rows.compared.sum())
    found = learned(case.majority, arms, rows)
    if found is False:
        return headlines.NOTHING_LEARNED, nothing_learned_verdict(best, majority, cause)
    tfidf = next((entry for entry in entries if entry.name == "tf-idf"), None)
    behind = [between_classifiers(tfidf, arm, rows).high for arm in arms] if tfidf is not None else [0.0]
    if tfidf is not None and max(behind) < 0:
        if found and max(behind) >= -USEFUL and (both := _behind_tfidf(case, best, accuracy(tfidf, rows))):
            return both
        return headlines.BEHIND_TFIDF, worse_than_tfidf_verdict(best, accuracy(tfidf, rows), cause)
    if found is None:
        text = too_few_rows_verdict(best, majority, count)
        return headlines.ONE_LABEL if majority[1] == 1 else headlines.too_few_rows(count), text
    return None


def _behind_tfidf(case: Case, best: tuple[str, float], tfidf: float) -> tuple[Headline, str] | None:
    """For arms that are a little worse than TF-IDF: what the comparison of the arms shows beside that, if anything."""
    chosen = choose_arm(case.entries)
    against = next((result.against for result in case.results if result.name == chosen), None)
    if against is None or not against.judges_training or not is_significant(against):
        return None
    headline, text = _comparison(case, chosen)
    if headline.finding not in ("helped", "hurt"):
        return None
    return headlines.behind_tfidf(against), f"{worse_than_tfidf_sentence(best, tfidf)} {text}"


def _comparison(case: Case, chosen: str | None) -> tuple[Headline, str | None]:
    entries, results, rows = case.entries, case.results, case.rows
    if chosen is None:
        return headlines.NO_REASONING_ARM, None
    against = next(result.against for result in results if result.name == chosen)
    if against is None:
        return headlines.NO_LABEL_ONLY, no_label_only_verdict(chosen)
    if steps := different_steps(results, chosen):
        return headlines.DIFFERENT_STEPS, different_steps_verdict(steps)
    arms = sum(entry.is_reasoning_arm for entry in entries)
    text = verdict(against, chosen_among=arms if len(rows.validation) else 1, left_out=int(np.sum(~rows.compared)))
    helped = against.judges_training and is_better(against)
    controls = controls_as_good(entries, chosen, rows) if helped else []
    unstable = [(name, spread.points) for name, spread in far_apart(entries, rows).items()]
    return headlines.headline(against, controls, unstable), text + controls_sentence(chosen, controls)
