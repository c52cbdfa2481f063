"""The checks of an audit, one function each."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

import numpy as np

from rir_mlx.data.audit.findings import Audit, Balance, Example, Finding, Lengths, Material, Place, Refused, Ruler
from rir_mlx.data.audit.spelling import check_spellings
from rir_mlx.data.audit.unusual_characters import unusual_kinds, visible
from rir_mlx.data.rows import Row
from rir_mlx.data.same_text import normalised
from rir_mlx.data.tables.table import advice
from rir_mlx.errors import did_you_mean
from rir_mlx.progress import shortened
from rir_mlx.types import PARTS, Severity

RARE = 10
"""A label with fewer training rows is rare. A share would not do: each of 77 labels has about one row in a hundred."""
UNEVEN = 10.0
"""From this ratio of the largest label to the smallest on, the imbalance is noted."""
MANY_TRIMMED = 0.01
"""From this share of trimmed texts on, trimming is a warning instead of a note."""
_EXAMPLES, _PLACES, _SHOWN = 5, 3, 100
_TOGETHER = 4096
"""Texts whose tokens are counted at once."""
_STEP = 64
"""Lengths are proposed in steps of so many tokens."""


def audit(material: Material, ruler: Ruler | None = None) -> Audit:
    """Check the rows. Token lengths are counted if there is a ruler."""
    parts = material.used()
    each = {part: material.labels_of_each(rows) for part, rows in parts.items()}
    counts = {part: Counter(chain.from_iterable(labels)) for part, labels in each.items()}
    order = dict.fromkeys([*material.named, *sorted({label for count in counts.values() for label in count})])
    groups = _same_texts(parts)
    lengths = _measure(parts, ruler) if ruler is not None else None
    findings = [
        *_refused(material),
        *_labels_unknown(material),
        *check_spellings(counts, material),
        *_leaks(parts, groups),
        *_contradictions(groups),
        *_rare(counts["train"], material),
        *_uneven(counts["train"], counts["test"], several=material.several),
        *_trimmed(lengths, ruler, sum(map(len, parts.values()))),
        *_repeated(parts, groups),
        *_characters(parts, ruler.control if ruler is not None else ()),
    ]
    rank = {"error": 0, "warning": 1, "note": 2}
    return Audit(
        rows={part: len(rows) for part, rows in parts.items()},
        labels={label: {part: counts[part][label] for part in PARTS} for label in order},
        balance=_balance(counts["train"], several=material.several),
        lengths=lengths if ruler is not None and min(ruler.room.values(), default=1) >= 1 else None,
        findings=tuple(sorted(findings, key=lambda finding: rank[finding.severity])),
        notes=tuple(material.notes),
    )


_Entry = tuple[str, Row]
_Group = list[_Entry]


def _same_texts(parts: Mapping[str, Sequence[Row]]) -> list[_Group]:
    """The rows whose text occurs more than once, grouped by text, as (part, row). Of the others, only a number that two
    different texts hardly share is held: as objects a million rows take half a gigabyte."""
    digests = array("q", (hash(normalised(row.text)) for rows in parts.values() for row in rows))
    values, counts = np.unique(np.frombuffer(digests, dtype=np.int64), return_counts=True)
    repeated = set(values[counts > 1].tolist())
    first: dict[str, _Entry] = {}
    groups: dict[str, _Group] = {}
    each = iter(digests)
    for part, rows in parts.items():
        for row, digest in zip(rows, each, strict=False):
            if digest not in repeated:
                continue
            entry, key = (part, row), normalised(row.text)
            before = first.setdefault(key, entry)
            if before is not entry:
                groups.setdefault(key, [before]).append(entry)
    return list(groups.values())


def _refused(material: Material) -> Iterator[Finding]:
    """Rows that cannot be used, and faults of the data as a whole."""
    for fault in material.refused:
        if not fault.number:
            yield Finding("refused data", "error", 1, fault.what, "Training would stop here.")
    faults = list({(fault.file, fault.number): fault for fault in reversed(material.refused) if fault.number}.values())
    faults.reverse()
    if not faults:
        return
    count = len(faults)
    kinds = Counter(re.sub(r"\d[\d,]*", "…", fault.what) for fault in faults)
    shown = kinds.most_common(4)
    others = count - sum(times for _, times in shown)
    which = ", ".join(f"{what} ({times:,})" for what, times in [*shown, *([("others", others)] if others else [])])
    yield Finding(
        "refused rows",
        "warning" if material.skips else "error",
        count,
        f"rows that cannot be used: {count:,} ({which})",
        "Training leaves them out (data.on_bad_rows); other findings ignore them."
        if material.skips
        else f"{_advice(faults)} Training refuses the file; other findings ignore them.",
        examples=tuple(
            Example(fault.what, (Place(fault.part, fault.file, fault.number, ""),)) for fault in faults[:_EXAMPLES]
        ),
        refused=tuple(faults),
    )


def _advice(faults: Sequence[Refused]) -> str:
    return advice((fault.what for fault in faults), files={fault.file for fault in faults})


def _labels_unknown(material: Material) -> Iterator[Finding]:
    """Labels that a classifier trained on these rows could not give."""
    parts, named, labels = material.read, material.named, material.labels_of
    taught = set(chain.from_iterable(material.labels_of_each(parts["train"])))
    if named:
        known_names = set(named)
        odd = [(part, row) for part, rows in parts.items() for row in rows if not known_names.issuperset(labels(row))]
        if odd:
            what = f"rows with a label that data.labels does not name: {_names(odd, named)}"
            hint = "Correct these labels, or name them in data.labels."
            refused = tuple(
                Refused(part, row.file, row.number, f"the label {row.label!r} is not named") for part, row in odd
            )
            severity: Severity = "warning" if material.skips else "error"
            yield Finding("unknown labels", severity, len(odd), what, hint, examples=_one_by_one(odd), refused=refused)
    for part in ("validation", "test"):
        known = set(named) if named else taught
        unseen = [
            (part, row)
            for row in parts[part]
            if not taught.issuperset(own := labels(row)) and (not named or known.issuperset(own))
        ]
        if unseen and parts["train"]:
            follows = "leaves these rows out (data.on_bad_rows)" if material.skips else "refuses the files as they are"
            yield Finding(
                f"{part} labels unseen in train",
                "warning" if named or material.skips else "error",
                len(unseen),
                f"{part} rows with a label that no training row has: {_names(unseen, sorted(taught))}",
                "Correct these labels, or add training rows with them" + ("." if named else f"; training {follows}."),
                examples=_one_by_one(unseen),
            )


def _names(entries: Sequence[_Entry], known: Sequence[str]) -> str:
    counts = Counter(row.label for _, row in entries)
    most = counts.most_common(6)
    meant = " ".join(dict.fromkeys(found for label, _ in most if (found := did_you_mean(label, known).strip())))
    shown = ", ".join(f"{label!r} ({times:,})" for label, times in most)
    more = f", and {len(counts) - 6:,} more" if len(counts) > 6 else ""
    return f"{shown}{more}{'. ' * bool(meant)}{meant}"


def _leaks(parts: Mapping[str, Sequence[Row]], groups: Sequence[_Group]) -> Iterator[Finding]:
    """Held-out rows whose text is also in a part that decides the weights."""
    for part, source, follows in (
        ("test", "train", "Accuracy on them measures memory: take them out of train or out of test."),
        ("validation", "train", "The best weights are then chosen on rows they were trained on: take them out."),
        ("test", "validation", "The weights are then chosen and measured on the same rows: take them out."),
    ):
        shared = [group for group in groups if {part, source} <= {where for where, _ in group}]
        entries = [(group, row) for group in shared for where, row in group if where == part]
        if not entries:
            continue
        exact = other = 0
        for group, row in entries:
            originals = [original for where, original in group if where == source]
            exact += any(original.text == row.text for original in originals)
            other += all(original.label != row.label for original in originals)
        share = len(entries) / len(parts[part])
        relabelled = f", with another label there: {other:,}" if other else ""
        yield Finding(
            f"{part} texts in {source}",
            "warning",
            len(entries),
            f"{part} rows whose text stands in {source}: {len(entries):,} of {len(parts[part]):,}, {share:.1%} "
            f"(letter by letter: {exact:,}{relabelled})",
            follows,
            {"exact": exact, "share": share, "other_label": other, "texts": len(shared)},
            _together(shared),
        )


def _contradictions(groups: Sequence[_Group]) -> Iterator[Finding]:
    """The same text with several labels: one of them is wrong, or the labels overlap.

    A text that has several labels within a part is counted there, and not again across parts."""
    conflicting: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        if len({row.label for _, row in group}) < 2:
            continue
        labels = defaultdict(set)
        for part, row in group:
            labels[part].add(row.label)
        inside = [f"in {part}" for part in PARTS if len(labels[part]) > 1]
        for where in inside or ["across parts"]:
            conflicting[where].append(group)
    for where in (*(f"in {part}" for part in PARTS), "across parts"):
        if found := conflicting[where]:
            rows = sum(where in (f"in {part}", "across parts") for group in found for part, _ in group)
            yield Finding(
                f"contradictions {where}",
                "warning",
                len(found),
                f"texts {where} with more than one label: {len(found):,} ({rows:,} rows)",
                "Decide which label is meant; no classifier can get all of these rows right.",
                {"rows": rows},
                _together(found),
            )


def _rare(train: Counter[str], material: Material) -> Iterator[Finding]:
    """Labels with few training rows, of those that `data.max_samples` leaves."""
    drawn, used = material.drawn, train
    if drawn is not None:
        left_over = Counter(chain.from_iterable(material.labels_of_each(drawn)))
        used = Counter({label: left_over[label] for label in train})
    rare = {label: count for label, count in sorted(used.items(), key=lambda pair: pair[1]) if count < RARE}
    if rare:
        few = sum(train[label] < RARE for label in rare)
        left = "" if drawn is None else f" of the {len(drawn):,} that data.max_samples leaves"
        shown = ", ".join(f"{label} ({count:,})" for label, count in list(rare.items())[:8])
        more = f", and {len(rare) - 8:,} more" if len(rare) > 8 else ""
        yield Finding(
            "rare labels",
            "warning",
            len(rare),
            f"labels with fewer than {RARE} training rows{left}: {shown}{more}",
            "They will hardly be learned: "
            + ("raise data.max_samples, " if few < len(rare) else "")
            + "collect more rows, or merge them with similar labels.",
        )


def _uneven(train: Counter[str], test: Counter[str], *, several: bool) -> Iterator[Finding]:
    if test and (absent := [label for label in train if not test[label]]):
        yield Finding(
            "labels without test rows",
            "note",
            len(absent),
            f"labels of train without a test row: {', '.join(absent[:8])}{', …' if len(absent) > 8 else ''}",
            "They are not measured.",
        )
    balance = _balance(train, several=several)
    if balance is not None and balance.ratio >= UNEVEN:
        alone = balance.majority
        yield Finding(
            "uneven labels",
            "note",
            len(train),
            f"uneven labels: {balance.largest} has {balance.ratio:,.0f} times the training rows of {balance.smallest}",
            "Read macro-F1 beside the other figures."
            if alone is None
            else f"Read macro-F1 beside accuracy: always {balance.largest} is correct in {alone:.1%}.",
            {"ratio": balance.ratio} | ({} if alone is None else {"majority": alone}),
        )


def _balance(train: Counter[str], *, several: bool) -> Balance | None:
    if len(train) < 2:
        return None
    (largest, most), (smallest, least) = train.most_common()[0], train.most_common()[-1]
    shares = [count / train.total() for count in train.values()]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(len(train))
    return Balance(largest, smallest, most / least, entropy, None if several else most / train.total())


def _measure(parts: Mapping[str, Sequence[Row]], ruler: Ruler) -> Lengths | None:
    texts = (row.text for rows in parts.values() for row in rows)
    counted = np.asarray(array("q", chain.from_iterable(_counts(texts, ruler))))
    if not len(counted):
        return None
    p5, p50, p95, p99 = np.percentile(counted, [5, 50, 95, 99]).tolist()
    trimmed = {arm: int((counted > room).sum()) for arm, room in ruler.room.items()}
    return Lengths(p5, p50, p95, p99, int(counted.max()), dict(ruler.room), trimmed)


def _counts(texts: Iterator[str], ruler: Ruler) -> Iterator[Sequence[int]]:
    """The lengths of some thousand texts after another: the texts of all rows are never in memory together."""
    while some := list(islice(texts, _TOGETHER)):
        yield ruler.count(some)


def _trimmed(lengths: Lengths | None, ruler: Ruler | None, rows: int) -> Iterator[Finding]:
    if ruler is None:
        return
    needed = _needed(lengths, ruler)
    for name, room in ruler.least.items():
        if room < 1:
            yield Finding(
                "no room for a text",
                "error",
                rows,
                f"no room for a text in {name}: instruction, labels and reasoning take all of max_seq_length",
                f"Set max_seq_length to {needed}: that holds the longest text too. Or shorten what stands beside.",
                {"room": room, "needed": needed},
            )
    for arm, room in ruler.room.items():
        if room >= 1 and lengths is not None and (count := lengths.trimmed[arm]):
            yield Finding(
                f"trimmed texts in {arm}",
                "warning" if count >= MANY_TRIMMED * rows else "note",
                count,
                f"texts longer than the {room:,} tokens that {arm} has room for: {count:,} of {rows:,}, "
                f"{count / rows:.1%}",
                f"Their end is cut off. max_seq_length: {needed} holds the longest.",
                {"room": room, "share": count / rows},
            )


def _needed(lengths: Lengths | None, ruler: Ruler) -> int:
    """The max_seq_length, a multiple of 64, that holds the longest text in every prompt, and what is learned there."""
    longest = lengths.max if lengths is not None else 1
    return math.ceil((ruler.limit - min(ruler.least.values(), default=0) + longest) / _STEP) * _STEP


def _repeated(parts: Mapping[str, Sequence[Row]], groups: Sequence[_Group]) -> Iterator[Finding]:
    """Copies within a part: n - 1 for a text that occurs n times."""
    for part, rows in parts.items():
        own = [mine for group in groups if len(mine := [entry for entry in group if entry[0] == part]) > 1]
        copies = sum(len(group) - 1 for group in own)
        if copies:
            exact = sum(len(group) - len({row.text for _, row in group}) for group in own)
            yield Finding(
                f"duplicates in {part}",
                "note",
                copies,
                f"{part} rows that repeat the text of an earlier one: {copies:,} of {len(rows):,}, "
                f"{copies / len(rows):.1%} (letter by letter: {exact:,})",
                "They count twice in training." if part == "train" else "They count twice.",
                {"exact": exact, "share": copies / len(rows), "texts": len(own)},
                _together(own),
            )


def _characters(parts: Mapping[str, Sequence[Row]], control: Sequence[str]) -> Iterator[Finding]:
    for kind in unusual_kinds(control):
        found: list[_Entry] = []
        shown: Counter[str] = Counter()
        for part, rows in parts.items():
            for row in rows:
                if hit := kind.search(row.text):
                    shown[hit] += 1
                    if len(found) < _EXAMPLES:
                        found.append((part, row))
        if found:
            which = ", ".join(visible(sign) for sign, _ in shown.most_common(4))
            yield Finding(
                kind.name,
                kind.severity,
                shown.total(),
                f"{kind.what}: {shown.total():,} ({which})",
                kind.hint,
                examples=_one_by_one(found),
            )


def _together(groups: Iterable[_Group]) -> tuple[Example, ...]:
    return tuple(_example(group) for group, _ in zip(groups, range(_EXAMPLES), strict=False))


def _one_by_one(entries: Sequence[_Entry]) -> tuple[Example, ...]:
    return tuple(_example([entry]) for entry in entries[:_EXAMPLES])


def _example(group: _Group) -> Example:
    """A text and the first places of each part where it occurs."""
    taken: Counter[str] = Counter()
    places = []
    for part, row in group:
        taken[part] += 1
        if taken[part] <= _PLACES:
            places.append(Place(part, row.file, row.number, row.label))
    return Example(shortened(group[0][1].text, _SHOWN), tuple(places))
