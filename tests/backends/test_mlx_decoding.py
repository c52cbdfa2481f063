"""What mlx-lm's generator keeps and waits for as it is used here."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from families import VOCABULARY, WINDOW, make_family

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Request, Sampling

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("torch")  # makes the families
pytestmark = pytest.mark.slow
LAYERS, KEY_HEADS, WIDTH = 3, 2, 16
"""Of the tiny Gemma 3, whose second layer alone sees everything."""


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_backend("mlx").load(make_family(tmp_path_factory.mktemp("gemma") / "3", "gemma3"), dtype="float32")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_layers_with_a_window_keep_no_more_than_it(
    gemma: Any, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """They kept every token. And drawn rows beside one without the prefix ended with an AttributeError, because two
    kinds of mlx-lm's caches do not merge."""
    from rir_mlx.backends.mlx import generation

    kept = list[list[int]]()

    class Watched(generation.BatchGenerator):
        def next_generated(self) -> Any:
            done = super().next_generated()
            kept.append([cache.nbytes for cache in self._generation_batch.prompt_cache])
            return done

    rng = np.random.default_rng(1)
    prefix, *rows = (tuple(rng.integers(3, VOCABULARY, length).tolist()) for length in (40, 15, 4, 30, 2, 18))
    sampling = Sampling(18, batch_size=4, temperature=temperature)
    expected = {}
    for key, row in enumerate(rows):
        alone = Request(key, row if key == 0 else prefix + row, key, 4 + 7 * (key % 3))
        expected[key] = next(iter(gemma.generate([alone], sampling))).tokens
    monkeypatch.setattr(generation, "BatchGenerator", Watched)
    requests = [Request(key, row, key, 4 + 7 * (key % 3), whole=key == 0) for key, row in enumerate(rows)]
    found = {done.key: done.tokens for done in gemma.generate(requests, sampling, prefix=prefix)}
    assert found == expected
    column = 4 * 2 * KEY_HEADS * WIDTH * 4  # of 4 rows
    most = [max(sizes) for sizes in zip(*(each for each in kept if each), strict=True)]
    assert len(most) == LAYERS
    assert most[1] >= (len(prefix) + max(map(len, rows)) + 4) * column
    # Rows that enter hold what the window of their first own token sees, beside all of their own.
    assert max(most[0], most[2]) <= (WINDOW + max(map(len, rows))) * column


def test_a_step_is_launched_before_the_tokens_of_the_one_before_are_read(
    gemma: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a GPU always has work. One wait a step, for what was launched a step earlier."""
    events = list[tuple[str, Any]]()
    for name in ("async_eval", "eval"):
        real = getattr(mx, name)

        def seen(*given: Any, name: str = name, real: Any = real) -> Any:
            events.append((name, given[0]))
            return real(*given)

        monkeypatch.setattr(mx, name, seen)

    def on_token(key: int, _: int) -> None:
        if key == 2:
            events.append(("token", None))

    requests = [Request(key, (5 + key, 9, 7)) for key in range(3)]
    list(gemma.generate(requests, Sampling(8, batch_size=12), prefix=(3, 4, 5), on_token=on_token))
    ends = [place for place, (name, _) in enumerate(events) if name == "token"]
    assert len(ends) == 8
    steps = [events[start + 1 : end] for start, end in pairwise(ends[:-1])]  # rows leave in the last one
    for earlier, later in pairwise(steps):
        assert [name for name, _ in later] == ["async_eval", "eval"]
        assert later[1][1] is earlier[0][1], "it waits for the step before"
