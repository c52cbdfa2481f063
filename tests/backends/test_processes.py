"""What several processes share out among themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rir_mlx.backends.processes import own_places


def test_every_item_belongs_to_one_process_and_items_of_a_name_to_the_same() -> None:
    names = [f"text {number % 30}" for number in range(90)]
    groups: list[Any] = [SimpleNamespace(size=3, rank=rank) for rank in range(3)]
    places = [list(own_places(group, names)) for group in groups]
    assert sorted(place for own in places for place in own) == list(range(90))
    assert all(places)
    for own in places:
        assert {place % 30 for place in own} == {place % 30 for place in own if place < 30}
