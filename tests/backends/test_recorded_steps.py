"""Decoding steps that are recorded and replayed, rehearsed on a processor: a tape of the operations on the memory that
they touched, as a CUDA graph is one."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import make_family
from test_torch_decoding import written

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Request, Sampling

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytestmark = pytest.mark.slow
pytree = pytest.importorskip("torch.utils._pytree")
dispatch = pytest.importorskip("torch.utils._python_dispatch")
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh", "lift_fresh_copy", "_pin_memory")
"""Operations that wait for a GPU, or send it what the host made."""
PREFIX = tuple(range(3, 40))


class Tape(dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """All operations of a step. One that waits for the device cannot stand in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, call: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        if call.overloadpacket.__name__ in WAITS:
            raise RuntimeError(f"{call} waits for the device")
        out = call(*given, **named or {})
        self.played.append((call, given, named or {}, out))
        return out

    def play(self, wanted: Any) -> Any:
        """The operations once more; `wanted` is a tensor of the recording."""
        made: dict[int, Any] = {}

        def now(value: Any) -> Any:
            return made.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for call, given, named, recorded in self.played:
            out = call(*pytree.tree_map(now, given), **pytree.tree_map(now, named))
            for before, after in zip(pytree.tree_leaves(recorded), pytree.tree_leaves(out), strict=True):
                made[id(before)] = after
        return made[id(wanted)]


class Rehearsal:
    """Stands in for `cuda_graph`; counts recordings and replays."""

    def __init__(self) -> None:
        self.shapes, self.replays = list[tuple[int, ...]](), 0

    def __call__(self, step: Callable[[], Any], _: Any) -> Callable[[], Any]:
        step()
        with Tape() as tape:
            hidden = step()
        self.shapes.append(tuple(hidden.shape))

        def replay() -> Any:
            self.replays += 1
            return tape.play(hidden)

        return replay


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape is recorded at its third step."""
    monkeypatch.setattr("rir_mlx.backends.torch.decoding.recording._AT_FIRST", 2)


class Made:
    """The slots of all generations in their order, and their layers, as far as they are alive."""

    def __init__(self) -> None:
        self.slots: list[weakref.ref[Any]] = []
        self.layers: weakref.WeakSet[Any] = weakref.WeakSet()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    from rir_mlx.backends.torch.decoding import generation

    made = Made()

    class Slots(generation.Slots):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            made.slots.append(weakref.ref(self))
            made.layers.update(self.layers)

    monkeypatch.setattr(generation, "Slots", Slots)
    return made


@pytest.fixture
def model(tiny: Path) -> Any:
    return open_backend("torch").load(tiny, dtype="float32")


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("size", [6, 20])
def test_replayed_steps_write_what_steps_that_are_launched_write(model: Any, size: int, temperature: float) -> None:
    """Rows enter and leave, also without the prefix, slots run along that no row holds, and 20 share the prefix."""
    sampling = Sampling(temperature=temperature, batch_size=size)
    expected = written(model, sampling, 61, PREFIX)
    model.record = rehearsal = Rehearsal()
    assert written(model, sampling, 61, PREFIX) == expected
    assert {rows for rows, _ in rehearsal.shapes} >= {size, 4 if size == 6 else 16}
    assert rehearsal.replays > 10
    assert model.record is rehearsal


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "qwen3"])
def test_windows_move_on_in_a_replayed_step(family: str, tmp_path: Path) -> None:
    """Where a row's window begins depends on its length."""
    model: Any = open_backend("torch").load(make_family(tmp_path / family, family), dtype="float32")
    requests = [Request(row, (5 + row, 9)[: 1 + row % 2]) for row in range(5)]
    assert model.attention.window is None or model.attention.window < 30
    texts = []
    for model.record in (None, rehearsal := Rehearsal()):
        texts.append({done.key: done.tokens for done in model.generate(requests, Sampling(30, batch_size=4))})
    assert texts[0] == texts[1]
    assert rehearsal.replays > 5


@pytest.mark.usefixtures("soon")
def test_recordings_go_when_their_memory_does(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that grow are new buffers: a recording of the old ones would write into nothing."""
    monkeypatch.setattr("rir_mlx.backends.torch.decoding.slots._COLUMNS", 4)
    expected = written(model, Sampling(batch_size=5), 30, PREFIX)
    model.record = rehearsal = Rehearsal()
    assert written(model, Sampling(batch_size=5), 30, PREFIX) == expected
    assert len(rehearsal.shapes) > len(set(rehearsal.shapes)) > 1


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("replay", "told"),
    [(lambda hidden: hidden + 9, "differs"), (lambda hidden: hidden * float("nan"), "differs")],
)
def test_a_replay_that_differs_is_not_used(model: Any, replay: Callable[[Any], Any], told: str) -> None:
    expected = written(model, Sampling(batch_size=5), 30, PREFIX)
    model.record = lambda step, _: lambda: replay(step())
    with pytest.warns(RuntimeWarning, match=told):
        assert written(model, Sampling(batch_size=5), 30, PREFIX) == expected
    assert model.record is None


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("what", ["keys", "a column", "tokens"])
def test_a_replay_that_spoils_the_memory_of_rows_or_keeps_old_tokens_changes_no_text(
    model: Any, made: Made, what: str
) -> None:
    """The replay that was refused ran last, and left its keys. One with the recording's tokens was taken where rows
    repeat theirs."""

    def record(step: Callable[[], Any], _: Any) -> Callable[[], Any]:
        slots: Any = made.slots[-1]()
        then = slots.tokens.clone()

        def replay() -> Any:
            if what == "tokens":
                now, slots.tokens[:] = slots.tokens.clone(), then
                hidden = step()
                slots.tokens[:] = now
                return hidden
            hidden, layer = step(), slots.layers[0]
            if what == "keys":
                layer.keys.fill_(float("nan"))
            else:
                layer.values[:, :, 0] = 7.0
            return hidden

        return replay

    expected = written(model, Sampling(batch_size=5), 30, PREFIX)
    model.record = record
    with pytest.warns(RuntimeWarning, match="differs"):
        assert written(model, Sampling(batch_size=5), 30, PREFIX) == expected


@pytest.mark.usefixtures("soon")
def test_a_generation_lets_go_of_its_recordings(model: Any, made: Made) -> None:
    """Slots and recordings refer to each other: they stayed until garbage was collected, with a GPU's memory."""
    model.record = Rehearsal()
    gc.collect()
    gc.disable()
    try:
        written(model, Sampling(batch_size=5), 30, PREFIX)
        assert made.slots
        assert not any(slots() for slots in made.slots)
        assert not any(layer.is_initialized and layer.keys is not None for layer in made.layers)
    finally:
        gc.enable()


@pytest.mark.usefixtures("soon")
def test_no_memory_for_a_recording_costs_one_generation_its_recordings(model: Any) -> None:
    expected = written(model, Sampling(batch_size=5), 30, PREFIX)

    def record(step: Any, _: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.record = record
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert written(model, Sampling(batch_size=5), 30, PREFIX) == expected
    assert model.record is record


@pytest.mark.usefixtures("soon")
def test_a_number_that_the_host_knew_when_it_recorded_is_found_out(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay repeats it: here the places of the next tokens."""
    from rir_mlx.backends.torch.decoding import generation

    class Slots(generation.Slots):
        def _run(self, rows: int, width: int) -> Any:
            for row, length in enumerate(self.lengths[:rows].tolist()):
                self.places[row].fill_(length)
            return super()._run(rows, width)

    monkeypatch.setattr(generation, "Slots", Slots)
    expected = written(model, Sampling(batch_size=5), 30, PREFIX)
    model.record = Rehearsal()
    with pytest.warns(RuntimeWarning, match="differs"):
        assert written(model, Sampling(batch_size=5), 30, PREFIX) == expected


@pytest.mark.usefixtures("soon")
def test_a_step_that_cannot_be_recorded_is_launched_and_that_is_said_once(model: Any) -> None:
    expected = written(model, Sampling(batch_size=5), 30, PREFIX)

    def record(step: Any, _: Any) -> Any:
        raise RuntimeError("called a synchronizing CUDA operation\nand more")

    model.record = record
    with pytest.warns(RuntimeWarning, match=r"one by one.*: called a synchronizing CUDA operation\.$") as told:
        assert written(model, Sampling(batch_size=5), 30, PREFIX) == expected
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert written(model, Sampling(batch_size=5), 30, PREFIX) == expected


def test_few_steps_of_a_shape_are_not_recorded(model: Any) -> None:
    model.record = rehearsal = Rehearsal()
    written(model, Sampling(max_tokens=6, batch_size=5), 5, PREFIX)
    assert not rehearsal.shapes


def test_steps_are_recorded_on_cuda_alone_and_not_where_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from rir_mlx.backends.torch.decoding.recording import cuda_graph, recording_of

    cuda = torch.device("cuda")
    assert recording_of(torch.device("cpu")) is None
    assert recording_of(cuda) is cuda_graph
    monkeypatch.setenv("RIR_RECORD_STEPS", "0")
    assert recording_of(cuda) is None
