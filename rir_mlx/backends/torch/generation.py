"""Generation with a PyTorch model in a continuous batch: a row enters as another leaves.

Each row has a slot in the keys and values, starting at column 0, and its own length. So rows at any step go through the
model together, and nothing is moved to make room for padding. On a processor, many rows share one copy of their
prefix's keys and values. Tokens and lengths stay on the device; a step reads its tokens once, on a GPU after the next
step was launched, and, where no row enters or leaves, sends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from rir_mlx.backends.base import (
    Completion,
    Float32Array,
    OnToken,
    Request,
    Sampling,
    Tokens,
    pad_right,
    stop_length,
    take,
    unstopped,
)
from rir_mlx.backends.noise import RowNoise, blocks_of
from rir_mlx.backends.torch.forward import AfterPrefix, BesidePrefix, TorchForward
from rir_mlx.backends.torch.layers.attention import Pair
from rir_mlx.errors import Failure

_COLUMNS = 64
"""Columns are added in steps of this size."""
_SHARING = 16
"""Rows at first from which on the prefix stands once for all slots. Fewer have copies, which their attention reads
faster."""
_LIKELIEST = 256
"""This many tokens hold nearly every nucleus; sorting the vocabulary otherwise costs as much as a model step."""


@dataclass
class _Row:
    request: Request
    limit: int
    generated: list[int] = field(default_factory=list)
    drawn: int = 0
    """Tokens that were drawn on the device; not all of them may have been read into `generated`."""
    done: bool = False
    noise: RowNoise | None = None

    def next_noise(self, vocabulary: int) -> Float32Array:
        self.noise = self.noise or RowNoise(self.request.seed, vocabulary)
        return self.noise.at(self.drawn)


@torch.inference_mode()
def generate(
    model: TorchForward,
    requests: Iterable[Request | None],
    sampling: Sampling,
    prefix: Tokens,
    on_token: OnToken | None,
) -> Iterator[Completion]:
    """`Model.generate` with continuous batching."""
    source = iter(requests)
    slots: _Slots | None = None
    rows: list[_Row] = []
    unread: list[_Step] = []
    late = steps_unread(model.device, sampling)
    together = max(1, sampling.batch_size // 4)  # rows that enter together; a single row takes as long as a step
    exhausted = False
    while rows or unread or not exhausted:
        fresh: list[_Row] = []
        if not exhausted and sampling.batch_size - len(rows) >= (together if rows else 1):
            taken, exhausted = take(source, sampling.batch_size - len(rows))
            taken.sort(key=lambda request: request.whole)
            fresh = [_Row(request, request.limit(sampling)) for request in taken]
        if rows or fresh:
            following = sum(not row.request.whole for row in fresh)
            slots = slots or _Slots(model, prefix, sampling.batch_size, shares=following >= _SHARING)
            hidden = [slots.step()] if rows else []
            for whole in (False, True):
                entering = [row.request.tokens for row in fresh if row.request.whole == whole]
                hidden += [slots.enter(entering, whole=whole)] if entering else []
            rows += fresh
            drawn = draw(model.logits_of(torch.cat(hidden)), rows, sampling)
            slots.tokens[: len(rows)] = drawn.clamp(min=0)  # a token that is none is told once it is read
            unread.append(_Step(drawn, list(rows)))
            for row in rows:
                row.drawn += 1
        while len(unread) > (late if rows else 0):
            yield from unread.pop(0).read(sampling, on_token)
        for slot in reversed(range(len(rows))):
            if slots and (rows[slot].done or rows[slot].drawn >= rows[slot].limit):
                slots.leave(slot)
                rows[slot] = rows[-1]
                rows.pop()


def steps_unread(device: torch.device, sampling: Sampling) -> int:
    """Steps that are launched before the tokens of an earlier one are read. Writing greedily, a GPU then never waits
    for the host; draws also need the host's noise. A row that has stopped runs along for one step more, which is
    discarded. A processor has nothing to wait for, and a repetition penalty needs the tokens."""
    return 1 if device.type == "cuda" and sampling.repetition_penalty == 1 else 0


class _Step:
    """The tokens that a step drew for rows, on their way to the host."""

    def __init__(self, drawn: torch.Tensor, rows: list[_Row]) -> None:
        self.rows, self.tokens = rows, drawn.to("cpu", non_blocking=True)
        self.arrived = torch.cuda.Event() if drawn.is_cuda else None
        if self.arrived:
            self.arrived.record()

    def read(self, sampling: Sampling, on_token: OnToken | None) -> Iterator[Completion]:
        """Wait for the tokens; yields the rows that they complete."""
        if self.arrived:
            self.arrived.synchronize()
        for row, token in zip(self.rows, self.tokens.tolist(), strict=True):
            if row.done:
                continue
            row.generated.append(_checked(token))
            if on_token is not None:
                on_token(row.request.key, token)
            row.done = bool(stop_length(row.generated, sampling.stop)) or len(row.generated) >= row.limit
            if row.done:
                yield Completion(row.request.key, *unstopped(row.generated, sampling.stop))


class _Slots:
    """The rows in progress: row i of `step` is in slot i, and the first `count` slots are taken. `tokens` are each
    row's last; whoever draws them writes them there.

    A slot's columns are the row's own tokens, or the prefix and these. Where all slots share the prefix, the columns
    below 0 are the prefix's; `before` says how many of them a row sees.
    """

    def __init__(self, model: TorchForward, prefix: Tokens, size: int, *, shares: bool) -> None:
        self.model, self.size = model, size
        self.prefix = model.kept_prefix_cache(prefix)
        self.start, self.apart = len(prefix), 0
        if shares and prefix and model.shares_prefix:
            self.apart = self.start
        self.count = self.room = 0
        self.lengths = np.zeros(size, dtype=np.int64)
        self.order = torch.arange(size, device=model.device)
        self.columns = self.order[:0]
        self.places, self.before, self.tokens = (torch.zeros_like(self.order) for _ in range(3))
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
        places, before = self.places[: self.count, None], self.before[: self.count, None]
        columns = self.columns[: self.apart + self.width]
        mask = (columns <= places) & (columns >= -before)
        seen = None if self.model.attention.window is None else columns + before
        given = self.tokens[: self.count, None]
        hidden = self.model.run(given, self.cache, mask[:, None, None], before + places, seen)
        self.lengths[: self.count] += 1
        places += 1
        return hidden[:, -1]

    def leave(self, slot: int) -> None:
        """Free a slot: the last row moves into it."""
        last = self.count - 1
        if slot < last:
            length = int(self.lengths[last])
            for layer in self.layers:
                for part in (layer.keys, layer.values):
                    part[slot, :, :length] = part[last, :, :length]
            for counts in (self.lengths, self.places, self.before, self.tokens):
                counts[slot] = counts[last]
        self.count = last

    @property
    def width(self) -> int:
        """Columns of the longest row, including the token being run."""
        return int(self.lengths[: self.count].max()) + 1

    def _make_room(self, width: int) -> None:
        if width > self.room:
            self.room = -(-width // _COLUMNS) * _COLUMNS
            self.columns = torch.arange(-self.apart, self.room, device=self.model.device)
            for layer in self.layers:
                layer.widen(self.room)


class _Entering(AfterPrefix):
    """One layer of rows that enter, whose own keys and values are kept."""

    own: Pair

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> Pair:
        self.own = keys, values
        return super().update(keys, values)


class _SlotLayer(DynamicLayer):
    """One layer's keys and values [slots, heads, room, width], which transformers' models write through `update`."""

    own: Pair

    def __init__(self, slots: _Slots, prefix: Pair) -> None:
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
        slots, count = self.slots, self.slots.count
        at = (slots.order[:count], slice(None), slots.places[:count])
        self.keys[at], self.values[at] = keys[:, :, 0], values[:, :, 0]
        self.own = self.keys[:count, :, : slots.width], self.values[:count, :, : slots.width]
        return self.own


def draw(logits: torch.Tensor, rows: Sequence[_Row], sampling: Sampling) -> torch.Tensor:
    """[rows] the next token of each row from logits [rows, vocabulary], as `Sampling` says; -1 where the logits are no
    numbers."""
    if sampling.temperature == 0 and sampling.repetition_penalty == 1:
        likeliest = logits.max(-1)  # several times as fast as argmax
        return torch.where(likeliest.values.isfinite(), likeliest.indices, -1)
    logits = logits.float()
    drawn = _drawn(logits, rows, sampling)
    return torch.where(logits.amax(-1).isfinite(), drawn, -1)


def _drawn(logits: torch.Tensor, rows: Sequence[_Row], sampling: Sampling) -> torch.Tensor:
    if sampling.repetition_penalty != 1:
        logits = _penalised(logits, [row.generated for row in rows], sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.max(-1).indices
    scaled = logits / sampling.temperature
    if sampling.top_p < 1:
        scaled = _nucleus(scaled, sampling.top_p)
    if sampling.min_p > 0:
        least = scaled.amax(-1, keepdim=True) + math.log(sampling.min_p)
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    return _gumbel_max(scaled, rows)


def _gumbel_max(scaled: torch.Tensor, rows: Sequence[_Row]) -> torch.Tensor:
    """A token of each row by `rir_mlx.backends.noise`; `scaled` [rows, vocabulary] are logits, -inf where excluded."""
    count, vocabulary = scaled.shape
    blocks, width = blocks_of(vocabulary)
    noise = torch.from_numpy(np.stack([row.next_noise(vocabulary) for row in rows])).to(scaled.device)
    padded = torch.nn.functional.pad(scaled, (0, blocks * width - vocabulary), value=-torch.inf)
    cut = padded.view(count, blocks, width)
    block = (cut.logsumexp(-1) + noise[:, :blocks]).argmax(-1)
    inside = cut[torch.arange(count, device=scaled.device), block] + noise[:, blocks:]
    return block * width + inside.argmax(-1)


def _checked(token: int) -> int:
    if token < 0:
        raise Failure("The model's logits are not finite.", hint="Set dtype to float32 or bfloat16.")
    return token


def _penalised(logits: torch.Tensor, generated: Sequence[Sequence[int]], penalty: float) -> torch.Tensor:
    if not any(generated):
        return logits
    longest = max(len(tokens) for tokens in generated)
    # A row is padded with its own first token, so that no place gets two values.
    index = np.array([[*tokens, *([tokens[0] if tokens else 0] * (longest - len(tokens)))] for tokens in generated])
    real = np.array([[bool(tokens)] for tokens in generated])
    places, any_written = (torch.as_tensor(array, device=logits.device) for array in (index, real))
    values = logits.gather(1, places)
    penalised = torch.where(values > 0, values / penalty, values * penalty)
    return logits.scatter(1, places, torch.where(any_written, penalised, values))


def _nucleus(scaled: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the logits of the likeliest tokens that make up the mass `top_p`; all others become -inf."""
    total = scaled.logsumexp(-1, keepdim=True)
    top = scaled.topk(min(_LIKELIEST, scaled.shape[-1]), -1).values
    if bool(((top - total).exp().sum(-1) < top_p).any()):
        top = scaled.sort(-1, descending=True).values
    mass = (top - total).exp()
    inside = (mass.cumsum(-1) - mass < top_p).sum(-1, keepdim=True)
    return scaled.masked_fill(scaled < top.gather(1, (inside - 1).clamp(min=0)), -torch.inf)  # 0 inside: no numbers
