"""The verdict: whether reasoning helped, in plain sentences.

Statistics come from `statistics.paired_tests`; here they are put into words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rir_mlx.statistics.paired_tests import MIN_DISCORDANT, PairedComparison, enough_discordant


def no_label_only_verdict(arm: str) -> str:
    return f"The label-only arm (qa) is not trained, so nothing shows whether reasoning ({arm}) helped or hurt."


def different_steps_verdict(steps: Mapping[str, int | None]) -> str:
    listed = ", ".join(f"{arm} {count}" for arm, count in steps.items())
    return f"No verdict: the arms were trained for different numbers of steps ({listed}). Train them again."


def controls_sentence(arm: str, controls: Sequence[str]) -> str:
    """What qualifies a verdict in favour of reasoning: controls that do as well. Empty where there are none."""
    if not controls:
        return ""
    return (
        f" But {arm} is not shown to be better than {' and '.join(controls)}, trained on other rows' reasonings or on "
        "shuffled words."
    )


def verdict(comparison: PairedComparison, *, chosen_among: int = 1) -> str:
    """The answer to "did reasoning help here?". `chosen_among` is the number of arms that the second one was chosen
    from, on validation rows."""
    if comparison.rows == 0:
        return f"There are no test rows, so nothing shows whether reasoning ({comparison.second}) helped or hurt."
    change, seeds = comparison.difference, len(comparison.by_seed)
    rows = "1 test row" if comparison.rows == 1 else f"{comparison.rows:,} test rows"
    parts = [
        f"Reasoning ({comparison.second}) changed accuracy by {100 * change.value:+.1f} points against "
        f"{comparison.first} (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}, "
        f"{rows}, {'one seed' if seeds == 1 else f'{seeds} seeds'}; {_p_values(comparison)})."
    ]
    if chosen_among > 1:
        parts.append(f"{comparison.second} was chosen among {chosen_among} arms on validation rows.")
    parts.append(_finding(comparison))
    if seeds == 1:
        parts.append("Another training seed may give another result.")
    return " ".join(parts)


def _p_values(comparison: PairedComparison) -> str:
    """McNemar's p of each seed; of more than five seeds the median and the range."""
    values = sorted(seed.p_value for seed in comparison.by_seed)
    if len(values) <= 5:
        return "McNemar p = " + ", ".join(f"{seed.p_value:.2g}" for seed in comparison.by_seed)
    return f"McNemar p = {np.median(values):.2g} (median), {values[0]:.2g} to {values[-1]:.2g}"


def _finding(comparison: PairedComparison) -> str:
    change = comparison.difference
    if change.low <= 0 <= change.high:
        return "The interval includes 0, so there is no evidence that reasoning helped or hurt."
    if not enough_discordant(comparison):
        return (
            f"In no seed do the two differ on {MIN_DISCORDANT} rows or more, so there is no evidence that reasoning "
            "helped or hurt."
        )
    return f"That is evidence that reasoning {'helped' if change.low > 0 else 'hurt'} here."
