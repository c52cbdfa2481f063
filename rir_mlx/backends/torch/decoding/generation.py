"""Generation with a PyTorch model in a continuous batch: a row enters as another leaves.

Each row has a slot in the keys and values, starting at column 0, and its own length. So rows at any step go through the
model together, and nothing is moved to make room for padding. Many rows share one copy of their prefix's keys and
values. Tokens and lengths stay on the device; a step reads its tokens once, on a GPU after the next step was launched,
and, where no row enters or leaves, sends nothing. A GPU replays steps that were recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from rir_mlx.backends.base import Completion, OnToken, Request, Sampling, Tokens, stop_length, take, unstopped
from rir_mlx.backends.torch.decoding.drawing import Row, draw
from rir_mlx.backends.torch.decoding.penalty import Written
from rir_mlx.backends.torch.decoding.slots import Slots
from rir_mlx.backends.torch.forward import TorchForward
from rir_mlx.backends.torch.transfers import Arriving, apart
from rir_mlx.errors import Failure


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
    slots: Slots | None = None
    rows: list[Row] = []
    unread: list[_Step] = []
    late = steps_unread(model.device)
    written = Written(sampling.batch_size, model.device) if sampling.repetition_penalty != 1 else None
    together = max(1, sampling.batch_size // 4)  # rows that enter together; a single row takes as long as a step
    exhausted = False
    try:
        while rows or unread or not exhausted:
            fresh: list[Row] = []
            if not exhausted and sampling.batch_size - len(rows) >= (together if rows else 1):
                taken, exhausted = take(source, sampling.batch_size - len(rows))
                taken.sort(key=lambda request: request.whole)
                for request in taken:
                    before = 0 if request.whole else len(prefix)
                    model.check_length(before + len(request.tokens) + request.limit(sampling))
                fresh = [Row(request, request.limit(sampling)) for request in taken]
            if rows or fresh:
                following = sum(not row.request.whole for row in fresh)
                slots = slots or Slots(model, prefix, sampling.batch_size, following)
                hidden = [slots.step()] if rows else []
                for whole in (False, True):
                    entering = [row.request.tokens for row in fresh if row.request.whole == whole]
                    hidden += [slots.enter(entering, whole=whole)] if entering else []
                rows += fresh
                drawn = draw(model.logits_of(torch.cat(hidden)), rows, sampling, written)
                slots.tokens[: len(rows)] = drawn.clamp(min=0)  # a token that is none is told once it is read
                if written:
                    written.add(slots.tokens[: len(rows)], [row.drawn for row in rows])
                unread.append(_Step(drawn, list(rows)))
                for row in rows:
                    row.drawn += 1
            while len(unread) > (late if rows else 0):
                yield from unread.pop(0).read(sampling, on_token)
            if slots:
                gone = [slot for slot, row in enumerate(rows) if row.done or row.drawn >= row.limit]
                moves = slots.leave(gone)
                for last, free in moves:
                    rows[free] = rows[last]
                if written:
                    written.move(moves)
                del rows[len(rows) - len(gone) :]
    finally:
        if slots:
            slots.close()


def steps_unread(device: torch.device) -> int:
    """Steps that are launched before the tokens of an earlier one are read. A GPU then does not wait for the host; the
    host waits for a part of the step where `top_p` asks whether the likeliest tokens suffice. A row that has stopped
    runs along for one step more, which is discarded. A processor has nothing to wait for."""
    return 1 if apart(device) else 0


class _Step:
    """The tokens that a step drew for rows, on their way to the host."""

    def __init__(self, drawn: torch.Tensor, rows: list[Row]) -> None:
        self.rows, self.tokens = rows, Arriving(drawn)

    def read(self, sampling: Sampling, on_token: OnToken | None) -> Iterator[Completion]:
        """Wait for the tokens; yields the rows that they complete."""
        for row, token in zip(self.rows, self.tokens.read(), strict=True):
            if row.done:
                continue
            row.generated.append(_checked(token))
            if on_token is not None:
                on_token(row.request.key, token)
            row.done = bool(stop_length(row.generated, sampling.stop)) or len(row.generated) >= row.limit
            if row.done:
                yield Completion(row.request.key, *unstopped(row.generated, sampling.stop))


def _checked(token: int) -> int:
    if token < 0:
        raise Failure("The model's logits are not finite.", hint="Set dtype to float32 or bfloat16.")
    return token
