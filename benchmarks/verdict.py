"""How often the verdict errs: two equal ways of training, simulated, and the shipped comparison.

    python -m benchmarks.verdict            # some ten minutes on one core

Accuracies lie near 80 %, rows differ in difficulty for all classifiers alike, and training seeds move the accuracy by
so many points (standard deviation). "Before" is the percentile bootstrap over rows and seeds (Owen 2007) that version 1
of comparison.json held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_expit

from rir_mlx.guide.pilot.outlook import beside_control
from rir_mlx.statistics.calibration import fit_answer_from
from rir_mlx.statistics.calibration_error import calibration_error
from rir_mlx.statistics.intervals import difference_interval, share_interval
from rir_mlx.statistics.metrics import metric_intervals
from rir_mlx.statistics.paired_tests import PairedComparison, compare, detectable_difference, is_significant

TRIALS, BEFORE = 2000, 500
"""Simulated runs a line, and how many of them are also judged as before."""
RESAMPLES = 400


def simulated(
    rng: np.random.Generator, seeds: int, rows: int, points: float, shifts: Sequence[float] = (0, 0)
) -> np.ndarray:
    """[arms, seeds, rows] whether a row is classified correctly. `shifts` [arms] makes an arm better, in logits."""
    arms = len(shifts)
    logits = 1.9 + rng.normal(0, 1.5, rows) + rng.normal(0, points * 0.095, (arms, seeds, 1))
    logits += np.reshape(shifts, (arms, 1, 1))
    return rng.random((arms, seeds, rows)) < 1 / (1 + np.exp(-logits))


def bootstrap(rng: np.random.Generator, values: np.ndarray) -> tuple[float, float]:
    """Percentiles over resamples of rows and of seeds, [seeds, rows]."""
    seeds, rows = values.shape
    cells = rng.integers(0, rows, (RESAMPLES, rows)) + rows * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(cells.ravel(), minlength=RESAMPLES * rows).reshape(RESAMPLES, rows)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    means = (values @ counts.T / rows * weights.T / seeds).sum(0)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def compared(first: np.ndarray, second: np.ndarray, count: int = 1) -> PairedComparison:
    named = [(name, np.eye(2)[np.where(hits, 0, 1)]) for name, hits in (("qa", first), ("qra", second))]
    return compare(*named, np.zeros(first.shape[1], dtype=int), compared=count)


def significant(first: np.ndarray, second: np.ndarray, count: int = 1) -> bool:
    return is_significant(compared(first, second, count))


def false_alarms() -> None:
    print("| seeds | rows | seeds vary by | false alarms before | now | width before | now |")
    print("|---|---|---|---|---|---|---|")
    cases = [(1, 500, points) for points in (0, 1, 2, 4)] + [(1, 2000, 2)]
    cases += [(2, 500, 4)] + [(3, rows, points) for rows in (500, 2000) for points in (0, 2, 4)] + [(5, 500, 4)]
    for seeds, rows, points in cases:
        rng = np.random.default_rng(0)
        before, now, old, new = 0, 0, 0.0, 0.0
        for trial in range(TRIALS):
            first, second = simulated(rng, seeds, rows, points)
            difference = second.astype(float) - first
            if trial < BEFORE:
                low, high = bootstrap(np.random.default_rng(trial), difference)
                before += not low <= 0 <= high
                old += 100 * (high - low) / BEFORE
            found = difference_interval(difference)
            now += significant(first, second)
            new += 100 * (found.high - found.low) / TRIALS
        said = f"{now / TRIALS:.1%}" if seeds >= 3 else f"none ({now / TRIALS:.1%} between the classifiers)"
        print(f"| {seeds} | {rows:,} | {points} | {before / BEFORE:.1%} | {said} | {old:.1f} | {new:.1f} |", flush=True)


def chosen_arms() -> None:
    print("\n| best of three arms, chosen on 500 validation rows | false alarms before | now | points too high |")
    print("|---|---|---|---|")
    for seeds, points in ((1, 2), (3, 2), (3, 4)):
        rng, before, now, high = np.random.default_rng(1), 0, 0, 0.0
        for trial in range(TRIALS):
            arms = simulated(rng, seeds, 1000, points, shifts=(0, 0, 0, 0))
            best = 1 + int(arms[1:, :, :500].mean((1, 2)).argmax())
            first, second = arms[0][:, 500:], arms[best][:, 500:]
            if trial < BEFORE:
                low, high = bootstrap(np.random.default_rng(trial), second.astype(float) - first)
                before += not low <= 0 <= high
            now += significant(first, second, count=3)
            high += 100 * (second.mean() - first.mean()) / TRIALS
        said = f"{now / TRIALS:.1%}" if seeds >= 3 else "none"
        print(
            f"| {seeds} seeds that vary by {points} points | {before / BEFORE:.1%} | {said} | {high:.1f} |", flush=True
        )


def coverage() -> None:
    print("\n| accuracy of 400 rows | covered before | now |\n|---|---|---|")
    for seeds, points in ((1, 0), (2, 1), (2, 3), (3, 0), (3, 1), (3, 3), (5, 3)):
        rng, before, now = np.random.default_rng(2), 0, 0
        logits = rng.normal(1.9, np.hypot(1.5, points * 0.095), 4_000_000)
        truth = float((1 / (1 + np.exp(-logits))).mean())
        for trial in range(TRIALS):
            hits = simulated(rng, seeds, 400, points)[0]
            if trial < BEFORE:
                low, high = bootstrap(np.random.default_rng(trial), hits.astype(float))
                before += low <= truth <= high
            found = share_interval(hits)
            now += found.low <= truth <= found.high
        print(
            f"| {seeds} seeds that vary by {points} points | {before / BEFORE:.1%} | {now / TRIALS:.1%} |", flush=True
        )


def log_loss_coverage() -> None:
    """Two labels; a seed moves all its probabilities, and every row has an error of its own."""
    print("\n| log-loss of 400 rows | covered |\n|---|---|")
    for seeds, points in ((2, 3), (3, 3), (5, 3)):
        rng, covered = np.random.default_rng(6), 0
        deviation = np.sqrt(1.5**2 + 0.5**2 + (points * 0.095) ** 2)
        truth = float(-log_expit(rng.normal(1.9, deviation, 4_000_000)).mean())
        for _ in range(BEFORE):
            logits = 1.9 + rng.normal(0, 1.5, 400) + rng.normal(0, points * 0.095, (seeds, 1))
            right = expit(logits + rng.normal(0, 0.5, (seeds, 400)))
            found = metric_intervals(np.zeros(400, dtype=int), np.stack([right, 1 - right], -1))["log_loss"]
            assert found is not None
            covered += found.low <= truth <= found.high
        print(f"| {seeds} seeds that vary by {points} points | {covered / BEFORE:.1%} |", flush=True)


def collapses() -> None:
    """Label-only falls by 20 points in one seed of ten, and reasoning never does or alike, at the same mean; seeds that
    do not fall vary by so many points."""
    print("\n| seeds | rows | seeds vary by | false alarms, only qa collapses | both do |\n|---|---|---|---|---|")
    logits = np.random.default_rng(9).normal(1.9, 1.5, 200_000)

    def lowered(points: float) -> float:
        """The shift in logits that costs so much accuracy."""
        return float(brentq(lambda more: np.mean(expit(logits) - expit(logits + more)) - points, -8, 0))

    fall, mean = lowered(0.20), lowered(0.02)
    for seeds, rows, points in ((3, 500, 0), (3, 2000, 0), (5, 2000, 0), (3, 500, 2), (3, 2000, 2), (5, 2000, 2)):
        rng, alarms = np.random.default_rng(10), np.zeros(2)
        for _ in range(BEFORE):
            shifts = np.where(rng.random((2, seeds, 1)) < 0.1, fall, 0.0)
            for place, others in enumerate((mean, shifts[1])):
                moved = rng.normal(0, points * 0.095, (2, seeds, 1)) + np.stack([shifts[0], others + 0 * shifts[0]])
                chances = expit(1.9 + rng.normal(0, 1.5, rows) + moved)
                alarms[place] += significant(*(rng.random(chances.shape) < chances)) / BEFORE
        print(f"| {seeds} | {rows:,} | {points} | {alarms[0]:.1%} | {alarms[1]:.1%} |", flush=True)


def lowest_reaching(confidence: np.ndarray, correct: np.ndarray, wanted: float) -> float:
    """The lowest threshold whose validation rows reach the wanted accuracy, as it was chosen before."""
    order = np.argsort(-confidence)
    reached = np.flatnonzero(np.cumsum(correct[order]) / np.arange(1, len(order) + 1) >= wanted)
    return float(confidence[order][reached[-1]]) if len(reached) else 0.0  # 0: everything was answered


def thresholds() -> None:
    print("\n| wanted, of 500 validation rows | missed before | now | answered before | now | nothing answered now |")
    print("|---|---|---|---|---|---|")
    rules: tuple[Callable[..., float], ...] = (lowest_reaching, lambda *given: fit_answer_from(*given).confidence)
    for wanted in (0.85, 0.9, 0.95, 0.99):
        rng = np.random.default_rng(3)

        def drawn(rows: int, rng: np.random.Generator = rng) -> tuple[np.ndarray, np.ndarray]:
            confidence = 1 - rng.beta(1, 9, rows)
            return confidence, rng.random(rows) < confidence

        others, correct = drawn(200_000)
        found = np.zeros((2, BEFORE, 2))
        for trial in range(BEFORE):
            rows = drawn(500)
            for place, rule in enumerate(rules):
                answered = others >= rule(*rows, wanted)
                found[place, trial] = answered.any() and correct[answered].mean() < wanted, answered.mean()
        (missed, now), (share, share_now) = found[:, :, 0].mean(1), found[:, :, 1].mean(1)
        nothing = (found[1, :, 1] == 0).mean()
        print(f"| {wanted} | {missed:.1%} | {now:.1%} | {share:.0%} | {share_now:.0%} | {nothing:.0%} |", flush=True)


def macro_f1() -> None:
    """Labels are confused with a few others each; the truth is the macro-F1 of a classifier on endless rows. Shares of
    the labels are about even, or fall as a power of their rank."""
    print("\n| macro-F1 | covered |\n|---|---|")
    even = [(6, 500, 0.0), (20, 500, 0.0), (77, 600, 0.0), (77, 2000, 0.0)]
    for labels, rows, power in [*even, (77, 600, 0.5), (77, 600, 1.0), (30, 400, 1.5)]:
        covered = 0
        for trial in range(BEFORE // 2):
            rng = np.random.default_rng(trial)
            shares = rng.dirichlet(np.full(labels, 5)) if not power else np.arange(1, labels + 1) ** -power
            confused = rng.dirichlet(np.full(labels, 0.1), labels)
            np.fill_diagonal(confused, 0)
            correct = rng.uniform(0.5, 0.95, labels)
            confused *= ((1 - correct) / confused.sum(1))[:, None]
            np.fill_diagonal(confused, correct)
            joint = shares[:, None] * confused
            truth = float(np.mean(2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))))
            cells = rng.choice(labels**2, rows, p=joint.ravel() / joint.sum())
            drawn, predicted = np.divmod(cells, labels)
            found = metric_intervals(drawn, np.eye(labels)[predicted][None], probabilistic=False)["macro_f1"]
            assert found is not None
            covered += found.low <= truth <= found.high
        fall = f", shares as rank^-{power}" if power else ""
        print(f"| {labels} labels, {rows:,} rows{fall} | {covered / (BEFORE // 2):.0%} |", flush=True)


def calibration_errors() -> None:
    """Labels are drawn with the confidence minus a gap that is the same everywhere: the error is that gap."""
    print("\n| gap between confidence and accuracy | rows | seeds | covered | mean estimate |\n|---|---|---|---|---|")
    for gap, rows, seeds in ((0.0, 500, 1), (0.0, 2000, 3), (0.05, 2000, 1), (0.1, 500, 1), (0.2, 500, 3)):
        rng, covered, total = np.random.default_rng(7), 0, 0.0
        for _ in range(BEFORE):
            top, luck = rng.uniform(0.6, 1.0, rows), rng.random(rows)
            found, _ = calibration_error(np.tile(luck < top - gap, (seeds, 1)), np.tile(top, (seeds, 1)))
            covered += found.low <= gap <= found.high
            total += found.value / BEFORE
        print(f"| {gap} | {rows:,} | {seeds} | {covered / BEFORE:.1%} | {total:.3f} |", flush=True)


def power() -> None:
    """How often the difference that `check` names is found, seeds varying by 2 points."""
    print("\n| seeds | rows | difference | found |\n|---|---|---|---|")
    logits = np.random.default_rng(4).normal(1.9, 1.5, 200_000)
    for seeds, rows in ((1, 600), (1, 2000), (3, 300), (3, 600), (3, 2000), (5, 600), (5, 2000)):
        wanted, found = detectable_difference(rows, seeds), 0
        shift = brentq(lambda more, wanted=wanted: np.mean(expit(logits + more) - expit(logits)) - wanted, 0, 8)
        rng = np.random.default_rng(5)
        for _ in range(BEFORE):
            pair = simulated(rng, seeds, rows, 2 if seeds >= 3 else 0, shifts=(0, shift))
            found += significant(*pair)
        print(f"| {seeds} | {rows:,} | {100 * wanted:.1f} | {found / BEFORE:.0%} |", flush=True)


def pilots() -> None:
    """A pilot of one seed and 400 rows beside the whole run of three seeds and 2,000 rows, where reasoning makes the
    same difference in both: normal with a deviation of 5 points. Seeds vary by 2 points; the control gains nothing."""
    rng, found = np.random.default_rng(8), dict[str, list[tuple[float, bool]]]()
    for _ in range(TRIALS):
        shift = rng.normal(0, 5) * 0.095
        qa, qra, control = simulated(rng, 1, 400, 2, shifts=(0, shift, 0))
        said, _ = beside_control(compared(qa, qra), compared(qa, control))
        first, second = simulated(rng, 3, 2000, 2, shifts=(0, shift))
        found.setdefault(said, []).append((float(second.mean() - first.mean()), significant(first, second)))
    print("\n| the pilot says | how often | whole run better with reasoning | that is shown | worse | that is shown |")
    print("|---|---|---|---|---|---|")
    for said, runs in sorted(found.items()):
        value, shown = np.array([run[0] for run in runs]), np.array([run[1] for run in runs])
        shares = [part.mean() for part in (value > 0, (value > 0) & shown, value < 0, (value < 0) & shown)]
        print(f"| {said} | {len(runs) / TRIALS:.0%} | {' | '.join(f'{share:.0%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    false_alarms()
    chosen_arms()
    coverage()
    log_loss_coverage()
    collapses()
    thresholds()
    macro_f1()
    calibration_errors()
    power()
    pilots()
