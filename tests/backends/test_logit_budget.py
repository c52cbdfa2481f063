"""Positions that are projected together follow a budget of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from rir_mlx.backends import open_backend
from rir_mlx.backends.limits.logits import LOGIT_BYTES, head_rows


@pytest.mark.parametrize("vocabulary", [1, 400, 32_000, 49_152, 128_256, 151_936, 256_000, 262_144, 10**8])
@pytest.mark.parametrize("gpu", [False, True])
def test_the_logits_of_the_positions_that_are_projected_together_fit_into_the_budget(
    vocabulary: int, gpu: bool
) -> None:
    rows, budget = head_rows(vocabulary, gpu=gpu), LOGIT_BYTES * (4 if gpu else 1)
    assert rows <= (1024 if gpu else 256)
    assert rows * vocabulary * 4 <= budget or rows == (4 if gpu else 1)
    assert rows == (1024 if gpu else 256) or 2 * rows * vocabulary * 4 > budget


def test_llama_keeps_256_positions_and_gemma_halves_them() -> None:
    """With 256 positions of Gemma's words, a part of the logits would take twice as much as of Llama's."""
    assert (head_rows(128_256), head_rows(262_144)) == (256, 128)


def test_mlx_projects_more_together_on_cuda_and_not_where_the_memory_is_the_processors(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = pytest.importorskip("rir_mlx.backends.mlx.forward")
    model = open_backend("mlx").load(tiny, dtype="float32")
    assert model.head_rows == 256
    monkeypatch.setattr(forward, "has_accelerator", lambda: True)
    assert model.head_rows == (256 if forward.mx.metal.is_available() else 1024)
    monkeypatch.setattr(forward.mx.metal, "is_available", lambda: True)
    assert model.head_rows == 256
