"""The table of everything that is known so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.goals import verdict
from benchmarks.gpu.parts import PARTS
from rir_mlx.speed.bench import TASKS

_AGAIN = " (the time was over: it runs again)"


def table(known: Mapping[str, Any]) -> Iterator[str]:
    """Markdown: the machine and its limits, a table of measurements with the ratios first, then tests and resumes."""
    limits, found = known["limits"], known["steps"]
    kind = "a GPU" if known.get("accelerator") else "a processor, no GPU"
    model = "A tiny model of 2 layers" if known["tiny"] else "Llama-3.2-1B's shape, 16 layers"
    yield f"**Measured on {kind}**: {known['device']}; {known['machine']}. {model}, random weights, {limits['dtype']}."
    yield f"Limits: {limits['flops'] / 1e12:.3g} TFLOP/s, {limits['bandwidth'] / 1e9:.4g} GB/s.\n"
    if known["tiny"]:
        yield "This proves that every step runs. The shapes are so small that no figure says how fast anything is.\n"
    if rows := [_row(key, result, known) for key, result in sorted(found.items(), key=_in_order) if "rows/s" in result]:
        heads = ["what", "program", "ours is faster by", "goal", "met", "rows/s (rounds × rows)", "tokens/s", "memory"]
        yield f"| {' | '.join([*heads, 'share of the limit'])} |"
        yield f"|{'---|' * 9}"
        yield from [*rows, ""]
    for key, result in found.items():
        if "counts" in result:
            more = f"; stopped before the end: {result['stopped']}" if "stopped" in result else ""
            more += _AGAIN if result.get("cut") else ""
            more += f"; failed: {', '.join(result['failed'])}" if result["failed"] else ""
            yield f"- {_named(key)}: {', '.join(f'{count} {what}' for what, count in result['counts'].items())}{more}"
        elif "same bytes" in result:
            same = ", ".join(f"{how}: {'yes' if is_same else 'no'}" for how, is_same in result["same bytes"].items())
            yield f"- {_named(key)}: the same bytes, {same}; {result['seconds a step']:.3g} s a step"
        elif "rows/s" not in result:
            what = next(name for name in ("error", "left out", "on a GPU") if name in result)
            more = _AGAIN if result.get("cut") else ""
            yield f"- {_named(key)}: {what}: {' '.join(str(result[what]).split())}{more}"


def _in_order(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """By key, sizes as numbers."""
    return [(int(part) if part.isdigit() else 0, part) for part in item[0].split("/")]


def _row(key: str, result: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    place, _, peer = key.rpartition("/")
    mine = known["steps"].get(f"{place}/ours", {}).get("rows/s")
    ratio = None if peer == "ours" or not mine else mine / result["rows/s"]
    goal, met = ("", "") if known["tiny"] else verdict(key, result, ratio)
    settings = f" ({result['settings']})" if "settings" in result else ""
    rows = f"{result['rows/s']:.4g} ({result['rounds']} × {result['rows']})"
    cells = [_named(place), peer + settings, "" if ratio is None else f"**{ratio:.2f} ×**", goal, met, rows]
    cells += [f"{result['tokens/s']:,.0f}", f"{result['peak GB']:.3g} GB", _share(key, result)]
    return f"| {' | '.join(cells)} |"


def _share(key: str, result: Mapping[str, Any]) -> str:
    """Of training, where arithmetic is the limit, the MFU."""
    if result["share"] is None:
        return ""
    is_mfu = "b" in key.split("/") and result["limit"] == "arithmetic"
    return f"{result['share']:.0%}{' MFU' if is_mfu else ' of ' + result['limit']}"


def _named(key: str) -> str:
    """`e/b/qa/16` as "MLX, train qa, 16 rows at a time"; of a task that is named the part is left out."""
    first, *rest = key.split("/")
    words = [PARTS[first]] if first not in "bcd" else []
    for word in rest:
        if word.isdigit():
            words.append(f"{word} rows at a time")
        elif word not in PARTS:
            words.append(TASKS.get(word, word))  # type: ignore[call-overload]
    return ", ".join(words)
