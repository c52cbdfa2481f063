"""What is usual for Apple's chips, to set beside what was measured. No figure is computed from these."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """`bandwidth` in GB/s, as Apple says. `product` in TFLOP/s: up to the M4 the peak of the largest GPU's arithmetic
    in float32 (cores × 256 × clock, rounded), which a product in 16 bits hardly exceeds; from the M5 on what others
    report of one large product in 16 bits, None where we know of no report."""

    bandwidth: str
    product: str | None


CHIPS = {
    "M1": Chip("68", "2.6"),
    "M1 Pro": Chip("200", "5.2"),
    "M1 Max": Chip("400", "10"),
    "M1 Ultra": Chip("800", "21"),
    "M2": Chip("100", "3.6"),
    "M2 Pro": Chip("200", "6.8"),
    "M2 Max": Chip("400", "14"),
    "M2 Ultra": Chip("800", "27"),
    "M3": Chip("100", "3.5"),
    "M3 Pro": Chip("150", "6.4"),
    "M3 Max": Chip("300 to 400", "14"),
    "M3 Ultra": Chip("819", "28"),
    "M4": Chip("120", "4.3"),
    "M4 Pro": Chip("273", "8.5"),
    "M4 Max": Chip("410 to 546", "17"),
    "M5": Chip("153", None),
    "M5 Pro": Chip("307", "28 to 33"),
    "M5 Max": Chip("460 to 614", "53 to 60"),
}
"""The M5's products run on the neural accelerators of its GPU. The M5 Max's were reported in float16, in the pull
request 3211 of ml-explore/mlx."""

_NAME = re.compile(r"\bM\d( (Pro|Max|Ultra))?\b")


def usual(device: str) -> str:
    """A sentence about the chip that the device's name names; empty for others."""
    found = _NAME.search(device)
    chip = CHIPS.get(found[0]) if found else None
    if found is None or chip is None:
        return ""
    product = "" if chip.product is None else f" and {chip.product} TFLOP/s"
    return f"Usual for an {found[0]}: {chip.bandwidth} GB/s{product}."
