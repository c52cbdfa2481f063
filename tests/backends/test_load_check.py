"""The check at load: rounding passes it, a fault does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Batch, Completion, Float32Array, Request, Tokens
from rir_mlx.backends.fake import FakeModel
from rir_mlx.backends.load_check import Checked, PassedChecks, check_forward
from rir_mlx.errors import ModelError

VOCABULARY = 50


class Compared(FakeModel):
    """Its own logits have something added to them, that a random generator of these tokens alone makes."""

    def __init__(self, added: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> None:
        super().__init__(VOCABULARY)
        self.table = np.random.default_rng(0).normal(size=self.table.shape)
        self.added = added

    def own_logits(self, tokens: Tokens) -> Float32Array:
        logits = self.logits(tokens)
        return (logits + self.added(np.random.default_rng(tokens), logits.shape)).astype(np.float32)

    def generate(self, requests: Iterable[Request | None], *_: object, prefix: Tokens = ()) -> Iterator[Completion]:  # type: ignore[override]
        for request in filter(None, requests):
            tokens = request.tokens
            for _step in range(2):
                tokens = (*tokens, int(self.logits((*prefix, *tokens))[-1].argmax()))
            yield Completion(request.key, tokens[-2:], "length")

    def training_loss(self, batch: Batch) -> float:
        return self.loss(batch)

    def window_of(self, tokens: int) -> AbstractContextManager[None]:
        return nullcontext()


def some_places(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """As rounding in 16 bits on a real model: a fifth of the places are off by the spread."""
    return rng.normal(size=shape) * (rng.random(shape[:1]) < 0.2)[:, None] + 0.01 * rng.normal(size=shape)


def every_place(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def no_numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(rng.random(shape[:1])[:, None] < 0.9, np.nan, 0.0)


class NotFinite(Compared):
    """One of its logits at the end of a row is no number, or infinite."""

    def __init__(self, value: float) -> None:
        super().__init__(lambda _rng, shape: np.zeros(shape))
        self.value = value

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        for logits in super().last_logits(rows, last, prefix=prefix):
            logits[-1, 0] = self.value
            yield logits


def check(model: Compared, dtype: str) -> None:
    check_forward(model, Checked("made", VOCABULARY, dtype))


def test_rounding_at_some_places_is_no_fault_of_16_bits() -> None:
    """A real Gemma 3 was refused in bfloat16, which was taken by itself on machines that are fast in it."""
    check(Compared(some_places), "bfloat16")
    check(Compared(some_places), "float16")
    with pytest.raises(ModelError, match="differ from its own forward pass"):
        check(Compared(some_places), "float32")


@pytest.mark.parametrize("dtype", ["float32", "tf32", "float16", "bfloat16"])
def test_what_is_off_at_every_place_is_a_fault(dtype: str) -> None:
    with pytest.raises(ModelError, match="differ from its own forward pass"):
        check(Compared(every_place), dtype)
    with pytest.raises(ModelError, match="not finite"):
        check(Compared(no_numbers), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_logit_that_is_no_number_is_a_fault(dtype: str, value: float) -> None:
    """The lower quartile of a row's places would not have seen it."""
    with pytest.raises(ModelError, match="shared prefix differ from its own forward pass by inf"):
        check(NotFinite(value), dtype)


@pytest.mark.slow
def test_a_float32_model_is_not_refused_where_pytorch_is_told_to_multiply_in_tf32(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment may say so (`TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1`). A GPU's products were taken for exact ones
    then, and their rounding for a wrong path."""
    torch = pytest.importorskip("torch")
    from rir_mlx.backends.torch import model

    cuda, cpu, told = torch.device("cuda"), torch.device("cpu"), list[str]()
    assert [model.multiplied_in(torch.float32, device) for device in (cuda, cpu)] == ["float32", "float32"]
    monkeypatch.setattr("torch.backends.cuda.matmul", SimpleNamespace(allow_tf32=True))
    assert [model.multiplied_in(torch.float32, device) for device in (cuda, cpu)] == ["tf32", "float32"]
    assert model.multiplied_in(torch.bfloat16, cuda) == "bfloat16"
    monkeypatch.setattr(model, "multiplied_in", lambda *_: "tf32")
    monkeypatch.setattr(model, "_CHECKS", PassedChecks())
    monkeypatch.setattr(model, "check_forward", lambda _, what: told.append(what.dtype))
    backend = open_backend("torch")
    backend.load(tiny, dtype="float32")
    assert told == ["tf32"]
    assert backend.facts().tf32
