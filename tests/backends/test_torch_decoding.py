"""What a token of a batch costs beside the model's own work in PyTorch: reads that wait for the device, and uploads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Batch, Completion, Request, Sampling
from rir_mlx.errors import Failure, ModelError

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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_step_reads_its_tokens_once_and_sends_nothing_but_seeds_while_no_row_enters_or_leaves(
    tiny: Path, temperature: float
) -> None:
    """Each step sent tokens and lengths, and waited twice for the device: on a GPU that takes longer than a small
    model's step. A draw's noise was made by the host."""
    model, seen, after = open_backend("torch").load(tiny, dtype="float32"), _Seen(), list[Counter[str]]()
    requests = [Request(row, (5 + row, 9, 7)) for row in range(ROWS)]
    sampling = Sampling(max_tokens=TOKENS, batch_size=ROWS, temperature=temperature)

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
        assert sum(calls[name] for name in UPLOADS) == (1 if temperature else 0)


@pytest.mark.parametrize("named", [{}, {"temperature": 0.8, "top_p": 0.9}, {"repetition_penalty": 1.2}])
@pytest.mark.parametrize("late", [0, 1])
def test_logits_that_are_no_numbers_end_a_generation_whatever_draws_from_them(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, float], late: int
) -> None:
    """Also where the next step runs before the token is read, as on a GPU."""
    monkeypatch.setattr("rir_mlx.backends.torch.decoding.generation.steps_unread", lambda *_: late)
    model = open_backend("torch").load(tiny, dtype="float32")
    with torch.no_grad():
        model.lm_head.weight[17] = np.nan
    with pytest.raises(Failure, match="not finite"):
        list(model.generate([Request(0, (5, 9))], Sampling(max_tokens=3, **named)))


def written(model: Any, sampling: Sampling, rows: int, prefix: tuple[int, ...] = (1, 2, 3)) -> list[Completion]:
    """Rows of unlike lengths and limits, every fifth without the prefix."""
    requests = [
        Request(row, (5 + row % 80, 9, 7)[: 1 + row % 3], row, 4 + row % 9, whole=row % 5 == 4) for row in range(rows)
    ]
    done = list(model.generate(requests, sampling, prefix=prefix))
    return sorted(done, key=lambda completion: completion.key)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_step_that_is_read_after_the_next_was_launched_gives_the_same_texts(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, temperature: float, penalty: float
) -> None:
    """As on a GPU. A row whose stop is read late runs along for one step, whose token is discarded."""
    from rir_mlx.backends.torch.decoding import generation

    model, how = open_backend("torch").load(tiny, dtype="float32"), dict[str, Any]()
    how |= {"temperature": temperature, "repetition_penalty": penalty}
    endless = written(model, Sampling(batch_size=5, **how), 23)
    stops = (endless[5].tokens[2:3], endless[9].tokens[1:2])
    sampling = Sampling(batch_size=5, stop=stops, **how)
    expected, order = written(model, sampling, 23), list[str]()
    assert sum(done.finish_reason == "stop" for done in expected) >= 2

    class Watched(generation._Step):
        def __init__(self, *given: Any) -> None:
            order.append("launched")
            super().__init__(*given)

        def read(self, *given: Any) -> Any:
            order.append("read")
            return super().read(*given)

    monkeypatch.setattr(generation, "_Step", Watched)
    monkeypatch.setattr(generation, "steps_unread", lambda *_: 1)
    assert written(model, sampling, 23) == expected
    assert order.count("read") == order.count("launched")
    assert order[:5] == ["launched", "launched", "read", "launched", "read"]


def test_tokens_are_read_late_where_a_device_would_wait() -> None:
    from rir_mlx.backends.torch.decoding.generation import steps_unread

    cuda = torch.device("cuda")
    assert [steps_unread(device) for device in (torch.device("cpu"), cuda)] == [0, 1]


@pytest.mark.parametrize("slots", [32, 128])
def test_many_rows_keep_the_keys_and_values_of_their_prefix_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    from rir_mlx.backends.torch.decoding import generation

    model, prefix = open_backend("torch").load(tiny, dtype="float32"), tuple(range(3, 128))
    kept, texts = list[int](), list[list[Completion]]()

    class Watched(generation.Slots):
        def step(self) -> Any:
            kept.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers))
            return super().step()

    monkeypatch.setattr(generation, "Slots", Watched)
    for sharing in (16, slots + 1):
        monkeypatch.setattr("rir_mlx.backends.torch.forward._SHARING", sharing)
        texts.append(written(model, Sampling(batch_size=slots), slots, prefix))
    config = model.model.config  # type: ignore[attr-defined]
    token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert texts[0] == texts[1]
    assert (min(kept), max(kept)) == (slots * 64 * token, slots * 192 * token), "64 columns hold the rows' own tokens"


def test_a_family_that_was_not_compared_with_a_plain_pass_shares_no_prefix(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code may change keys or values between the cache and the attention, as DiffLlama's does."""
    model = open_backend("torch").load(tiny, dtype="float32")
    expected = written(model, Sampling(batch_size=20), 20)
    prefix = model.kept_prefix_cache((3, 4))  # type: ignore[attr-defined]
    assert model.sharing_rows(prefix) == 16  # type: ignore[attr-defined]
    monkeypatch.setattr("rir_mlx.backends.torch.forward.VERIFIED", {})
    assert model.sharing_rows(prefix) == math.inf  # type: ignore[attr-defined]
    assert written(model, Sampling(batch_size=20), 20) == expected


def test_rows_on_a_gpu_share_a_prefix_whose_copies_are_much_to_read(tiny: Path) -> None:
    """And only where more launches cost nothing."""
    model: Any = open_backend("torch").load(tiny, dtype="float32")
    prefix, weights = model.kept_prefix_cache((3, 4)), sum(part.nbytes for part in model.model.parameters())
    config = model.model.config
    copy = 2 * 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    model.device = SimpleNamespace(type="cuda")
    assert model.sharing_rows(prefix) == math.inf
    model.record = lambda step: step
    assert model.sharing_rows(prefix) == weights / 2 / copy
    model.shares = False
    assert model.sharing_rows(prefix) == math.inf


def test_rows_share_no_prefix_with_an_attention_that_does_not_know_it(tiny: Path) -> None:
    """transformers' own took the keys for all of them: on a GPU, whose models had it, every large batch ended in an
    error."""
    model: Any = open_backend("torch").load(tiny, dtype="float32")
    assert model.sharing_rows(model.kept_prefix_cache((3, 4))) == 16
    expected = written(model, Sampling(batch_size=20), 30)
    model.model.config._attn_implementation = "sdpa"
    assert written(model, Sampling(batch_size=20), 30) == expected


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_tokens_of_each_row_see_what_transformers_attention_sees(key_heads: int, tokens: int) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from rir_mlx.backends.torch.layers import attention

    torch.manual_seed(0)
    seen = tokens + 8
    query, key, value = torch.randn(5, 4, tokens, 8), *(torch.randn(5, key_heads, seen, 8) for _ in range(2))
    causal = torch.arange(seen) <= 3 + torch.arange(tokens)[:, None]
    mask = (causal & (torch.arange(seen) >= torch.arange(5)[:, None, None] - 1))[:, None]
    module = SimpleNamespace(num_key_value_groups=4 // key_heads, is_causal=True, training=False)
    heads, kernel = list[int](), torch.nn.functional.scaled_dot_product_attention
    with torch.inference_mode():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "torch.nn.functional.scaled_dot_product_attention",
                lambda query, key, *rest, **named: heads.append(key.shape[1]) or kernel(query, key, *rest, **named),
            )
            found, _ = attention._attention(module, query, key, value, mask, scaling=0.3)  # type: ignore[arg-type]
        expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    # With many tokens, a copy of the mask for each head is more than one of the keys.
    assert heads == [4 if tokens > 8 * key_heads else key_heads], "no key is copied for the heads that share it"


def test_what_a_step_learns_is_sent_before_any_layer_runs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload waits for what a GPU is doing: in the midst of a step that was the whole forward pass."""
    from rir_mlx.backends.torch.training import batch_loss

    model: Any = open_backend("torch").load(tiny, dtype="float32")
    seen, send, run = list[str](), model.tensor, model.run
    monkeypatch.setattr(model, "tensor", lambda array: seen.append(f"sent {array.shape}") or send(array))
    monkeypatch.setattr(model, "run", lambda *given, **named: seen.append("run") or run(*given, **named))
    batch = Batch((3, 4), np.array([[5, 9, 7]]), np.array([3]), np.array([[0.0, 1.0, 1.0]], np.float32))
    batch_loss(model, batch)
    assert seen == ["sent (1, 3)", *["sent (2,)"] * 3, "sent (1, 2)", "run", "run"], "the prefix, then the rows"


def test_rows_that_leave_together_are_replaced_in_one_copy_of_each_layer(tiny: Path) -> None:
    """Each took copies of its own: at 512 rows on a GPU some hundreds of launches in a step."""
    from rir_mlx.backends.torch.decoding.slots import Slots

    model: Any = open_backend("torch").load(tiny, dtype="float32")
    with torch.inference_mode():
        slots = Slots(model, (), 6, 0)
        slots.enter([(5 + row, 9, 7, 8)[: 1 + row % 4] for row in range(6)], whole=True)
        kept = [(layer.keys.clone(), slots.lengths.copy(), slots.places.clone()) for layer in slots.layers]
        with (seen := _Seen()):
            assert slots.leave([0, 3, 4]) == [(5, 0)]
        assert slots.leave([]) == []
        assert (slots.count, slots.lengths[:3].tolist()) == (3, [2, 2, 3])
        for layer, (keys, lengths, places) in zip(slots.layers, kept, strict=True):
            for slot, was in ((0, 5), (1, 1), (2, 2)):
                assert torch.equal(layer.keys[slot, :, : lengths[was]], keys[was, :, : lengths[was]])
                assert slots.places[slot] == places[was]
        with (more := _Seen()):
            assert slots.leave([0, 1]) == [(2, 0)]
        slots.close()
    assert seen.calls["__setitem__"] == more.calls["__setitem__"]


def test_keys_that_are_not_the_caches_are_refused_beside_a_prefix() -> None:
    from rir_mlx.backends.torch.layers import attention

    keys, values = torch.ones(9, 2, 3, 4), torch.ones(9, 2, 3, 4)
    layer = SimpleNamespace(prefix=(keys[:1], values[:1]), own=(keys, values))
    module, given = SimpleNamespace(layer_idx=0), {attention.PREFIX: [layer]}
    with pytest.raises(ModelError, match="changes keys or values"):
        attention._attention(module, torch.ones(9, 2, 1, 4), keys, values.clone(), None, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2), ("bfloat16 products", 3e-2)])
def test_attention_after_a_shared_prefix_is_that_of_the_joined_keys(
    key_heads: int, dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of unlike lengths; one of them does not see the prefix. A GPU multiplies in the model's number format."""
    from rir_mlx.backends.torch.layers.attention import _after_prefix, joined

    dtype, _, as_on_a_gpu = dtype.partition(" ")
    if as_on_a_gpu:
        monkeypatch.setattr("rir_mlx.backends.torch.layers.attention._product_dtype", lambda query: query.dtype)

    torch.manual_seed(0)
    rows, before, own, kind = 9, 7, 5, getattr(torch, dtype)
    query = torch.randn(rows, 4, 1, 8, dtype=kind)
    prefix = tuple(torch.randn(1, key_heads, before, 8, dtype=kind) for _ in range(2))
    pair = tuple(torch.randn(rows, key_heads, own, 8, dtype=kind) for _ in range(2))
    mask = torch.arange(-before, own) <= torch.arange(rows)[:, None] % own
    mask[3, :before] = False
    keys, values = (part.float().repeat_interleave(4 // key_heads, 1) for part in joined(prefix, *pair))
    scores = (0.3 * query.float() @ keys.mT).masked_fill(~mask[:, None, None], -torch.inf)
    with torch.autocast("cpu", torch.bfloat16):  # as around an adapter over 16 bits
        found = _after_prefix(query, prefix, pair, mask[:, None, None], (0.3, None))
    assert found.dtype == kind
    torch.testing.assert_close(found.float(), scores.softmax(-1) @ values, atol=tolerance, rtol=tolerance)
