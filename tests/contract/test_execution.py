"""How a step is computed changes nothing about what it computes; and its state makes it go on exactly."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sequences import (
    TYPES,
    assert_same_step,
    assert_same_tensors,
    draw,
    fresh,
    prepared,
    random_adapter,
    snapshot,
    some_examples,
    spec_of,
)
from tiny import make_tiny_llama

from rir_mlx.backends.base import (
    Backend,
    Batch,
    Execution,
    Model,
    OptimizerSpec,
    TrainingState,
)
from rir_mlx.errors import ModelError
from rir_mlx.prompting.batches import step_batches

OPTIMIZERS = ["adamw", "adam", "sgd", "rmsprop", "adagrad", "adafactor"]


@pytest.mark.parametrize(("fine_tune_type", "share"), [*((kind, True) for kind in TYPES), ("lora", False)])
def test_gradient_checkpointing_changes_nothing(
    framework: Backend, tiny: Path, fine_tune_type: str, share: bool
) -> None:
    """transformers' own drops the cache, and with it the shared prefix; mlx-lm's adds to the cache once more at each
    computation."""
    batches = step_batches(some_examples(5), [[0, 1, 2], [3, 4]], shared_prefix=share)
    again = prepared(framework, tiny, fine_tune_type, Execution(grad_checkpoint=True))
    assert_same_step(again, prepared(framework, tiny, fine_tune_type), batches)


@pytest.mark.parametrize("again", [True, False])
def test_gradients_belong_to_the_dropout_that_the_loss_saw(framework: Backend, tiny: Path, again: bool) -> None:
    """Computing a layer again with a new draw gives the gradient of another loss. A small step along the gradient
    must lower the loss under the same draw by rate · norm²."""
    batches = step_batches(some_examples(5), [range(5)])
    spec = spec_of("lora", dropout=0.4)
    model = framework.load(tiny, dtype="float32", adapter=(spec, random_adapter(framework, tiny, spec)))
    model.configure_optimizer(OptimizerSpec("sgd", max_grad_norm=1e9), Execution(grad_checkpoint=again))
    rate = 1e-3
    before = model.train_step(batches, rate, seed=3)
    after = model.train_step(batches, 0.0, seed=3)
    assert (before.loss - after.loss) / (rate * before.grad_norm**2) == pytest.approx(1, abs=0.05)


def test_gradient_checkpointing_leaves_inference_alone(framework: Backend, tiny: Path) -> None:
    tokens = draw(np.random.default_rng(0), 20)
    again = prepared(framework, tiny, execution=Execution(grad_checkpoint=True))
    np.testing.assert_array_equal(again.logits(tokens), prepared(framework, tiny).logits(tokens))


@pytest.mark.heavy
@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_compiling_changes_nothing(
    framework: Backend, tmp_path: Path, fine_tune_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and positions are padded to few shapes there: the padding must not be learned. PyTorch captures the graphs
    and their gradients, and runs them as they are: g++ would take half a minute for each type. It compiles below."""
    if framework.name == "torch":
        import torch

        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    tiny = make_tiny_llama(tmp_path / "flat", layers=1)  # compiling a second layer takes as long again
    batches = step_batches(some_examples(5), [[0, 1, 2], [3, 4]])
    compiled = prepared(framework, tiny, fine_tune_type, Execution(compile=True))
    assert_same_step(compiled, prepared(framework, tiny, fine_tune_type), batches)


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling on the processor needs g++")
def test_a_compiled_step_draws_new_dropout_each_time(framework: Backend, tmp_path: Path) -> None:
    """A compiled function that does not know the random state repeats its first draw for ever."""
    tiny = make_tiny_llama(tmp_path / "flat", layers=1)
    batches = step_batches(some_examples(5), [range(5)])
    model = prepared(framework, tiny, execution=Execution(compile=True), dropout=0.5)
    losses = [model.train_step(batches, 0.0, seed=seed).loss for seed in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]
    assert model.loss(batches[0]) == pytest.approx(prepared(framework, tiny, dropout=0.5).loss(batches[0]), rel=1e-5)


@pytest.mark.parametrize("fine_tune_type", ["lora", "full"])
def test_the_head_in_parts_is_the_head_at_once(
    framework: Backend, tiny: Path, fine_tune_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = step_batches(some_examples(9), [range(9)])
    assert np.count_nonzero(batches[0].weights) % 7
    whole, parts = prepared(framework, tiny, fine_tune_type), prepared(framework, tiny, fine_tune_type)
    expected = [whole.loss(batches[0]), *(whole.train_step(batches, 1e-2).grad_norm for _ in range(2))]
    place = "layers.lm_head" if framework.name == "torch" else "forward"
    monkeypatch.setattr(f"rir_mlx.backends.{framework.name}.{place}.head_rows", lambda *_, **__: 7)
    found = [parts.loss(batches[0]), *(parts.train_step(batches, 1e-2).grad_norm for _ in range(2))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert_same_tensors(whole, parts)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_backends_update_alike(open_named, tiny: Path, name: str) -> None:
    """The same rows, rates and optimizer give the same weights on both."""
    spec, ends = spec_of("lora"), []
    batches = step_batches(some_examples(5), [range(5)])
    for backend in (open_named("mlx"), open_named("torch")):
        model = backend.load(tiny, dtype="float32", adapter=(spec, random_adapter(backend, tiny, spec)))
        model.configure_optimizer(OptimizerSpec(name=name, epsilon=1e-4))
        for rate in (1e-3, 3e-3, 2e-3):
            model.train_step(batches, 30 * rate if name == "sgd" else rate)
        ends.append(snapshot(model))
    start = random_adapter(backend, tiny, spec)
    assert ends[0]
    for key, tensor in ends[0].items():
        np.testing.assert_allclose(tensor, ends[1][key], rtol=0, atol=5e-5, err_msg=key)
        assert not np.allclose(tensor, start[key], rtol=0, atol=1e-4), key


@pytest.mark.parametrize(
    ("fine_tune_type", "name"),
    [*(("lora", name) for name in OPTIMIZERS), *((kind, "adamw") for kind in TYPES if kind != "lora")],
)
def test_training_goes_on_exactly_from_its_state(backend: Backend, tiny: Path, fine_tune_type: str, name: str) -> None:
    """Weights alone are not enough: the optimizer's averages, its step count and dropout decide what follows."""

    def new() -> Model:
        model = backend.load(tiny, dtype="float32")
        model.add_adapter(spec_of(fine_tune_type, dropout=0.3), seed=0)
        model.configure_optimizer(OptimizerSpec(name=name))
        return model

    assert_goes_on(new)


def assert_goes_on(new: Callable[[], Model]) -> Model:
    """A model that trains on from another's state is the one that was never stopped, which is returned."""
    batches = step_batches(some_examples(3), [[0, 1, 2]])
    whole, first, second = new(), new(), new()
    expected = [whole.train_step(batches, 1e-3 * step, seed=step) for step in range(1, 6)]
    found = [first.train_step(batches, 1e-3 * step, seed=step) for step in range(1, 4)]
    state = first.training_state()
    second.load_training_state(TrainingState({key: np.array(value) for key, value in state.tensors.items()}))
    found += [second.train_step(batches, 1e-3 * step, seed=step) for step in range(4, 6)]
    assert found == expected
    for key, tensor in whole.trained_tensors().items():
        np.testing.assert_array_equal(tensor, second.trained_tensors()[key], err_msg=key)
    return whole


def test_adam_in_one_kernel_as_on_a_gpu_updates_and_goes_on_alike(
    open_named, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step count lies on the device; PyTorch has the kernel for processors, too."""
    import torch

    from rir_mlx.backends.torch import training

    def new() -> Model:
        model = open_named("torch").load(tiny, dtype="float32")
        model.add_adapter(spec_of("lora"), seed=0)
        model.configure_optimizer(OptimizerSpec())
        return model

    assert [training.fuses(torch.device(name)) for name in ("cpu", "cuda")] == [False, True]
    plain = assert_goes_on(new).trained_tensors()
    monkeypatch.setattr(training, "fuses", lambda _: True)
    fused = assert_goes_on(new).trained_tensors()
    assert new().training.optimizer.param_groups[0]["fused"]  # type: ignore[attr-defined]
    for key, tensor in plain.items():
        np.testing.assert_allclose(fused[key], tensor, rtol=0, atol=1e-6, err_msg=key)


def test_a_state_of_another_model_is_refused(backend: Backend, tiny: Path) -> None:
    model = fresh(backend, tiny)
    model.train_step(step_batches(some_examples(2), [range(2)]), 1e-3)
    state = model.training_state()
    name = next(iter(state.tensors))
    wrong = TrainingState(dict(state.tensors) | {name: np.zeros((3, 3), dtype=np.float32)})
    with pytest.raises(ModelError, match="does not fit"):
        fresh(backend, tiny).load_training_state(wrong)


def test_a_step_that_is_not_finite_changes_no_weight(framework: Backend, tiny: Path) -> None:
    good = step_batches(some_examples(3), [range(3)])[0]
    bad = Batch(good.prefix, good.tokens, good.lengths, np.where(good.weights > 0, np.float32(np.inf), good.weights))
    model = fresh(framework, tiny)
    start = snapshot(model)
    result = model.train_step([good, bad], 1e-2)
    assert not math.isfinite(result.loss)
    after = snapshot(model)
    assert start
    assert [name for name in start if not np.array_equal(start[name], after[name])] == []


def test_a_rank_without_rows_steps_with_the_others(framework: Backend, tiny: Path) -> None:
    result = fresh(framework, tiny).train_step([], 1e-3)
    assert (result.loss, result.grad_norm) == (0.0, 0.0)


def test_a_head_with_a_bias_is_learned_with_it(open_named) -> None:
    """Some models have one, and a projection by the weight alone silently leaves it out."""
    open_named("torch")
    import torch

    from rir_mlx.backends.torch.layers.lm_head import lm_head_loss

    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30)
    hidden, weights = torch.randn(20, 8, requires_grad=True), torch.rand(20)
    targets, inputs = torch.randint(0, 30, (20,)), (hidden, head.weight, head.bias)
    plain = (torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none") * weights).sum()
    ours = lm_head_loss(head, hidden, targets, weights)
    torch.testing.assert_close(ours, plain)
    for found, expected in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert not lm_head_loss(head, hidden, targets, weights).requires_grad


def test_quantised_weights_are_not_trained_in_full(open_named, tiny: Path) -> None:
    import mlx.nn as nn

    model = open_named("mlx").load(tiny, dtype="float32")
    nn.quantize(model.model, group_size=32)
    with pytest.raises(ModelError, match="Quantised"):
        model.add_adapter(spec_of("full"), seed=0)
    model.add_adapter(spec_of("lora"), seed=0)
    model.configure_optimizer(OptimizerSpec())
    batches = step_batches(some_examples(4), [range(4)])
    before = model.loss(batches[0])
    for _ in range(12):
        model.train_step(batches, 1e-2)
    assert model.loss(batches[0]) < 0.9 * before


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("shared_heads", [1, 2, 4])
def test_attention_by_products_is_the_library_s(open_named, shared_heads: int, masked: bool) -> None:
    """Grouped query heads, a prefix before the rows, and padding that a mask hides: output and every gradient."""
    open_named("torch")
    import torch

    from rir_mlx.backends.torch.layers.attention import _attention, sdpa_attention_forward

    torch.manual_seed(0)
    rows, tokens, seen = 3, 5, 9
    query = torch.randn(rows, 4, tokens, 8, requires_grad=True)
    key, value = (torch.randn(rows, shared_heads, seen, 8, requires_grad=True) for _ in range(2))
    mask = torch.ones(rows if masked else 1, 1, tokens, seen, dtype=torch.bool).tril(seen - tokens)
    if masked:
        mask[1, :, :, :2] = False
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 4 // shared_heads, True
    ours, theirs = (
        attention(module, query, key, value, mask, scaling=0.3)[0] for attention in (_attention, sdpa_attention_forward)
    )
    torch.testing.assert_close(ours, theirs)
    wanted = torch.randn_like(ours)
    for found, expected in zip(
        *(torch.autograd.grad(out, (query, key, value), wanted) for out in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_lora_as_one_operation_is_peft_s(open_named, bias: bool) -> None:
    open_named("torch")
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from rir_mlx.backends.torch.layers.lora import fuse_forward

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=bias))
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=7, target_modules=["0"]), model)
    layer, x = model[0], torch.randn(2, 4, 6, requires_grad=True)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    inputs = (x, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    theirs = layer(x)
    fuse_forward(layer)
    ours = layer(x)
    torch.testing.assert_close(ours, theirs)
    wanted = torch.randn_like(ours)
    for found, expected in zip(*(torch.autograd.grad(out, inputs, wanted) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected)
