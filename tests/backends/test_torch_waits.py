"""That a GPU and the host do not wait for each other in a generation, rehearsed without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_torch_decoding import _Seen, written

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Request, Sampling

pytest.importorskip("peft")
torch = pytest.importorskip("torch")
dispatch = pytest.importorskip("torch.utils._python_dispatch")
pytree = pytest.importorskip("torch.utils._pytree")
pytestmark = pytest.mark.slow
APART = ("transfers", "decoding.drawing", "decoding.generation")
"""The modules that ask whether the device works on while the host does something else."""


def set_apart(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    for module in APART:
        monkeypatch.setattr(f"rir_mlx.backends.torch.{module}.apart", lambda device: answer and device.type != "cuda")
    monkeypatch.setattr("torch.Tensor.pin_memory", lambda tensor: tensor)  # needs a GPU


class Uploads(dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """Counts what goes from a processor to a device that holds no numbers, where nothing can be read. What waits is
    listed: it was not pinned, or waited for."""

    def __init__(self, pinned: Sequence[Any]) -> None:
        super().__init__()
        self.pinned, self.waiting, self.count = pinned, list[str](), 0

    def __torch_dispatch__(self, call: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        out = call(*given, **named or {})
        tensors = [leaf for leaf in pytree.tree_leaves((given, named)) if isinstance(leaf, torch.Tensor)]
        host = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.ndim]
        if host and isinstance(out, torch.Tensor) and out.device.type == "meta":
            self.count += 1
            if not any(host[0] is tensor for tensor in self.pinned) or not (named or {}).get("non_blocking"):
                self.waiting.append(f"{call} of {tuple(host[0].shape)}")
        return out


class Unread:
    """Stands in for `Arriving` where there are no numbers: token 1 of each row, and the likeliest suffice."""

    def __init__(self, tensor: Any) -> None:
        self.rows = len(tensor) if tensor.ndim else 0

    def read(self) -> Any:
        return [1] * self.rows


def on_meta(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Uploads]:
    """A model on PyTorch's `meta` device, as if that worked apart, and what watches its uploads."""
    model: Any = open_backend("torch").load(folder, dtype="float32")
    for part in model.model.modules():
        for name, weight in part.named_parameters(recurse=False):
            setattr(part, name, torch.nn.Parameter(weight.to("meta"), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to("meta"))
    model.device, pinned = torch.device("meta"), list[Any]()
    set_apart(monkeypatch, True)
    monkeypatch.setattr("torch.Tensor.pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    return model, Uploads(pinned)


@pytest.mark.parametrize(
    "named", [{}, {"temperature": 0.8}, {"temperature": 0.8, "top_p": 0.9, "min_p": 0.1}, {"repetition_penalty": 1.2}]
)
@pytest.mark.parametrize("prefix", [(), (1, 2, 3)])
def test_a_generation_reads_nothing_but_its_tokens_and_sends_nothing_that_waits(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, float], prefix: tuple[int, ...]
) -> None:
    """PyTorch's `meta` device has shapes alone: what asks for a number there is an error. Rows
    that entered or left, which in a large batch is nearly each step, sent their places from memory that was not
    pinned, so that the host waited for all that the GPU had to do; with a repetition penalty, each step did."""
    model, uploads = on_meta(tiny, monkeypatch)
    for module in ("drawing", "generation"):
        monkeypatch.setattr(f"rir_mlx.backends.torch.decoding.{module}.Arriving", Unread)

    requests = [Request(row, (5 + row, 9, 7), row, 2 + row % 4) for row in range(9)]
    with uploads:
        done = list(model.generate(requests, Sampling(batch_size=4, **named), prefix=prefix))
    assert sorted(completion.key for completion in done) == list(range(9))
    assert uploads.count > 10
    assert not uploads.waiting


@pytest.mark.parametrize("mass", [True, False])
def test_scoring_sends_nothing_that_waits_until_it_reads(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, mass: bool
) -> None:
    """Without the mass, the rows' indices were made by the host, and sent behind the whole forward pass."""
    model, uploads = on_meta(tiny, monkeypatch)
    with uploads, pytest.raises(NotImplementedError, match="no data"):
        model.score([(5, 9), (6, 9, 7)], [(8, 2), (8, 4, 2)], prefix=(1, 2, 3), mass=mass)
    assert uploads.count > 5
    assert not uploads.waiting


def logits_of(spread: Sequence[float]) -> Any:
    """[rows, 2000], of which 256 hold 90 % where the spread is 3, and not where it is 0.1."""
    noise = torch.randn(len(spread), 2000, generator=torch.Generator().manual_seed(3))
    return noise * torch.tensor(spread)[:, None]


@pytest.mark.parametrize("min_p", [0.0, 0.05])
@pytest.mark.parametrize("spread", [(3.0, 4.0, 6.0), (0.1, 0.3, 0.2), (3.0, 0.1, 6.0)])
def test_a_token_that_is_drawn_before_it_is_known_whether_256_suffice_is_the_same(
    monkeypatch: pytest.MonkeyPatch, spread: tuple[float, ...], min_p: float
) -> None:
    """A GPU had nothing to do while the host waited for the answer: the draw came after it."""
    from rir_mlx.backends.torch.decoding import drawing

    order, gumbel_max = list[str](), drawing._gumbel_max

    class Watched(drawing.Arriving):
        def read(self) -> Any:
            order.append("read")
            return super().read()

    monkeypatch.setattr(drawing, "Arriving", Watched)
    monkeypatch.setattr(drawing, "_gumbel_max", lambda *given: order.append("draw") or gumbel_max(*given))
    sampling, found, orders = Sampling(temperature=1.0, top_p=0.9, min_p=min_p), list[Any](), list[list[str]]()
    for apart in (False, True):
        set_apart(monkeypatch, apart)
        for seed in range(40):
            order.clear()
            rows = [drawing.Row(Request(row, (1,), seed), 9) for row in range(3)]
            found.append(drawing.draw(logits_of(spread), rows, sampling))
        orders.append(list(order))
    assert torch.equal(torch.stack(found[:40]), torch.stack(found[40:]))
    assert len(torch.stack(found).unique()) > 9
    suffice = min(spread) > 1
    assert orders == [["read", "draw"], ["draw", "read"] if suffice else ["draw", "read", "draw"]]


def test_texts_with_top_p_are_the_same_where_the_device_works_apart(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_backend("torch").load(tiny, dtype="float32")
    for top_p in (0.5, 0.97):
        sampling, texts = Sampling(temperature=1.0, top_p=top_p, batch_size=5), list[Any]()
        for apart in (False, True):
            set_apart(monkeypatch, apart)
            texts.append(written(model, sampling, 23))
        assert texts[0] == texts[1]


def test_a_step_with_top_p_reads_twice(tiny: Path) -> None:
    model, seen = open_backend("torch").load(tiny, dtype="float32"), _Seen()
    with seen:
        list(model.generate([Request(0, (5, 9))], Sampling(max_tokens=4, temperature=0.8, top_p=0.9)))
    assert (seen.calls["tolist"], seen.calls["__bool__"]) == (8, 0)


def test_a_penalty_is_for_what_each_row_has_written_while_rows_enter_and_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host had to read the tokens before the next step began, and sent all of them back in each."""
    from rir_mlx.backends.torch.decoding import penalty

    monkeypatch.setattr(penalty, "_COLUMNS", 4)
    kept, rows, random = penalty.Written(6, torch.device("cpu")), list[list[int]](), np.random.default_rng(0)
    for step in range(60):
        rows += [[] for _ in range(6 - len(rows) if step % 3 == 0 else 0)]
        counts = [len(row) for row in rows]
        logits = torch.from_numpy(random.normal(0, 2, (len(rows), 9)).astype(np.float32))
        expected = logits.clone()
        for place, row in enumerate(rows):
            for token in set(row):
                value = logits[place, token]
                expected[place, token] = value / 1.5 if value > 0 else value * 1.5
        assert torch.equal(kept.penalised(logits, counts, 1.5), expected)
        drawn = random.integers(0, 9, len(rows))
        kept.add(torch.from_numpy(drawn), counts)
        for row, token in zip(rows, drawn, strict=True):
            row.append(int(token))
        if step > 20 and len(rows) > 1:  # until then rows grow over several widths
            gone = int(random.integers(len(rows)))
            moves = [(len(rows) - 1, gone)] if gone < len(rows) - 1 else []
            rows[gone] = rows[-1]
            kept.move(moves)
            rows.pop()
