"""What one backend made, the other reads: models, adapters, and the same way through training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sequences import draw, random_adapter, some_examples, spec_of

from rir_mlx.backends.base import (
    Backend,
    OptimizerSpec,
    Request,
    Sampling,
)
from rir_mlx.errors import ModelError
from rir_mlx.models.adapters import Adapter, read_adapter, write_adapter
from rir_mlx.models.families import rope_for_both
from rir_mlx.models.hub import ModelFiles
from rir_mlx.prompting.batches import LossWeights, step_batches

TYPES = ["lora", "dora", "full"]
LONG = draw(np.random.default_rng(0), 200)
"""Beyond the 64 positions after which the tiny model's llama3 scaling changes the angles."""
TOLERANCE = 5e-5
"""Of logits of size 1 to 10: float32 sums of some hundred products, in another order, through two layers."""

Open = Callable[[str], Backend]


def with_rope(folder: Path, target: Path, form: str) -> Path:
    """A copy of the model whose config has the rotary keys in one form only."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    rope = rope_for_both(config)
    for key in rope:
        config.pop(key, None)
    keys = ("rope_parameters",) if form == "transformers 5" else ("rope_theta", "rope_scaling")
    (target / "config.json").write_text(json.dumps(config | {key: rope[key] for key in keys}))
    return target


@pytest.mark.parametrize("model", ["tiny", "untied"])
def test_backends_agree_on_logits_beyond_the_original_positions(
    model: str, open_named: Open, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    ours, theirs = (open_named(name).load(folder, dtype="float32").logits(LONG) for name in ("mlx", "torch"))
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


@pytest.mark.parametrize("form", ["transformers 4", "transformers 5"])
def test_rotary_keys_are_read_in_either_form(framework: Backend, tiny: Path, tmp_path: Path, form: str) -> None:
    """transformers 5 writes `rope_parameters` alone. mlx-lm reads `rope_theta` and `rope_scaling` alone, and took
    theta 10000 without scaling in silence."""
    expected = framework.load(tiny, dtype="float32").logits(LONG)
    folder = with_rope(tiny, tmp_path / "model", form)
    np.testing.assert_array_equal(framework.load(folder, dtype="float32").logits(LONG), expected)


def test_the_rotary_scaling_of_the_tiny_model_matters(framework: Backend, tiny: Path, tmp_path: Path) -> None:
    """Else the tests above would pass without it."""
    expected = framework.load(tiny, dtype="float32").logits(LONG)
    shutil.copytree(tiny, tmp_path / "model")
    config = json.loads((tiny / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"rope_scaling": None}))
    changed = framework.load(tmp_path / "model", dtype="float32").logits(LONG)
    assert np.abs(changed - expected).max() > 100 * TOLERANCE


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_an_adapter_folder_read_back_gives_the_same_logits(
    framework: Backend, tiny: Path, tiny_files: ModelFiles, tmp_path: Path, fine_tune_type: str
) -> None:
    spec = spec_of(fine_tune_type, scale=3.0, dropout=0.1)
    model = framework.load(tiny, dtype="float32")
    model.add_adapter(spec, seed=1)
    model.configure_optimizer(OptimizerSpec())
    for _ in range(3):
        model.train_step(step_batches(some_examples(3), [range(3)]), 1e-2)
    write_adapter(tmp_path / "adapter", Adapter(spec, model.trained_tensors(), {}), tiny_files)
    read = read_adapter(tmp_path / "adapter", tiny_files)
    assert read.spec == spec
    again = framework.load(tiny, dtype="float32", adapter=(read.spec, read.tensors))
    np.testing.assert_array_equal(again.logits(LONG), model.logits(LONG))


@pytest.mark.parametrize(("maker", "reader"), [("mlx", "torch"), ("torch", "mlx")])
@pytest.mark.parametrize("fine_tune_type", TYPES)
@pytest.mark.parametrize("model", ["tiny", "untied"])
def test_an_adapter_of_one_backend_gives_the_same_logits_on_the_other(
    model: str, fine_tune_type: str, maker: str, reader: str, open_named: Open, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    first, second = open_named(maker), open_named(reader)
    spec = spec_of(fine_tune_type, num_layers=-1 if fine_tune_type == "full" else 1, scale=3.0)
    trained = first.load(folder, dtype="float32")
    before = trained.logits(LONG)
    trained.add_adapter(spec, seed=1)
    trained.configure_optimizer(OptimizerSpec())
    for _ in range(4):
        trained.train_step(step_batches(some_examples(3), [range(3)]), 1e-2)
    read = second.load(folder, dtype="float32", adapter=(spec, trained.trained_tensors()))
    assert np.abs(trained.logits(LONG) - before).max() > 0.05
    np.testing.assert_allclose(read.logits(LONG), trained.logits(LONG), atol=TOLERANCE)


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_backends_start_from_the_same_weights_and_train_alike(
    open_named: Open, tiny: Path, fine_tune_type: str
) -> None:
    """From one seed, over steps of accumulated batches, the losses, norms and tensors stay together. Epsilon keeps
    AdamW from magnifying the rounding of gradients near 0."""
    starts, ends, losses, norms = [], [], [], []
    for name in ("mlx", "torch"):
        model = open_named(name).load(tiny, dtype="float32")
        model.add_adapter(spec_of(fine_tune_type), seed=5)
        starts.append({name: tensor.copy() for name, tensor in model.trained_tensors().items()})
        model.configure_optimizer(OptimizerSpec(epsilon=1e-3, weight_decay=0.1))
        steps = [
            model.train_step(
                step_batches(some_examples(6), [range(4), [4, 5]], weights=LossWeights(reasoning=0.5)), rate
            )
            for rate in (1e-2, 5e-3, 1e-2, 5e-3, 1e-3)
        ]
        losses.append([step.loss for step in steps])
        norms.append([step.grad_norm for step in steps])
        ends.append(model.trained_tensors())
    assert starts[0].keys() == starts[1].keys()
    for tensor in starts[0]:
        np.testing.assert_allclose(starts[0][tensor], starts[1][tensor], rtol=1e-6)
        np.testing.assert_allclose(ends[0][tensor], ends[1][tensor], atol=2e-5, err_msg=tensor)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-3)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("prefix_length", [0, 11])
def test_backends_write_the_same_greedy_text_and_the_same_scores(
    open_named: Open, tiny: Path, prefix_length: int
) -> None:
    rng = np.random.default_rng(3)
    prefix, rows = draw(rng, prefix_length), [draw(rng, length) for length in (1, 25, 6)]
    spec = spec_of("lora", scale=8.0)
    tensors = random_adapter(open_named("mlx"), tiny, spec)
    texts, scores = [], []
    for name in ("mlx", "torch"):
        model = open_named(name).load(tiny, dtype="float32", adapter=(spec, tensors))
        requests = [Request(index, row) for index, row in enumerate(rows)]
        texts.append(
            {
                completion.key: completion
                for completion in model.generate(requests, Sampling(max_tokens=12), prefix=prefix)
            }
        )
        scores.append(model.score(rows, [(20, 21), (22,)], prefix=prefix))
    assert texts[0] == texts[1]
    np.testing.assert_allclose(scores[0], scores[1], atol=TOLERANCE)


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_an_adapter_of_other_layers_or_shapes_is_refused(framework: Backend, tiny: Path, fine_tune_type: str) -> None:
    spec = spec_of(fine_tune_type)
    tensors = random_adapter(framework, tiny, spec)
    name = sorted(tensors)[0]
    missing = {other: tensor for other, tensor in tensors.items() if other != name}
    longer = tensors | {name: np.concatenate([tensors[name], tensors[name]])}
    with pytest.raises(ModelError, match=r"does not fit this model: .*is in one of them only"):
        framework.load(tiny, dtype="float32", adapter=(spec, missing))
    with pytest.raises(ModelError, match=f"does not fit this model: {name} is "):
        framework.load(tiny, dtype="float32", adapter=(spec, longer))


def test_a_module_that_the_model_lacks_is_named(framework: Backend, tiny: Path) -> None:
    model = framework.load(tiny, dtype="float32")
    with pytest.raises(ModelError, match=r"no linear module .*self_attn\.qkv_proj"):
        model.add_adapter(spec_of("lora", keys=("self_attn.qkv_proj",)), seed=0)


def test_a_cut_weight_file_is_a_model_error(framework: Backend, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        framework.load(tmp_path / "model")


def test_a_folder_that_lacks_a_weight_is_a_model_error(framework: Backend, tiny: Path, tmp_path: Path) -> None:
    """transformers fills a missing weight with random numbers and a warning that nobody reads."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny, tmp_path / "model")
    tensors = load_file(tiny / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="cannot be loaded"):
        framework.load(tmp_path / "model")
