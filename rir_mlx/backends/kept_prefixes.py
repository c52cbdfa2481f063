"""What a model computed for prefixes that came before, for as long as its weights stay as they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from rir_mlx.backends.base import Tokens

Kept = TypeVar("Kept")


class KeptPrefixes(Generic[Kept]):
    """The keys and values of the `count` prefixes that were used last, none at first. Who gets them must not change
    them."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: OrderedDict[Tokens, Kept] = OrderedDict()

    def keep(self, count: int) -> None:
        """Keep that many from now on, and forget all there are."""
        self.count = count
        self._kept.clear()

    def get(self, prefix: Tokens, run: Callable[[], Kept]) -> Kept:
        """What `run` computed for the prefix, now or before."""
        found = self._kept.pop(prefix, None)
        if found is None:
            found = run()
        if prefix and self.count:
            self._kept[prefix] = found
            if len(self._kept) > self.count:
                self._kept.popitem(last=False)
        return found
