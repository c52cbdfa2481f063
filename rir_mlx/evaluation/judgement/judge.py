"""Everything that a comparison is said to mean, from its entries and how they were trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rir_mlx.evaluation.comparison import accuracy, choose_arm, controls_as_good, different_steps
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement import headline as headlines
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.evaluation.judgement.recommendation import recommend
from rir_mlx.evaluation.judgement.sentences import (
    beyond_chance_sentence,
    controls_sentence,
    different_steps_verdict,
    label_only_behind_verdict,
    likely_cause,
    no_label_only_verdict,
    no_more_accurate_verdict,
    none_clean_verdict,
    not_learned_verdict,
    nothing_learned_verdict,
    one_label_verdict,
    too_few_rows_verdict,
    verdict,
    worse_than_tfidf_verdict,
)
from rir_mlx.evaluation.judgement.warnings import warnings
from rir_mlx.evaluation.schema import Headline
from rir_mlx.statistics.paired_tests import is_better


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
    """For arms that are not shown to have learned the task: no test row is clean, no arm is better than the most
    frequent label, the test rows cannot show it, all are worse than TF-IDF, or one of the two that are compared has not
    learned. None if they did learn it. It is about these classifiers, so the draw of rows alone counts."""
    arms, rows = case.arms, case.rows
    if not arms or not len(rows.test):
        return None
    if case.all_seen:
        only_copies = rows.leaked == len(rows.test)
        return headlines.ALL_SEEN if only_copies else headlines.NONE_CLEAN, none_clean_verdict(only_copies=only_copies)
    best = max(((arm.name, accuracy(arm, rows)) for arm in arms), key=lambda pair: pair[1])
    majority, count = (case.most_frequent, accuracy(case.majority, rows)), int(rows.compared.sum())
    if case.one_label is not None:
        return headlines.ONE_LABEL, one_label_verdict(case.one_label, count)
    found = case.learned(arms)
    if found is False and (learned := case.beyond_chance):
        return headlines.NO_MORE_ACCURATE, no_more_accurate_verdict(best, majority, learned)
    if found is False:
        return headlines.NOTHING_LEARNED, nothing_learned_verdict(best, majority, _cause(case, arms))
    if (tfidf := _tfidf(case)) is not None and all(case.is_better(arm, tfidf) for arm in arms):
        return headlines.BEHIND_TFIDF, worse_than_tfidf_verdict(best, accuracy(tfidf, rows), _cause(case, arms))
    if found is None:
        together = case.compared(with_baseline=True)
        return headlines.too_few_rows(count), too_few_rows_verdict(best, majority, count, together)
    return _of_the_pair(case)


def _of_the_pair(case: Case) -> tuple[Headline, str] | None:
    """For label-only and the chosen arm, if one of them is not shown to beat the most frequent label, or label-only is
    worse than TF-IDF: the other may be ahead for having learned at all, whatever it learns from."""
    rows, chosen = case.rows, choose_arm(case.entries)
    pair = [arm for name in ("qa", chosen) for arm in case.arms if arm.name == name]
    if len(pair) < 2:
        return None
    learned = {arm.name: case.learned([arm]) for arm in pair}
    if weak := [arm for arm in pair if not learned[arm.name]]:
        measured = {arm.name: accuracy(arm, rows) for arm in weak}
        unsure = any(learned[name] is None for name in measured)
        majority = case.most_frequent, accuracy(case.majority, rows)
        agree = set(measured) <= set(case.beyond_chance)
        cause = beyond_chance_sentence(list(measured)) if agree else _cause(case, weak)
        text = not_learned_verdict(measured, majority, cause, open_to_doubt=unsure)
        return headlines.not_learned(list(measured), open_to_doubt=unsure), text
    tfidf, label_only = _tfidf(case), pair[0]
    if tfidf is None or not case.is_better(label_only, tfidf):
        return None
    accuracies = accuracy(label_only, rows), accuracy(tfidf, rows)
    text = label_only_behind_verdict(accuracies, pair[1].name, _cause(case, [label_only]))
    return headlines.LABEL_ONLY_BEHIND_TFIDF, text


def _tfidf(case: Case) -> EntryPredictions | None:
    return next((entry for entry in case.baselines if entry.name == "tf-idf"), None)


def _cause(case: Case, arms: Sequence[EntryPredictions]) -> str:
    """Why these arms did not learn the task."""
    falling = [arm.name for arm in arms if arm.name in case.early]
    return likely_cause(len(case.rows.single or case.rows.labels), falling)


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
