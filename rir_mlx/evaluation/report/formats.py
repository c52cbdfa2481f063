"""How the report writes numbers, so that tables, charts and plots agree.

A number that is missing or not finite becomes a dash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from rir_mlx.statistics.intervals import wilson_interval

MISSING = "–"


def finite(value: Any) -> float | None:
    """The value as a float, or None if it is missing, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: Any, digits: int = 1) -> str:
    number = finite(value)
    return MISSING if number is None else f"{100 * number:.{digits}f}\u00a0%"


def hundredths(value: Any) -> str:
    """A share in percent without the percent sign, for a column whose heading has it."""
    return percent(value).removesuffix("\u00a0%")


def points(value: Any) -> str:
    """A difference of shares in percentage points, with its sign."""
    number = finite(value)
    return MISSING if number is None else f"{100 * number:+.1f}".replace("-", "−")


def number(value: Any, digits: int = 3) -> str:
    found = finite(value)
    return MISSING if found is None else f"{found:,.{digits}f}".replace("-", "−")


def whole(value: Any) -> str:
    found = finite(value)
    return MISSING if found is None else f"{found:,.0f}"


def seconds(value: Any) -> str:
    """A duration with two or three digits: 21 µs, 4.2 ms, 12 s, 3.4 min, 2.1 h."""
    found = finite(value)
    if found is None:
        return MISSING
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    size, unit = next((pair for pair in units if found >= pair[0]), units[2])
    return f"{found / size:.{1 if found < 10 * size and found else 0}f}\u00a0{unit}"


def probability(value: Any) -> str:
    """Two decimals. A probability below 1 is never written as 1.00: 0.998 becomes >0.99."""
    found = finite(value)
    if found is None:
        return MISSING
    if 0.995 <= found < 1:
        return ">0.99"
    return "<0.01" if 0 < found < 0.005 else f"{found:.2f}"


def p_value(value: Any) -> str:
    found = finite(value)
    if found is None:
        return MISSING
    return "<0.001" if found < 0.001 else f"{found:.3f}"


def spread(values: Sequence[Any] | None) -> str:
    """The lowest and the highest of several shares; a dash for fewer than two."""
    found = [value for value in map(finite, values or ()) if value is not None]
    return MISSING if len(found) < 2 else f"{100 * min(found):.1f}–{100 * max(found):.1f}\u00a0%"


def known_to(share: Any, rows: int) -> str:
    """The 95 % interval of a share of so many rows (Wilson): `72.2 to 100.0 %`."""
    number = finite(share)
    if number is None or rows < 1:
        return MISSING
    found = wilson_interval(number, rows)
    return f"{hundredths(found.low)} to {percent(found.high)}"


def listed(values: Sequence[Any] | None, digits: int = 3) -> str:
    return ", ".join(number(value, digits) for value in values or ()) or MISSING


def soft(text: Any) -> Markup:
    """A name that may break after its underscores, hyphens, dots and slashes. Escaped."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_\-./])(?=.)", str(text)))


FILTERS: dict[str, Callable[..., Any]] = {
    "finite": finite,
    "percent": percent,
    "hundredths": hundredths,
    "points": points,
    "number": number,
    "whole": whole,
    "seconds": seconds,
    "probability": probability,
    "p_value": p_value,
    "spread": spread,
    "known_to": known_to,
    "listed": listed,
    "soft": soft,
}
