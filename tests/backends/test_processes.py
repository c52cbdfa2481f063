"""What several processes share out among themselves, and what one gives back."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rir_mlx.backends.limits.memory import give_back
from rir_mlx.backends.processes import all_equal, own_places
from rir_mlx.errors import UserError
from rir_mlx.stages.context import check_number_formats


def test_every_item_belongs_to_one_process_and_items_of_a_name_to_the_same() -> None:
    names = [f"text {number % 30}" for number in range(90)]
    groups: list[Any] = [SimpleNamespace(size=3, rank=rank) for rank in range(3)]
    places = [list(own_places(group, names)) for group in groups]
    assert sorted(place for own in places for place in own) == list(range(90))
    assert all(places)
    for own in places:
        assert {place % 30 for place in own} == {place % 30 for place in own if place < 30}


@pytest.mark.parametrize(
    ("numbers", "equal"), [((2, 2, 2), True), ((0, 0, 0), True), ((0, 1, 2), False), ((1, 0, 1), False)]
)
def test_all_are_told_whether_they_have_the_same(numbers: tuple[int, ...], equal: bool) -> None:
    sums = [float(sum(numbers)), float(sum(number**2 for number in numbers))]
    group: Any = SimpleNamespace(size=3, all_sum=lambda _: sums)
    assert [all_equal(group, number) for number in numbers] == [equal] * 3


def test_processes_whose_number_formats_differ_are_refused() -> None:
    def context(sums: list[float]) -> Any:
        processes = SimpleNamespace(size=2, all_sum=lambda _: sums)
        return SimpleNamespace(model=SimpleNamespace(number_format="bfloat16"), processes=processes)

    check_number_formats(context([2.0, 2.0]))
    with pytest.raises(UserError, match="different number formats"):
        check_number_formats(context([1.0, 1.0]))


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_memory_that_was_freed_below_what_is_held_goes_back_to_the_system() -> None:
    freed = [bytes(1 << 16) for _ in range(800)]
    held = bytes(1 << 16)
    before = resident_mb()
    del freed
    give_back()
    assert before - resident_mb() > 25
    assert len(held) == 1 << 16


def resident_mb() -> int:
    return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmRSS:")[2].split()[0]) // 1024
