"""Everything that a comparison is said to mean, from its entries and how they were trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rir_mlx.evaluation.comparison import accuracy, choose_arm, controls_as_good, different_steps
from rir_mlx.evaluation.judgement import headline as headlines
from rir_mlx.evaluation.judgement.case import USEFUL, Case
from rir_mlx.evaluation.judgement.recommendation import recommend
from rir_mlx.evaluation.judgement.sentences import (
    controls_sentence,
    different_steps_verdict,
    likely_cause,
    no_label_only_verdict,
    no_more_accurate_verdict,
    nothing_learned_verdict,
    one_label_verdict,
    too_few_rows_verdict,
    verdict,
    worse_than_tfidf_sentence,
    worse_than_tfidf_verdict,
)
from rir_mlx.evaluation.judgement.warnings import warnings
from rir_mlx.evaluation.schema import Headline
from rir_mlx.statistics.paired_tests import is_better, is_significant


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
    advice = recommend(case, chosen)
    return Judgement(headline, text, chosen, advice.name, advice.text or None, warnings(case))


def failure_to_learn(case: Case) -> tuple[Headline, str] | None:
    """For arms that are not shown to have learned the task: none of them is better than the most frequent label, the
    test rows cannot show it, or all are worse than TF-IDF. None if they did learn it. It is about these classifiers,
    so the draw of rows alone counts."""
    arms, rows = case.arms, case.rows
    if not arms or not len(rows.test):
        return None
    best = max(((arm.name, accuracy(arm, rows)) for arm in arms), key=lambda pair: pair[1])
    falling = [arm.name for arm in arms if arm.name in case.early]
    cause = likely_cause(len(rows.single or rows.labels), falling)
    majority, count = (case.most_frequent, accuracy(case.majority, rows)), int(rows.compared.sum())
    if case.one_label is not None:
        return headlines.ONE_LABEL, one_label_verdict(case.one_label, count)
    found = case.learned(arms)
    if found is False and (learned := case.beyond_chance):
        return headlines.NO_MORE_ACCURATE, no_more_accurate_verdict(best, majority, learned)
    if found is False:
        return headlines.NOTHING_LEARNED, nothing_learned_verdict(best, majority, cause)
    if (tfidf := next((entry for entry in case.baselines if entry.name == "tf-idf"), None)) is not None:
        behind = [case.difference(tfidf, arm) for arm in arms]
        if all(shown < 0 for _, shown in behind):
            close = found and max(change.high for change, _ in behind) >= -USEFUL
            if close and (both := _behind_tfidf(case, best, accuracy(tfidf, rows))):
                return both
            return headlines.BEHIND_TFIDF, worse_than_tfidf_verdict(best, accuracy(tfidf, rows), cause)
    if found is None:
        together = case.compared(with_baseline=True)
        return headlines.too_few_rows(count), too_few_rows_verdict(best, majority, count, together)
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
    unstable = [(name, spread.points) for name, spread in case.spreads.items()]
    return headlines.headline(against, controls, unstable), text + controls_sentence(chosen, controls)
