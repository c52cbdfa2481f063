"""What the user sees: data on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rir_mlx.errors import RirError
from rir_mlx.progress import counted

if TYPE_CHECKING:  # numpy is not needed to print help
    from rir_mlx.evaluation.schema import Changes, Comparison, EntryResult
    from rir_mlx.guide.pilot.outlook import Outlook
    from rir_mlx.statistics.intervals import Interval
    from rir_mlx.types import Finding

_PLAIN_SECONDS = 10.0
_BAR = 30
_STAGE = 72
"""Columns of a stage's line before its seconds."""
_NARROW = 80
_BESIDE_BAR = 10
"""Columns between a label and the end of its bar that are not the bar."""
_WIDE = 104
"""Columns that the full comparison needs. A narrower terminal gets it without steps and tokens, and so on."""
_HARMLESS = dict.fromkeys([code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"], "\ufffd")
_COLUMNS, _ENDLESS = (6, 4, 3, 2), 1000
"""How many of its columns are shown: as many as fit, the most important ones first."""


_FINDINGS: dict[Finding, tuple[str, str]] = {
    "helped": ("+", "green"),
    "hurt": ("−", "red"),
    "unclear": ("?", "yellow"),
    "failed": ("!", "red"),
}
"""The sign and the colour of a headline."""


class ConsoleProgress:
    """Progress bars on a terminal, a line every ten seconds elsewhere, nothing if `quiet`."""

    transient = False
    """Whether a bar vanishes when its work is done."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        if not self.quiet:
            _print(self.console, escape(text))

    def warn(self, text: str) -> None:
        _print(self.console, f"[yellow]note:[/yellow] {escape(text)}")

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[_Bar | _Lines]:
        if self.quiet or not self.console.is_terminal:
            yield _Lines(self, what, total, done)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=self.transient) as progress:
            yield _Bar(progress, what, total, done)


class StageLines(ConsoleProgress):
    """A line for each stage once it is done. On a terminal its bars stand below until then. What stages say beside
    that is left out; warnings are shown."""

    transient = True

    def say(self, text: str) -> None:
        return

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """Time a stage and print its line."""
        started = time.monotonic()
        yield
        if not self.quiet:
            console, seconds = self.console, f"{time.monotonic() - started:4.0f} s"
            width = max(1, min(_STAGE, console.width - len(seconds))) if console.is_terminal else _STAGE
            _print(console, escape(f"{what:<{width}}{seconds}"))


class _Bar:
    def __init__(self, progress: Progress, what: str, total: float, done: float) -> None:
        self.progress = progress
        self.id = progress.add_task(what, total=total, completed=done, numbers="")  # type: ignore[arg-type]
        self.fields: dict[str, float] = {}

    def advance(self, amount: float = 1, **fields: float) -> None:
        self.fields |= fields
        self.progress.update(self.id, advance=amount, numbers=_numbers(self.fields))


class _Lines:
    def __init__(self, progress: ConsoleProgress, what: str, total: float, done: float) -> None:
        self.progress, self.what, self.total, self.done, self.before = progress, what, total, done, done
        self.started = self.printed = time.monotonic()
        self.fields: dict[str, float] = {}

    def advance(self, amount: float = 1, **fields: float) -> None:
        self.done += amount
        self.fields |= fields
        now = time.monotonic()
        if now - self.printed < _PLAIN_SECONDS and self.done < self.total:
            return
        self.printed = now
        remaining = (now - self.started) / (self.done - self.before) * max(0.0, self.total - self.done)
        tail = f", {remaining:.0f} s left" if self.done < self.total else f", took {now - self.started:.0f} s"
        self.progress.say(f"{self.what} {self.done:,.0f}/{self.total:,.0f} {_numbers(self.fields)}{tail}")


def _numbers(fields: Mapping[str, float]) -> str:
    parts = []
    for name, value in fields.items():
        words = name.replace("_per_second", "/s").replace("_", " ")
        parts.append(f"{words} {value:.3f}" if name == "loss" else f"{value:,.0f} {words}")
    return ", ".join(parts)


def print_json(values: Any) -> None:
    sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_error(error: RirError, who: str = "") -> None:
    console = Console(stderr=True, highlight=False, emoji=False)
    _print(console, f"[red]error:[/red] {who}{escape(error.what)}")
    if error.hint:
        _print(console, escape(error.hint))


def print_comparison(comparison: Comparison) -> None:
    """Print the arms, controls and baselines with intervals, and the verdict."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    print_table(comparison, console)
    for entry in comparison.entries:
        if entry.beats:
            _print(console, escape(f"{_who(entry)} {', '.join(entry.beats)}."))
        if entry.changes:
            _print(console, escape(_changes(entry.name, entry.changes, entry.seeds)))
    for line in answered_lines(comparison):
        _print(console, escape(line))
    for warning in comparison.warnings:
        _print(console, escape(f"note: {warning}"))
    print_headline(comparison, console)
    curve = comparison.learning_curve
    for paragraph in (comparison.verdict, comparison.recommendation, curve.text if curve else None):
        if paragraph:
            _print(console, escape(paragraph))


def answered_lines(comparison: Comparison) -> Iterator[str]:
    """For each arm, what the first seed's threshold for a wanted accuracy answers of the clean test rows, in the way
    that the arm is measured by. Nothing of an arm that abstains on every text, which a warning says."""
    for entry in comparison.entries:
        fitted = entry.calibration
        if entry.kind != "arm" or fitted is None or fitted.wanted is None:
            continue
        answered = {found.mode: found for found in fitted.answered}
        found = answered.get("reasoned", answered.get("direct"))
        if found is None or found.threshold > 1:
            continue
        correct = f", {_accuracy(found.accuracy)} of them correctly" if found.accuracy else ""
        seed = f" with seed {entry.seeds[0]}" if len(entry.seeds) > 1 else ""
        yield (
            f"{entry.name}{seed} answers {100 * found.share:.1f} % of {comparison.rows.cleaned:,} clean test "
            f"rows{correct}, at its threshold for {100 * fitted.wanted:g} % (evaluate.wanted_accuracy)."
        )


def _who(entry: EntryResult) -> str:
    """Who is better than a baseline: with few seeds it is these classifiers, not the way of training."""
    from rir_mlx.statistics.paired_tests import MIN_SEEDS  # numpy is not needed to print help

    if (seeds := len(entry.seeds)) >= MIN_SEEDS:
        return f"{entry.name} beats"
    return f"This {entry.name} classifier beats" if seeds == 1 else f"These {seeds} {entry.name} classifiers beat"


def _changes(arm: str, changes: Changes, seeds: Sequence[int]) -> str:
    """What the reasoning changed, with McNemar's p-value of each seed and what it is of."""
    found = changes.against_first.by_seed
    tests = ["p < 0.001" if seed.p_value < 0.001 else f"p = {seed.p_value:.3f}" for seed in found]
    corrected, spoiled = counted(changes.corrected.rows, "first label"), f"{changes.spoiled.rows:,}"
    if len(found) == 1:
        return f"{arm}: the reasoning corrected {corrected} and spoiled {spoiled} (McNemar's test: {tests[0]})."
    listed = "; ".join(
        f"seed {number}: {seed.gained:,} against {seed.lost:,}, {test}"
        for number, seed, test in zip(seeds, found, tests, strict=True)
    )
    return (
        f"{arm}: the reasoning corrected {corrected} and spoiled {spoiled} over {len(found)} seeds (McNemar's test of "
        f"corrected against spoiled: {listed})."
    )


def print_outlook(found: Outlook) -> None:
    """Print what a pilot measured, what it rests on, and what the whole run will probably find."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    print_table(found.comparison, console, "training rows set aside to measure on")
    notes = [f"note: {warning}" for warning in found.comparison.warnings]
    for line in (*notes, *found.signals, found.text, found.cost):
        if line:
            _print(console, escape(line))


def print_headline(comparison: Comparison, console: Console) -> None:
    """Print the outcome in a sentence, with its sign and, on a terminal, its colour."""
    if comparison.headline is None:
        return
    sign, colour = _FINDINGS[comparison.headline.finding]
    _print(console, f"[bold {colour}]{sign} {escape(comparison.headline.text)}[/]")


def print_table(comparison: Comparison, console: Console, rows: str = "test rows") -> None:
    """Print the table of the comparison. A narrow console gets as many columns as fit: without steps and tokens, then
    without macro-F1."""
    tables = (_comparison_table(comparison, columns, rows) for columns in _COLUMNS)
    anything = console.options.update(max_width=_ENDLESS)  # a measure is cut to the width of its console
    fitting = (table for table in tables if console.measure(table, options=anything).maximum <= console.width)
    console.print(next(fitting, _comparison_table(comparison, _COLUMNS[-1], rows)))


def _comparison_table(comparison: Comparison, columns: int, rows: str) -> Table:
    """The entries with so many of the columns, measured on such `rows`."""
    seeds = len(comparison.run.seeds)
    mean = f", mean of {seeds} seeds" if seeds > 1 else ""
    rows = rows.replace("rows", "row", 1) if comparison.rows.test == 1 else rows
    table = Table(title=f"{comparison.rows.test:,} {rows}{mean} (95 % intervals)")
    several = any(entry.several for entry in comparison.entries)
    scores = ("micro-F1", "macro-F1", "Jaccard") if several else ("macro-F1",)
    names = ["", "all right" if several else "accuracy", "against qa", *scores, "steps", "tokens"]
    columns += (columns > _COLUMNS[-2]) * (len(scores) - 1)
    for name in names[:columns]:
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for entry in comparison.entries:
        trained, found = entry.training, entry.several.by_threshold if entry.several else None
        values = [found.micro_f1, found.macro_f1, found.jaccard] if found else [entry.metrics.macro_f1]
        cells = [
            escape(entry.name),
            _accuracy(entry.metrics.accuracy),
            _points(entry.against.difference) if entry.against else "",
            *(f"{score.value:.3f}" for score in values),
            f"{trained.steps:,.0f}" if trained else "",
            f"{trained.tokens:,.0f}" if trained else "",
        ]
        table.add_row(*cells[:columns])
    return table


def _print(console: Console, text: str) -> None:
    """Print a line of markup. A terminal gets it broken between words; elsewhere a line stays whole, to be searched. A
    text of a table, a model or a server in it may not steer the terminal: its control characters are replaced."""
    console.print(text.translate(_HARMLESS), soft_wrap=not console.is_terminal)


def print_demo(comparison: Comparison, arm: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print what a run of the demo measured, in at most 80 columns: the table, warnings, the verdict, and a test row
    that an arm won by reasoning. `rows` holds the predictions of `qa` and of that arm, for the same texts."""
    console = Console(highlight=False, emoji=False)
    console.width = min(console.width, _NARROW) if console.is_terminal else _NARROW
    console.print()
    print_table(comparison, console)
    arms = [entry for entry in comparison.entries if entry.kind != "baseline"]
    console.print(escape(" · ".join(f"{entry.name}: {entry.description}" for entry in arms)))
    for warning in comparison.warnings:
        console.print(escape(f"note: {warning}"))
    console.print()
    print_headline(comparison, console)
    if comparison.verdict:
        console.print(escape(comparison.verdict))
    if arm == "qa" or not rows.keys() >= {"qa", arm}:
        return
    pairs = list(zip(rows["qa"], rows[arm], strict=True))
    won = [(plain, reasoned) for plain, reasoned in pairs if _correct(reasoned) and not _correct(plain)]
    lost = sum(_correct(plain) and not _correct(reasoned) for plain, reasoned in pairs)
    console.print()
    if "is right in" not in (comparison.verdict or ""):
        console.print(f"Only {arm} is right in {len(won)} rows, only qa in {lost}.")
    if won := [pair for pair in won if pair[1]["reasoning"]]:
        plain, reasoned = max(won, key=lambda pair: max(pair[1]["probabilities"].values()))
        console.print(escape(f"A row that {arm} wins; the right label is {reasoned['label']}:\n\n{reasoned['text']}"))
        console.print("\nqa, without a reasoning:")
        print_probabilities(plain["probabilities"])
        console.print(escape(f"\n{arm}: {reasoned['reasoning']}"))
        print_probabilities(reasoned["probabilities"])


def _correct(row: Mapping[str, Any]) -> bool:
    return bool(row["predicted"] == row["label"])


def _points(difference: Interval) -> str:
    value, low, high = (100 * share for share in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def print_prompts(prompts: Iterable[Mapping[str, Any]]) -> None:
    """Print each prompt as the model gets it, below a line with its label and length."""
    for prompt in prompts:
        trimmed = f", {prompt['trimmed']:,} tokens of the text cut off" if prompt["trimmed"] else ""
        sys.stdout.write(f"--- {prompt['label']}, {prompt['tokens']:,} tokens{trimmed}\n{prompt['prompt']}\n")
    sys.stdout.flush()


def print_augmentation(stats: Mapping[str, Any]) -> None:
    """Print how many rows of each label were kept, why others were not, and what the reasonings give away."""
    console, train = Console(highlight=False, emoji=False), stats["train"]
    console.print(f"{train['kept']:,} of {train['rows']:,} training rows have a reasoning.")
    table = Table()
    table.add_column("label")
    for column in ("rows", "kept"):
        table.add_column(column, justify="right")
    for label, rows in train["rows_by_label"].items():
        table.add_row(escape(label), f"{rows:,}", f"{train['kept_by_label'][label]:.1%}")
    console.print(table)
    for label, found in stats.get("stock", {}).items():
        shared = "; ".join(f"{reasoning!r} ({count:,})" for reasoning, count in found["examples"])
        where = f"{found['rows']:,} (training and validation rows)"
        _print(console, escape(f"Stock reasonings of {label}, which say nothing of a row: {where}: {shared}"))
    if measured := stats.get("mutual_information"):
        medians = ", ".join(f"{label} {found['median']:.1f}" for label, found in measured["by_label"].items())
        applied = measured.get("applied", True) and measured["threshold"] is not None
        rule = f" (rejected below {measured['threshold']:.1f})" if applied else ""
        line = f"Mutual information of reasoning and text, median in nats: {medians}{rule}."
        _print(console, escape(line))
    for line in _augmentation_lines(train, stats["leakage"]):
        _print(console, escape(line))


def _augmentation_lines(train: Mapping[str, Any], leak: Mapping[str, Any]) -> Iterator[str]:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in train["rejected"].items())
    yield f"Rejected reasonings: {reasons or 'none'}."
    if later := {number: count for number, count in train["kept_by_attempt"].items() if number != "0"}:
        again = ", ".join(f"{count:,} at attempt {int(number) + 1}" for number, count in later.items())
        yield f"Kept after another attempt: {again}."
    if length := train["lengths"]:
        yield f"Tokens per reasoning: {length['p50']:.0f} (5 to 95 %: {length['p5']:.0f} to {length['p95']:.0f})."
    if chosen := train.get("chosen"):
        yield (
            f"Chosen among several in {chosen['rows']:,} rows: mean margin {chosen['mean_margin']:.3f}, "
            f"{chosen['tied']:,} ties."
        )
    if leak["label_from_reasoning"] and leak["without_label_words"]:
        yield (
            f"From the reasoning alone, the label can be predicted in {_percent(leak['label_from_reasoning'])} "
            f"({_percent(leak['without_label_words'])} with label words blanked out; the most frequent label is "
            f"{leak['majority']:.1%}; {leak['sampled']:,} rows, cross-validated)."
        )
    first = f", first at {leak['first_named_at'][1]:.0%} of its length (median)" if leak["first_named_at"] else ""
    yield f"{leak['names_its_label']:.1%} name their label{first}."


def _percent(values: Mapping[str, float]) -> str:
    return f"{values['value']:.1%} ± {(values['high'] - values['low']) / 2:.1%}"


def _accuracy(accuracy: Interval) -> str:
    return f"{100 * accuracy.value:.1f} % ({100 * accuracy.low:.1f} – {100 * accuracy.high:.1f})"


def print_probabilities(probabilities: Mapping[str, float]) -> None:
    width = max(len(label) for label in probabilities)
    bar = max(0, min(_BAR, Console().width - width - _BESIDE_BAR)) if sys.stdout.isatty() else _BAR
    for label, value in sorted(probabilities.items(), key=lambda pair: -pair[1]):
        sys.stdout.write(f"{label:<{width}}  {value:6.1%}  {'█' * round(value * bar)}".rstrip() + "\n")
    sys.stdout.flush()


def debugging() -> bool:
    return os.environ.get("RIR_DEBUG", "") not in ("", "0")
