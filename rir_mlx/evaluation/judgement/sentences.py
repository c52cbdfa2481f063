"""The verdict: whether reasoning helped, in plain sentences.

Statistics come from `statistics.paired_tests`; here they are put into words. With one or two seeds, a verdict covers
only the trained classifiers; from three seeds on, it judges the way of training. That an arm loses to a baseline is
always about the trained classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rir_mlx.progress import counted
from rir_mlx.statistics.intervals import LEVEL
from rir_mlx.statistics.paired_tests import (
    MIN_DISCORDANT,
    MIN_SEEDS,
    PairedComparison,
    SeedComparison,
    is_significant,
)

_MANY_LABELS = 20
"""From so many labels on, their number is a likely cause of a task that was not learned."""
_FEW_SEEDS = 5
"""For up to so many seeds each one is reported."""


def no_label_only_verdict(arm: str) -> str:
    return f"The label-only arm (qa) is not trained, so nothing shows whether reasoning ({arm}) helped or hurt."


def different_steps_verdict(steps: Mapping[str, int | None]) -> str:
    listed = ", ".join(f"{arm} {count}" for arm, count in steps.items())
    return f"No verdict: the arms were trained for different numbers of steps ({listed}). Train them again."


def nothing_learned_verdict(best: tuple[str, float], majority: tuple[str, float], cause: str) -> str:
    """For arms that are no better than the most frequent label. `best` is the most accurate arm with its accuracy,
    `majority` the most frequent label with its share, `cause` is `likely_cause`."""
    return (
        f"Nothing was learned: no arm is shown to be better than always answering {majority[0]!r}, the most frequent "
        f"label ({100 * majority[1]:.1f} %; the best arm, {best[0]}, has {100 * best[1]:.1f} %). So this run says "
        f"nothing about reasoning. {cause}"
    )


def no_more_accurate_verdict(best: tuple[str, float], majority: tuple[str, float], learned: Sequence[str]) -> str:
    """For arms that have learned, but are no more accurate than the most frequent label. The first arguments are those
    of `nothing_learned_verdict`; `learned` are the arms that agree with the true labels more than by chance."""
    return (
        f"No arm is shown to be more accurate than always answering {majority[0]!r}, the most frequent label "
        f"({100 * majority[1]:.1f} %; the best arm, {best[0]}, has {100 * best[1]:.1f} %), so this run says nothing "
        f"about reasoning. {beyond_chance_sentence(learned)}"
    )


def beyond_chance_sentence(learned: Sequence[str]) -> str:
    """For arms that have learned, though not to be more accurate than the most frequent label."""
    return (
        f"But {' and '.join(learned)} agree{'s' * (len(learned) == 1)} with the true labels more than by chance: "
        "compare balanced accuracy, macro-F1 and MCC."
    )


def none_clean_verdict(*, only_copies: bool) -> str:
    """For test rows of which none is clean. `only_copies` if all are copies of training or validation rows."""
    return (
        f"Every test text is also a training or validation text{'' if only_copies else ', or has two labels'}, so "
        "nothing shows what an arm has learned. The figures are of these rows, and say nothing about new texts. Take "
        "other test rows (data.test)."
    )


def one_label_verdict(label: str, rows: int) -> str:
    """For so many test rows that all have this label."""
    return f"All {counted(rows, 'test row')} have the label {label!r}, so nothing shows what an arm has learned."


def too_few_rows_verdict(best: tuple[str, float], majority: tuple[str, float], rows: int, together: int = 1) -> str:
    """For arms that may or may not be better than the most frequent label. The arguments are those of
    `nothing_learned_verdict`, the number of test rows compared, and how many comparisons are judged together."""
    label, share = majority
    strict = (
        f" {together} comparisons are judged together, so each needs p < {0.05 / together:.2g}." if together > 1 else ""
    )
    return (
        f"{counted(rows, 'test row')} cannot show whether any arm is better than always answering {label!r}, the most "
        f"frequent label ({100 * share:.1f} %; the best arm, {best[0]}, has {100 * best[1]:.1f} %). So this run says "
        f"nothing about reasoning. More test rows (data.test, data.test_size) would show it.{strict}"
    )


def worse_than_tfidf_verdict(best: tuple[str, float], tfidf: float, cause: str) -> str:
    """For arms that all lose to TF-IDF. `best` is the most accurate arm with its accuracy."""
    return (
        f"Every arm, as trained here, is worse than TF-IDF with logistic regression ({100 * tfidf:.1f} %; the best "
        f"arm, {best[0]}, has {100 * best[1]:.1f} %). The task was not learned well enough to judge reasoning. {cause}"
    )


def not_learned_verdict(
    arms: Mapping[str, float], majority: tuple[str, float], cause: str, *, open_to_doubt: bool
) -> str:
    """For arms of the comparison, with their accuracies, that are not shown to be better than the most frequent label,
    though another arm is. `open_to_doubt` if more test rows may yet show it."""
    listed = " and ".join(f"{arm} ({100 * share:.1f} %)" for arm, share in arms.items())
    more = " More test rows (data.test, data.test_size) may show it." if open_to_doubt else ""
    return (
        f"{listed} {'is' if len(arms) == 1 else 'are'} not shown to be better than always answering {majority[0]!r}, "
        f"the most frequent label ({100 * majority[1]:.1f} %). So this run says nothing about reasoning.{more} {cause}"
    )


def label_only_behind_verdict(accuracies: tuple[float, float], arm: str, cause: str) -> str:
    """For a label-only arm that loses to TF-IDF, with their accuracies, beside a reasoning arm."""
    label_only, tfidf = (f"{100 * share:.1f} %" for share in accuracies)
    return (
        f"Label-only, as trained here (qa, {label_only}), is worse than TF-IDF with logistic regression ({tfidf}): it "
        f"has not learned what the rows allow, so a comparison with {arm} says nothing about reasoning. {cause}"
    )


def likely_cause(labels: int, still_falling: Sequence[str]) -> str:
    """Why a task was not learned. `still_falling` are the arms whose loss was still falling at the end."""
    if still_falling:
        named = " and ".join(filter(None, [", ".join(still_falling[:-1]), still_falling[-1]]))
        first = (
            f"Likely cause: training ended too early, for the loss of {named} was still falling. Raise "
            "classifier.epochs or classifier.learning_rate."
        )
        return first + (f" The number of labels ({labels}) makes the task harder." if labels >= _MANY_LABELS else "")
    causes = ["too few training steps", "an unsuitable learning rate", "a model that is too small"]
    if labels >= _MANY_LABELS:
        causes.append(f"too many labels ({labels})")
    return f"Likely causes: {', '.join(causes[:-1])} or {causes[-1]}."


def controls_sentence(arm: str, controls: Sequence[str]) -> str:
    """A qualification of a verdict in favour of reasoning: controls that do as well. Empty if there are none."""
    if not controls:
        return ""
    return (
        f" But {arm} is not shown to be better than {' and '.join(controls)}, trained on other rows' reasonings or on "
        "shuffled words."
    )


def verdict(comparison: PairedComparison, *, chosen_among: int = 1, left_out: int = 0) -> str:
    """The answer to "did reasoning help here?". `chosen_among` is the number of arms that the second one was chosen
    from, on validation rows. `left_out` is the number of test rows that were not clean, and are not compared."""
    if comparison.rows == 0:
        return f"There are no test rows, so nothing shows whether reasoning ({comparison.second}) helped or hurt."
    parts = [_measured(comparison), _by_seed(comparison)]
    if chosen_among > 1:
        corrected = ", and the interval is corrected for that" if comparison.compared > 1 else ""
        several = len(comparison.by_seed) > 1  # one seed speaks of the classifiers, which test rows did not choose
        flattered = " Choosing the best makes the change look a little too good." if several else ""
        parts.append(
            f"{comparison.second} was chosen among {chosen_among} arms on validation rows{corrected}.{flattered}"
        )
    if left_out:
        rows = f"{counted(left_out, 'test row')} {'is' if left_out == 1 else 'are'}"
        parts.append(f"{rows} left out: copies of training or validation rows, or texts with two labels.")
    parts.append(_finding(comparison))
    return " ".join(parts)


def _measured(comparison: PairedComparison) -> str:
    change, seeds = comparison.difference, len(comparison.by_seed)
    rows = counted(comparison.rows, "test row")
    measured = (
        f"{100 * change.value:+.1f} points against {comparison.first} (95 % interval {100 * change.low:+.1f} to "
        f"{100 * change.high:+.1f}, {rows}, {'one seed' if seeds == 1 else f'{seeds} seeds'})."
    )
    if seeds == 1:
        return f"Two classifiers compared, not two ways of training: the {comparison.second} one has {measured}"
    return f"Reasoning ({comparison.second}) changed accuracy by {measured}"


def _by_seed(comparison: PairedComparison) -> str:
    """Which of the two gained in each seed, with McNemar's p; for more than five seeds, the median and the range."""
    seeds, first, second = comparison.by_seed, comparison.first, comparison.second
    if len(seeds) == 1:
        only = seeds[0]
        favoured = direction(only, comparison)
        return (
            f"Only {second} is right in {counted(only.gained, 'row')}, only {first} in {only.lost:,}: McNemar p = "
            f"{only.p_value:.2g}{f', in favour of {favoured}' if favoured else ''}."
        )
    if len(seeds) > _FEW_SEEDS:
        values = sorted(100 * seed.difference for seed in seeds)
        return (
            f"By seed {np.median(values):+.1f} (median), {values[0]:+.1f} to {values[-1]:+.1f}; {second} is ahead in "
            f"{sum(value > 0 for value in values)} of {len(seeds)} seeds."
        )
    listed = ", ".join(
        f"{100 * seed.difference:+.1f} ({seed.gained:,} against {seed.lost:,}, p = {seed.p_value:.2g})"
        for seed in seeds
    )
    return f"By seed, with the rows that only {second} and only {first} gets right and McNemar's p: {listed}."


def direction(seed: SeedComparison, comparison: PairedComparison) -> str:
    """The one of the two that McNemar's test finds better in this seed; empty if it finds neither."""
    if seed.p_value >= (1 - LEVEL) / comparison.compared:
        return ""
    return comparison.second if seed.gained > seed.lost else comparison.first


def seeds_disagree(comparison: PairedComparison) -> bool:
    """Whether McNemar's test finds the one better in some seed, and the other in another."""
    return len({direction(seed, comparison) for seed in comparison.by_seed} - {""}) > 1


def _finding(comparison: PairedComparison) -> str:
    change, seeds, significant = comparison.difference, len(comparison.by_seed), is_significant(comparison)
    includes = change.low <= 0 <= change.high
    if seeds < MIN_SEEDS:
        if seeds == 1 and significant:
            better = comparison.second if change.value > 0 else comparison.first
            found = f"On rows like these, this {better} classifier is the better one."
        elif seeds == 1:
            found = f"It is unclear whether the {comparison.second} or the {comparison.first} classifier is better"
            plain = includes and comparison.by_seed[0].p_value >= 1 - LEVEL
            found += "." if plain else f": McNemar's exact test needs p < {(1 - LEVEL) / comparison.compared:.2g}."
        else:
            found = f"Two seeds cannot show how much seeds vary.{_disagreement(comparison)}"
        return (
            f"{found} This is no evidence that reasoning helps or hurts in training: that takes {MIN_SEEDS} seeds or "
            "more (classifier.seeds=[0, 1, 2])."
        )
    if includes:
        return (
            "The interval includes 0, so there is no evidence that reasoning helped or hurt."
            f"{_disagreement(comparison)}"
        )
    if not significant:
        return (
            f"In no seed do the two differ on {MIN_DISCORDANT} rows or more, so there is no evidence that reasoning "
            "helped or hurt."
        )
    return f"That is evidence that reasoning {'helped' if change.low > 0 else 'hurt'} here."


def _disagreement(comparison: PairedComparison) -> str:
    if not seeds_disagree(comparison):
        return ""
    return (
        f" The seeds disagree: in some {comparison.second} is better, in others {comparison.first} (p < "
        f"{(1 - LEVEL) / comparison.compared:.2g} each)."
    )
