"""Draws of rows: decided by a seed, stratified by label, in the order of the file."""

from __future__ import annotations

import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import compress
from types import MappingProxyType

from rir_mlx.data.labels import combinations
from rir_mlx.data.rows import AnyRows, Row, Rows, chosen, labels_of
from rir_mlx.data.same_text import normalised
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection

_NO_STRATA: Mapping[str, str] = MappingProxyType({})


def shuffled(places: Iterable[int], seed: str) -> Sequence[int]:
    """The places in an order decided by the seed: the same on every machine and in every process."""
    order = array("q", places)
    random.Random(seed).shuffle(order)
    return order


def _shares(counts: Mapping[str, int], total: int, *, at_least: int = 0, spare: int = 0) -> dict[str, int]:
    """How many of `total` rows each label gets: in proportion to its count, by largest remainder.

    A label gets at least `at_least` rows, and `spare` of its rows are never taken.
    """
    rows = sum(counts.values())
    shares = {name: min(max(total * n // rows, at_least), n - spare) for name, n in sorted(counts.items())}
    while missing := total - sum(shares.values()):
        step = 1 if missing > 0 else -1
        # Furthest below its exact share first; where rows must be given back, furthest above it.
        order = sorted(shares, key=lambda name: step * (shares[name] * rows - total * counts[name]))
        open_to = [name for name in order if at_least <= shares[name] + step <= counts[name] - spare]
        if not open_to:
            break
        for name in open_to[: abs(missing)]:
            shares[name] += step
    return shares


def strata_of(section: DataSection, rows: Rows) -> Mapping[str, str]:
    """What labels are drawn as, where that is another one: rare combinations of labels are, with one of them."""
    return combinations.strata(Counter(rows.labels())) if section.several else {}


def draw_rows(
    rows: AnyRows, total: int, seed: str, *, at_least: int = 0, strata: Mapping[str, str] = _NO_STRATA
) -> AnyRows:
    """`total` of the rows in their order, with every label in proportion, but at least `at_least` of each. A larger
    draw with the same seed contains a smaller one."""
    places: dict[str, array[int]] = defaultdict(lambda: array("q"))
    for place, label in enumerate(labels_of(rows)):
        places[strata.get(label, label)].append(place)
    shares = _shares({name: len(own) for name, own in places.items()}, total, at_least=at_least)
    drawn = bytearray(len(rows))
    for name, count in shares.items():
        for place in shuffled(places[name], f"{seed}/{name}")[:count]:
            drawn[place] = True
    return chosen(rows, compress(range(len(rows)), drawn))


def nested_part(rows: AnyRows, percent: int, seed: int, strata: Mapping[str, str] = _NO_STRATA) -> AnyRows:
    """A part of the training rows for a learning curve, with every label in proportion and at least one row of each. A
    smaller part is within a larger one."""
    labels = {strata.get(label, label) for label in set(labels_of(rows))}
    total = max(len(labels), round(len(rows) * percent / 100))
    return draw_rows(rows, total, f"{seed}/learning curve", at_least=1, strata=strata)


def carve_missing_parts(
    rows: dict[str, Rows],
    section: DataSection,
    seed: int,
    fallback: Callable[[str, DataError], float] | None = None,
) -> list[str]:
    """Carve the parts that have no source out of the training rows, in place: first test, then validation, so that the
    test part does not depend on `val_size`. Returns a note for each carved part.

    `fallback` gives the size to use for a part whose size does not fit. Without it, DataError is raised."""
    notes, everything, strata = [], len(rows["train"]), strata_of(section, rows["train"])
    for part, size in (("test", section.test_size), ("validation", section.val_size)):
        if getattr(section, part) is not None:
            continue
        try:
            count = _carved_count(rows["train"], part, size, everything)
        except DataError as error:
            if fallback is None:
                raise
            count = _carved_count(rows["train"], part, fallback(part, error), everything)
        drawn = _draw_texts(rows["train"], count, f"{seed}/{part}", strata)
        if section.soft_labels:
            drawn -= _last_of_a_share(rows["train"], drawn)
        rows[part], rows["train"] = _parted(rows["train"], drawn)
        if rows[part]:
            notes.append(f"{part} split off train: {len(rows[part]):,} rows")
    return notes


def _carved_count(rows: Rows, part: str, size: float, everything: int) -> int:
    """How many rows a part gets. `size` is a count or, below 1, a share of `everything`. Raises DataError if it is more
    than half of the rows."""
    key = f"data.{'val' if part == 'validation' else part}_size"
    return carved_size(size, everything, len(rows), key, f", or give rows of its own in data.{part}")


def _parted(rows: Rows, drawn: set[int]) -> tuple[Rows, Rows]:
    """The drawn rows, and the rest."""
    return rows.chosen(sorted(drawn)), rows.chosen(place for place in range(len(rows)) if place not in drawn)


def _last_of_a_share(rows: Sequence[Row], drawn: set[int]) -> set[int]:
    """The drawn places whose texts have a share of a label that no row has which is left: a draw goes by main labels.
    Where several have it, those of the first text are enough."""
    left = {label for place, row in enumerate(rows) if place not in drawn for label, _ in row.divided}
    last = set[str]()
    for place in sorted(drawn):
        if not left.issuperset(own := [label for label, _ in rows[place].divided]):
            left.update(own)
            last.add(normalised(rows[place].text))
    return {place for place in drawn if normalised(rows[place].text) in last} if last else set()


def _draw_texts(rows: Sequence[Row], total: int, seed: str, strata: Mapping[str, str]) -> set[int]:
    """Places of a stratified draw of whole texts: all rows of a text, or none. Where every row has a text of its own,
    this is what `draw_rows` draws. A row of every label is left. Rows of the same text stay together, and those whose
    labels contradict each other in the training rows, so there may be a few rows less."""
    order, digests = _same_texts(rows)
    counts: dict[str, int] = defaultdict(int)
    units: dict[str, array[int]] = defaultdict(lambda: array("q"))  # where texts of one label start in the order
    start, names = 0, dict[str, str]()
    label_of = [names.setdefault(label, label) for label in labels_of(rows)]
    drawn_as = {name: strata.get(name, name) for name in names}
    while start < len(order):
        end = _end(order, digests, start)
        labels = {label_of[place] for place in order[start:end]}
        for place in order[start:end]:
            counts[drawn_as[label_of[place]]] += 1
        if len(labels) == 1:
            units[drawn_as[labels.pop()]].append(start)
        start = end
    drawn: set[int] = set()
    for name, left in _shares(counts, total, spare=1).items():
        in_file_order = sorted(units[name], key=order.__getitem__)
        for start in shuffled(in_file_order, f"{seed}/{name}"):
            places = order[start : _end(order, digests, start)]
            if len(places) <= left:
                drawn.update(places)
                left -= len(places)
    return drawn


_DIGEST = 16
"""Bytes of a text's digest."""


def _same_texts(rows: Sequence[Row]) -> tuple[array[int], bytearray]:
    """The places of the rows, those of the same text together and in the order of the file, and the digests of the
    texts, one after the other. The texts themselves, normalised, would take as much memory as the rows."""
    digests = bytearray()
    groups = [array("q") for _ in range(256)]  # by the first byte: to sort all at once takes 100 bytes a row
    for place, row in enumerate(rows):
        digest = blake2b(normalised(row.text).encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
        groups[digest[0]].append(place)
        digests += digest
    order = array("q")
    for group in groups:
        order.extend(sorted(group, key=lambda place: digests[_DIGEST * place : _DIGEST * (place + 1)]))
    return order, digests


def _end(order: array[int], digests: bytearray, start: int) -> int:
    """Where the text that starts there ends in the order."""

    def digest(at: int) -> bytearray:
        return digests[_DIGEST * order[at] : _DIGEST * (order[at] + 1)]

    end, own = start + 1, digest(start)
    while end < len(order) and digest(end) == own:
        end += 1
    return end


def carved_size(size: float, rows: int, left: int, key: str, otherwise: str) -> int:
    """How many rows to carve: a count or, below 1, a share of all `rows`. `left` of them are not carved yet."""
    count = round(size * rows) if size < 1 else int(size)
    if 2 * count > left:
        raise DataError(
            f"{key}: {count:,} rows would be more than half of the {left:,} remaining training rows.",
            hint=f"Set {key} to a smaller number or to a share such as 0.1{otherwise}.",
        )
    return count


def sample_train(
    rows: Rows, most: int | None, seed: int, notes: list[str], strata: Mapping[str, str] = _NO_STRATA
) -> Rows:
    if most is None or len(rows) <= most:
        return rows
    labels = len({strata.get(label, label) for label in set(rows.labels())})
    if most < labels:
        raise DataError(
            f"data.max_samples: {most:,} rows cannot hold each of the {labels:,} labels.",
            hint=f"Set data.max_samples to {labels:,} or more.",
        )
    notes.append(f"train: {most:,} of {len(rows):,} rows drawn (data.max_samples)")
    return draw_rows(rows, most, f"{seed}/train", at_least=1, strata=strata)
