"""Labels that were merged, look alike, are slips, look missing, combine others, or cannot be told apart in a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rir_mlx.data.audit.findings import LABELS_SHOWN, Finding, Material, first_of, with_rows
from rir_mlx.data.audit.several_labels import check_several
from rir_mlx.data.labels.slips import slips
from rir_mlx.data.labels.spelling import alike, doubtful, merged


def check_spellings(counts: Mapping[str, Counter[str]], material: Material) -> Iterator[Finding]:
    """Warnings about the labels of all parts. `counts` are the rows of each label, by part."""
    totals = Counter[str]()
    for count in counts.values():
        totals.update(count)
    named = set(material.named)
    spellings = merged(material.spellings)
    if spellings:
        shown = "; ".join(f"{label!r} from {with_rows(spellings[label])}" for label in list(spellings)[:LABELS_SHOWN])
        yield Finding(
            "merged labels",
            "warning",
            len(spellings),
            f"labels that are spelled in several ways, and count as one: {shown}",
            "Spell each label in one way, or name it in data.labels.",
        )
    groups = list(alike(totals))
    for names in groups:
        yield Finding(
            "labels that look alike",
            "note" if set(names) <= named else "warning",
            len(names),
            f"labels that differ only in letter case or form: {_told_apart(names, totals)}",
            "Spell them alike if they are one label; they are trained as different ones.",
        )
    meant = named.difference(material.undescribed)
    known = meant.union(*groups)
    if strays := {label: other for label, other in slips(totals).items() if label not in known}:
        each = (f"{label!r} ({totals[label]:,}) for {other!r}" for label, other in strays.items())
        yield Finding(
            "labels that may be misspelt",
            "note",
            sum(totals[label] for label in strays),
            f"rows whose label may be a slip of another: {first_of(each, len(strays))}",
            "Look whether it is: if it is meant, describe it in data.labels.",
        )
    for name in doubtful(totals):
        if name not in meant and not (material.several and name.casefold() == "none"):
            yield Finding(
                "doubtful label",
                "note" if name in named else "warning",
                totals[name],
                f"rows with the label {name!r}, which may stand for a missing one: {totals[name]:,}",
                "Take these rows out, or describe the label in data.labels.",
            )
    yield from check_several(totals, {label: each for label, each in material.spellings.items() if label not in named})
    if commas := [name for name in totals if "," in name]:
        yield Finding(
            "labels with commas",
            "warning",
            len(commas),
            f"labels that hold a comma: {with_rows({name: totals[name] for name in commas})}",
            "The prompt lists the labels with commas between them, so the model cannot tell these apart. Rename them.",
        )


def _told_apart(names: Sequence[str], totals: Mapping[str, int]) -> str:
    """Labels that look alike with their rows, and the characters in which each differs but looks the same."""
    shown = []
    for name in names[:LABELS_SHOWN]:
        others = {sign for other in names if other != name for sign in other.casefold()}
        beyond = [sign for sign in dict.fromkeys(name) if not sign.isascii() and sign.isprintable()]
        own = [sign for sign in beyond if sign.casefold() not in others]
        codes = " ".join(f"U+{ord(sign):04X}" for sign in own)
        shown.append(f"{name!r} ({totals[name]:,}{f', with {codes}' if codes else ''})")
    return first_of(shown, len(names))
