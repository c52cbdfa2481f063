"""The headline of a comparison: at most twelve words, and which way they point. Names in it are those of arms."""

from __future__ import annotations

from collections.abc import Sequence

from rir_mlx.evaluation.schema import Headline
from rir_mlx.progress import counted
from rir_mlx.statistics.paired_tests import MIN_SEEDS, PairedComparison, is_significant

NOTHING_LEARNED = Headline(
    text="Nothing learned: no arm beats always answering the most frequent label.", finding="failed"
)
NO_MORE_ACCURATE = Headline(
    text="No arm is more accurate than always answering the most frequent label.", finding="failed"
)
ALL_SEEN = Headline(text="No verdict: every test text is a training or validation text.", finding="failed")
NONE_CLEAN = Headline(text="No verdict: every test text is a copy or has two labels.", finding="failed")
ONE_LABEL = Headline(text="No verdict: all test rows have the same label.", finding="unclear")
BEHIND_TFIDF = Headline(text="TF-IDF beats these classifiers: the task was not learned well.", finding="failed")
LABEL_ONLY_BEHIND_TFIDF = Headline(
    text="No verdict: label-only (qa), as trained here, is worse than TF-IDF.", finding="unclear"
)
NO_LABEL_ONLY = Headline(text="Label-only (qa) was not trained: nothing to compare reasoning with.", finding="unclear")
NO_REASONING_ARM = Headline(text="No reasoning arm was trained: nothing to judge.", finding="unclear")
DIFFERENT_STEPS = Headline(text="No verdict: the arms took different numbers of training steps.", finding="failed")
NO_TEST_ROWS = Headline(text="No test rows: nothing is measured.", finding="failed")


_TOO_FEW = "cannot show whether any arm beats the majority label."
_NOT_CLEARLY = "not clearly beat the majority label."


def too_few_rows(rows: int) -> Headline:
    """For test rows that neither show that an arm learned nor that none did."""
    return Headline(text=f"{counted(rows, 'test row')} {_TOO_FEW}", finding="unclear")


def leaves_learning_open(headline: Headline) -> bool:
    """Whether a headline says that the test rows do not show if an arm learned."""
    return headline == ONE_LABEL or (headline.finding == "unclear" and headline.text.endswith((_TOO_FEW, _NOT_CLEARLY)))


def not_learned(arms: Sequence[str], *, open_to_doubt: bool) -> Headline:
    """For arms of the comparison that are not shown to have learned, though another arm is. `open_to_doubt` if more
    test rows may yet show it."""
    text = f"No verdict: {' and '.join(arms)} {'does' if len(arms) == 1 else 'do'} {_NOT_CLEARLY}"
    return Headline(text=text, finding="unclear" if open_to_doubt else "failed")


def headline(
    comparison: PairedComparison, controls: Sequence[str] = (), unstable: Sequence[tuple[str, float]] = ()
) -> Headline:
    """Of a comparison of a reasoning arm with label-only. `controls` are those that the arm was not shown to beat,
    `unstable` the arms whose seeds end far apart, with the points between them."""
    if comparison.rows == 0:
        return NO_TEST_ROWS
    first, second, seeds = comparison.first, comparison.second, len(comparison.by_seed)
    significant, value = is_significant(comparison), comparison.difference.value
    if seeds < MIN_SEEDS:
        return Headline(text=_of_few_seeds(comparison, significant=significant), finding="unclear")
    if significant and value > 0 and controls:
        return Headline(text=f"{second} beats {first}, but is not shown to beat its controls.", finding="unclear")
    if significant:
        points = f"{abs(100 * value):.1f} points"
        if value > 0:
            return Headline(text=f"Reasoning helped: {second} is {points} better than {first}.", finding="helped")
        return Headline(text=f"Reasoning hurt: {second} is {points} worse than {first}.", finding="hurt")
    if concerned := [pair for pair in unstable if pair[0] in (first, second)]:
        arm, points_apart = max(concerned, key=lambda pair: pair[1])
        text = f"No evidence either way: seeds of {arm} differ by {points_apart:.0f} points."
        return Headline(text=text, finding="unclear")
    return Headline(text="No evidence that reasoning helped or hurt.", finding="unclear")


def _of_few_seeds(comparison: PairedComparison, *, significant: bool) -> str:
    first, second = comparison.first, comparison.second
    if len(comparison.by_seed) > 1:
        return f"{len(comparison.by_seed)} seeds cannot show whether reasoning helps: train {MIN_SEEDS} or more."
    if not significant:
        return f"One seed: unclear whether the {second} or the {first} classifier is better."
    better, worse = (second, first) if comparison.difference.value > 0 else (first, second)
    return f"This {better} classifier beats this {worse} classifier; one seed proves no more."
