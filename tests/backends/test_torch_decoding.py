"""What a token of a batch costs beside the model's own work in PyTorch: reads that wait for the device, and uploads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Request, Sampling
from rir_mlx.errors import Failure

pytest.importorskip("peft")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow
OVERRIDES = pytest.importorskip("torch.overrides")
READS = {"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero"}
UPLOADS = {"tensor", "as_tensor", "from_numpy"}
ROWS, TOKENS = 3, 6


class _Seen(OVERRIDES.TorchFunctionMode):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    def __torch_function__(self, call: Callable[..., Any], _: Any, given: Any = (), named: Any = None) -> Any:
        self.calls[getattr(call, "__name__", "")] += 1
        return call(*given, **named or {})


def test_a_step_reads_its_tokens_once_and_sends_nothing_while_no_row_enters_or_leaves(tiny: Path) -> None:
    """Each step sent tokens and lengths, and waited twice for the device: on a GPU that takes longer than a small
    model's step."""
    model, seen, after = open_backend("torch").load(tiny, dtype="float32"), _Seen(), list[Counter[str]]()
    requests = [Request(row, (5 + row, 9, 7)) for row in range(ROWS)]
    sampling = Sampling(max_tokens=TOKENS, batch_size=ROWS)

    def on_token(key: int, _: int) -> None:
        if key == ROWS - 1:  # the last row of a step
            after.append(Counter(seen.calls))

    with seen:
        assert len(list(model.generate(requests, sampling, prefix=(1, 2, 3), on_token=on_token))) == ROWS
    steps = [later - earlier for earlier, later in pairwise(after)]
    assert len(steps) == TOKENS - 1
    assert UPLOADS & after[0].keys(), "rows that enter are sent"
    for calls in steps:
        assert {name: count for name, count in calls.items() if name in READS} == {"tolist": 1}
        assert not UPLOADS & calls.keys()


@pytest.mark.parametrize("named", [{}, {"temperature": 0.8, "top_p": 0.9}, {"repetition_penalty": 1.2}])
def test_logits_that_are_no_numbers_end_a_generation_whatever_draws_from_them(
    tiny: Path, named: dict[str, float]
) -> None:
    model = open_backend("torch").load(tiny, dtype="float32")
    with torch.no_grad():
        model.lm_head.weight[17] = np.nan
    with pytest.raises(Failure, match="not finite"):
        list(model.generate([Request(0, (5, 9))], Sampling(max_tokens=3, **named)))
