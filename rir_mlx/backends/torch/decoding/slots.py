"""The keys and values of rows in progress, each row in a slot of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from rir_mlx.backends.base import Tokens, pad_right
from rir_mlx.backends.torch.decoding.recording import RecordedSteps, Step
from rir_mlx.backends.torch.forward import AfterPrefix, BesidePrefix, TorchForward
from rir_mlx.backends.torch.layers.attention import Pair

_TOLERANCE = 0.02
"""How far a replay of a step may be off, as a share of a row's largest number."""
_COLUMNS = 64
"""Columns are added in steps of this size."""


class Slots:
    """The rows in progress: row i of `step` is in slot i, and the first `count` slots are taken. `tokens` are each
    row's last; whoever draws them writes them there.

    A slot's columns are the row's own tokens, or the prefix and these. Where all slots share the prefix, the columns
    below 0 are the prefix's; `before` says how many of them a row sees. They do where `following`, the rows that come
    first behind the prefix, are many.
    """

    def __init__(self, model: TorchForward, prefix: Tokens, size: int, following: int) -> None:
        self.model, self.size = model, size
        self.prefix = model.kept_prefix_cache(prefix)
        self.start, self.apart = len(prefix), 0
        if prefix and following >= model.sharing_rows(self.prefix):
            self.apart = self.start
        self.count = self.room = 0
        self.lengths = np.zeros(size, dtype=np.int64)
        self.order = torch.arange(size, device=model.device)
        self.columns = self.order[:0]
        self.places, self.before, self.tokens = (torch.zeros_like(self.order) for _ in range(3))
        self.recorded, self.running = RecordedSteps(model), (0, 0)
        self.layers = [_SlotLayer(self, (layer.keys, layer.values)) for layer in self.prefix.layers]
        self.cache = (BesidePrefix if self.apart else Cache)(layers=self.layers)

    def enter(self, rows: Sequence[Tokens], *, whole: bool) -> torch.Tensor:
        """Run new rows' own tokens after the prefix, or, if they are `whole`, after nothing; returns their last tokens'
        hidden states [rows, width]."""
        model = self.model
        tokens, lengths = pad_right(rows)
        start, before = (0, 0) if whole else (self.start, self.apart)
        first = start - before  # columns in each slot that the prefix takes
        cache: Any = Cache(
            layers=[_Entering(layer) for layer in (model.empty_cache() if whole else self.prefix).layers]
        )
        hidden = model.run(model.tensor(tokens.astype(np.int64)), cache, model.causal(start, tokens.shape[1]))
        self._make_room(first + tokens.shape[1] + 1)
        taken, ends = slice(self.count, self.count + len(rows)), first + tokens.shape[1]
        for slots, prefix, layer in zip(self.layers, self.prefix.layers, cache.layers, strict=True):
            slots.hold(self.size, self.room, *layer.own)
            if first:
                slots.keys[taken, :, :first], slots.values[taken, :, :first] = prefix.keys, prefix.values
            slots.keys[taken, :, first:ends], slots.values[taken, :, first:ends] = layer.own
        on_device = model.tensor(lengths.astype(np.int64))
        self.lengths[taken], self.places[taken], self.before[taken] = first + lengths, first + on_device, before
        self.count += len(rows)
        return hidden[self.order[: len(rows)], on_device - 1]

    def step(self) -> torch.Tensor:
        """Run the last token of each row; returns their hidden states [rows, width]."""
        self._make_room(self.width)
        count, shape = self.count, (min(self.size, 1 << (self.count - 1).bit_length()), self.room)
        exact, fixed = (lambda: self._run(count, self.width)), (lambda: self._run(*shape))
        hidden = self.recorded.run(shape, exact, fixed, self._alike)
        self.lengths[:count] += 1
        self.places[:count] += 1
        return hidden[:count]

    def close(self) -> None:
        """Let go of the memory: recordings, slots and layers refer to each other."""
        self.recorded.forget()
        self.layers.clear()

    def _alike(self, step: Step, replay: Step) -> bool:
        """Whether a replay gives and writes what the step does, for other tokens than the rows': those may be the ones
        that it was recorded with. The keys, values and tokens are left as they were."""
        parts = [part for layer in self.layers for part in (layer.keys, layer.values)]
        kept, tokens = [part.clone() for part in parts], self.tokens.clone()
        at = (self.order[: self.count], slice(None), self.places[: self.count])

        def run(either: Step) -> list[torch.Tensor]:
            """What it gives and writes; then nothing of it is left."""
            found = [either()[: self.count].clone(), *(part[at] for part in parts)]
            for part, before in zip(parts, kept, strict=True):
                part[at] = before[at]
            return found

        try:
            self.tokens.add_(1).remainder_(self.model.lm_head.weight.shape[0])
            pairs = list(zip(run(step), run(replay), strict=True))
            taken = slice(self.count)
            rest = all(torch.equal(part[taken], before[taken]) for part, before in zip(parts, kept, strict=True))
        finally:
            for part, before in zip(parts, kept, strict=True):
                part.copy_(before)
            self.tokens.copy_(tokens)
        return rest and all(map(_close, *zip(*pairs, strict=True)))

    def _run(self, rows: int, width: int) -> torch.Tensor:
        """The last tokens' hidden states [rows, width of the model] of the first slots, taken or not, which see no
        column from `width` on."""
        self.running = rows, width
        places, before = self.places[:rows, None], self.before[:rows, None]
        columns = self.columns[: self.apart + width]
        mask = (columns <= places) & (columns >= -before)
        seen = None if self.model.attention.window is None else columns + before
        hidden = self.model.run(self.tokens[:rows, None], self.cache, mask[:, None, None], before + places, seen)
        return hidden[:, -1]

    def leave(self, gone: Sequence[int]) -> list[tuple[int, int]]:
        """Free slots: the last rows move into those before them, all in one copy. Returns the moves, from and to."""
        if not gone:
            return []
        count = self.count - len(gone)
        staying = sorted(set(range(count, self.count)) - set(gone))
        moves = list(zip(staying, (slot for slot in gone if slot < count), strict=True))
        if moves:
            last, free = np.array(moves, dtype=np.int64).T
            length = int(self.lengths[last].max())
            self.lengths[free] = self.lengths[last]
            at, to = self.model.tensor(last), self.model.tensor(free)
            for layer in self.layers:
                for part in (layer.keys, layer.values):
                    part[to, :, :length] = part[at, :, :length]
            for counts in (self.places, self.before, self.tokens):
                counts[to] = counts[at]
        self.places[count : self.count] = 0  # inside the columns, if the slots run along
        self.count = count
        return moves

    @property
    def width(self) -> int:
        """Columns of the longest row, including the token being run."""
        return int(self.lengths[: self.count].max()) + 1

    def _make_room(self, width: int) -> None:
        if width > self.room:
            self.room = -(-width // _COLUMNS) * _COLUMNS
            self.columns = torch.arange(-self.apart, self.room, device=self.model.device)
            self.recorded.forget()
            for layer in self.layers:
                layer.widen(self.room)


def _close(expected: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether each row is what it should be, but for what another kernel may round otherwise."""
    expected, found = expected.flatten(1).float(), found.flatten(1).float()
    near = (found - expected).abs().amax(1) <= _TOLERANCE * expected.abs().amax(1)
    return bool(near.all())  # no number is near nothing


class _Entering(AfterPrefix):
    """One layer of rows that enter, whose own keys and values are kept."""

    own: Pair

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> Pair:
        self.own = keys, values
        return super().update(keys, values)


class _SlotLayer(DynamicLayer):
    """One layer's keys and values [slots, heads, room, width], which transformers' models write through `update`."""

    own: Pair

    def __init__(self, slots: Slots, prefix: Pair) -> None:
        super().__init__()
        self.slots, self.prefix = slots, prefix

    def hold(self, slots: int, room: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Create the buffers, once their shape is known."""
        if self.is_initialized:
            return
        self.lazy_initialization(keys, values)
        # Zeros: places without a token get a weight of 0, and 0 times NaN is NaN.
        self.keys = keys.new_zeros(slots, keys.shape[1], room, keys.shape[3])
        self.values = values.new_zeros(slots, values.shape[1], room, values.shape[3])

    def widen(self, room: int) -> None:
        if self.is_initialized:
            more = room - self.keys.shape[2]
            self.keys, self.values = (torch.nn.functional.pad(p, (0, 0, 0, more)) for p in (self.keys, self.values))

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> Pair:
        """The keys and values that the rows' tokens see in the slots."""
        rows, width = self.slots.running
        at = (self.slots.order[:rows], slice(None), self.slots.places[:rows])
        self.keys[at], self.values[at] = keys[:, :, 0], values[:, :, 0]
        self.own = self.keys[:rows, :, :width], self.values[:rows, :, :width]
        return self.own
