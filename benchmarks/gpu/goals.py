"""What is to be reached on a GPU, in PyTorch: a share of its arithmetic in training, and ratios to other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MFU = 0.4
"""Of training `qra`."""
RATIOS = {
    ("qa", "trl-best"): 3.0,
    ("qa", "plain"): 2.0,
    ("augment", "transformers-sorted"): 1.3,
    ("augment", "generate_batch"): 1.3,
    ("label", "generate-rows"): 10.0,
    ("reasoning", "generate-rows"): 10.0,
}
"""By task and program, how many times its rows a second ours should have."""
_AT = 128
"""Rows at a time for which the ratios of augmentation are meant, and the first ones that training is measured with."""


def goal(key: str) -> float | None:
    """What the step named by the key is to reach: of `ours` the MFU, of others the ratio. None where nothing is."""
    part, *rest = key.split("/")
    if part not in "bcd" or len(rest) != 3:
        return None
    task, size, peer = rest
    if (task, peer) == ("qra", "ours"):
        return MFU
    return None if task == "augment" and int(size) != _AT else RATIOS.get((task, peer))


def verdict(key: str, result: Mapping[str, Any], ratio: float | None) -> tuple[str, str]:
    """The goal of a step, and whether it is met; empty where there is none, or nothing to compare with."""
    wanted = goal(key)
    if wanted is None:
        return "", ""
    if key.endswith("/ours"):
        said, reached = f"≥ {wanted:.0%} MFU", result["share"] if result["limit"] == "arithmetic" else None
    else:
        said, reached = f"≥ {wanted:g} ×", ratio
    return said, "" if reached is None else "yes" if reached >= wanted else "no"


def importance(key: str) -> int:
    """0 for what the goals need at one size; then the tests and resumes, all other sizes and programs, and MLX."""
    part, *rest = key.split("/")
    if part in "af":
        return 1
    if part == "e":
        return 3
    task, size, peer = rest
    compared = {other for of, other in RATIOS if of == task} | {"ours"}
    return 0 if peer in compared and (part == "d" or int(size) == _AT) else 2
