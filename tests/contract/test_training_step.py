"""What a training step does, on every backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sequences import (
    HEAD,
    TYPES,
    assert_same_tensors,
    draw,
    fresh,
    log_softmax,
    naive_loss,
    random_adapter,
    snapshot,
    some_examples,
    spec_of,
)

from rir_mlx.backends.base import (
    Backend,
    Batch,
    Execution,
    Model,
    OptimizerSpec,
    Request,
    Sampling,
    Tokens,
)
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples, joined

LOW_RANK = ["lora", "dora"]


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_training_lowers_the_loss(backend: Backend, tiny: Path, fine_tune_type: str) -> None:
    model = backend.load(tiny, dtype="float32")
    model.add_adapter(spec_of(fine_tune_type), seed=0)
    model.configure_optimizer(OptimizerSpec())
    examples = some_examples(4)
    batches = step_batches(examples, [[0, 1, 2, 3]])
    before = model.loss(batches[0])
    reported = [model.train_step(batches, 1e-2).loss for _ in range(12)]
    assert reported[0] == pytest.approx(before, rel=1e-5)
    assert model.loss(batches[0]) < 0.8 * before


@pytest.mark.parametrize("fine_tune_type", LOW_RANK)
def test_a_fresh_adapter_leaves_the_base_as_it_was(framework: Backend, tiny: Path, fine_tune_type: str) -> None:
    tokens = draw(np.random.default_rng(0), 30)
    model = framework.load(tiny, dtype="float32")
    before = model.logits(tokens)
    model.add_adapter(spec_of(fine_tune_type), seed=0)
    # DoRA divides by a length and multiplies by it again, which rounds.
    np.testing.assert_allclose(model.logits(tokens), before, atol=0 if fine_tune_type == "lora" else 2e-5)


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_all_that_training_changes_is_in_the_trained_tensors(
    framework: Backend, tiny: Path, fine_tune_type: str
) -> None:
    spec, tokens = spec_of(fine_tune_type), draw(np.random.default_rng(0), 30)
    model = framework.load(tiny, dtype="float32")
    before = model.logits(tokens)
    model.add_adapter(spec, seed=0)
    start = snapshot(model)
    model.configure_optimizer(OptimizerSpec())
    for _ in range(3):
        model.train_step(step_batches(some_examples(4), [[0, 1, 2, 3]]), 1e-2)
    after = snapshot(model)
    assert [name for name in start if np.array_equal(start[name], after[name])] == []
    assert np.abs(model.logits(tokens) - before).max() > 0.05
    again = framework.load(tiny, dtype="float32", adapter=(spec, after))
    np.testing.assert_allclose(again.logits(tokens), model.logits(tokens), atol=1e-6)


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_trained_tensors_stay_as_they_were_when_training_goes_on(
    backend: Backend, tiny: Path, fine_tune_type: str
) -> None:
    """PyTorch's `.numpy()` is a view of the parameter: weights kept as the best so far changed with the next step."""
    model = fresh(backend, tiny, fine_tune_type)
    kept = model.trained_tensors()
    copies = snapshot(model)
    model.train_step(step_batches(some_examples(2), [range(2)]), 1e-2)
    assert copies
    assert [name for name in copies if not np.array_equal(kept[name], copies[name])] == []


@pytest.mark.parametrize(
    ("fine_tune_type", "num_layers"), [*((kind, count) for kind in LOW_RANK for count in (1, 2, 0, -1)), ("full", -1)]
)
def test_trained_tensors_have_mlx_lm_names_and_layout(
    framework: Backend, tiny: Path, fine_tune_type: str, num_layers: int
) -> None:
    model = framework.load(tiny, dtype="float32")
    model.add_adapter(spec_of(fine_tune_type, num_layers=num_layers), seed=0)
    tensors = model.trained_tensors()
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    assert layers == ({"1"} if num_layers == 1 else {"0", "1"})
    if fine_tune_type == "full":
        assert tensors["model.embed_tokens.weight"].shape[1] == 32
        return
    shapes = {name: tensors[f"model.layers.1.mlp.down_proj.{name}"].shape for name in ("lora_a", "lora_b")}
    assert shapes == {"lora_a": (96, 4), "lora_b": (4, 32)}
    assert ("model.layers.1.mlp.down_proj.m" in tensors) == (fine_tune_type == "dora")


def test_only_named_modules_are_trained(framework: Backend, tiny: Path) -> None:
    model = framework.load(tiny, dtype="float32")
    model.add_adapter(spec_of("lora", keys=("self_attn.q_proj", "mlp.up_proj")), seed=0)
    assert {name.split(".", 3)[3].rpartition(".")[0] for name in model.trained_tensors()} == {
        "self_attn.q_proj",
        "mlp.up_proj",
    }


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_sharing_the_prefix_changes_neither_loss_nor_gradients(
    backend: Backend, tiny: Path, fine_tune_type: str, rows: int
) -> None:
    """Also for one row, where `step_batches` leaves the prefix in the row because it saves nothing."""
    examples = some_examples(rows)
    whole = step_batches(examples, [range(rows)], shared_prefix=False)
    assert whole[0].prefix == ()
    cut = len(examples.prefix)
    shared = [Batch(examples.prefix, whole[0].tokens[:, cut:], whole[0].lengths - cut, whole[0].weights[:, cut:])]
    sharing, plain = fresh(backend, tiny, fine_tune_type), fresh(backend, tiny, fine_tune_type)
    assert sharing.loss(shared[0]) == pytest.approx(plain.loss(whole[0]), rel=1e-6)
    first, second = sharing.train_step(shared, 1e-2), plain.train_step(whole, 1e-2)
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-4)
    assert_same_tensors(sharing, plain)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_gradients_through_a_shared_prefix_are_those_of_the_plain_step(
    framework: Backend, tiny: Path, fine_tune_type: str, checkpointed: bool
) -> None:
    """To a millionth, over two accumulated batches. A first step of plain gradient descent at a huge rate leaves the
    gradient in the weights: what they were before is lost in rounding."""
    gradients = []
    for share in (True, False):
        model = fresh(framework, tiny, fine_tune_type)
        optimizer = OptimizerSpec("sgd", max_grad_norm=1e9)
        model.configure_optimizer(optimizer, Execution(grad_checkpoint=share and checkpointed))
        model.train_step(step_batches(some_examples(7), [[0, 1, 2], [3, 4, 5, 6]], shared_prefix=share), 1e7)
        gradients.append(np.concatenate([tensor.ravel() for tensor in snapshot(model).values()]).astype(np.float64))
    norm = np.linalg.norm(gradients[1])
    assert norm > 1e5
    assert np.linalg.norm(gradients[0] - gradients[1]) / norm < 1e-6


def test_the_same_rows_in_other_batches_take_the_same_path(framework: Backend, tiny: Path) -> None:
    """One batch of 8, or 8 of 1: the same trajectory up to rounding, which has no direction."""
    examples = some_examples(8)
    losses = []
    for size in (8, 1):
        model = fresh(framework, tiny, optimizer=OptimizerSpec(epsilon=1e-4))
        groups = [range(start, start + size) for start in range(0, 8, size)]
        batches = step_batches(examples, groups, weights=LossWeights(reasoning=0.5))
        losses.append([model.train_step(batches, 4e-3).loss for _ in range(10)])
    assert losses[0][-1] < 0.95 * losses[0][0]
    residual = np.array(losses[1]) - np.array(losses[0])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert abs(residual.mean()) < 4 * residual.std() / np.sqrt(len(residual)) + 1e-7


@pytest.mark.parametrize("size", [4, 2, 1])
def test_accumulation_is_weighted_by_tokens(backend: Backend, tiny: Path, size: int) -> None:
    """Batches of 8, 4, 2 or 1 rows make the same step. Averaging the batches' means, as mlx-lm and transformers once
    did, gives rows with few tokens too much weight."""
    examples = some_examples(8)
    at_once = step_batches(examples, [range(8)], weights=LossWeights(reasoning=0.5))
    parts = step_batches(examples, [range(i, i + size) for i in range(0, 8, size)], weights=LossWeights(reasoning=0.5))
    assert len(parts) == 8 // size
    whole, accumulated = fresh(backend, tiny), fresh(backend, tiny)
    first, second = whole.train_step(at_once, 1e-2), accumulated.train_step(parts, 1e-2)
    assert first.loss == pytest.approx(second.loss, rel=1e-5)
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-4)
    assert_same_tensors(whole, accumulated)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("reasoning_weight", [1.0, 0.5, 0.0])
def test_loss_is_mean_of_answers_plus_weighted_mean_of_reasonings(
    backend: Backend, tiny: Path, reasoning_weight: float, share: bool
) -> None:
    examples = some_examples(5)
    model = fresh(backend, tiny)
    batches = step_batches(
        examples, [[0, 1, 2], [3, 4]], weights=LossWeights(reasoning=reasoning_weight), shared_prefix=share
    )
    answers, reasonings = [], []
    for row in examples.rows:
        start = len(examples.prefix) + len(row.prompt)
        tokens = (*examples.prefix, *row.prompt, *row.reasoning, *row.answer)
        weights = np.zeros((1, len(tokens)), dtype=np.float32)
        for place in range(start, len(tokens)):
            weights[:] = 0
            weights[0, place] = 1
            array = np.array([tokens], dtype=np.int32)
            loss = naive_loss(model, Batch((), array, np.array([len(tokens)], dtype=np.int32), weights))
            (reasonings if place < start + len(row.reasoning) else answers).append(loss)
    assert len(answers) == sum(len(row.answer) for row in examples.rows)
    expected = np.mean(answers) + reasoning_weight * np.mean(reasonings)
    assert sum(model.loss(batch) for batch in batches) == pytest.approx(expected, rel=1e-5)


def test_padding_never_counts(backend: Backend, tiny: Path) -> None:
    """mlx-lm's own mask takes in one pad token of every padded row: the loss then depends on what the padding is."""
    batch = step_batches(some_examples(5), [range(5)])[0]
    assert (batch.lengths < batch.tokens.shape[1]).sum() >= 3
    padding = np.arange(batch.tokens.shape[1])[None] >= batch.lengths[:, None]
    assert batch.weights[padding].sum() == 0
    other = Batch(batch.prefix, np.where(padding, 99, batch.tokens).astype(np.int32), batch.lengths, batch.weights)
    model = fresh(backend, tiny)
    assert model.loss(batch) == pytest.approx(naive_loss(model, batch), rel=1e-5)
    assert model.loss(other) == model.loss(batch)
    padded, repadded = fresh(backend, tiny), fresh(backend, tiny)
    padded.train_step([batch], 1e-2)
    repadded.train_step([other], 1e-2)
    assert_same_tensors(padded, repadded, tolerance=1e-7)


def test_rows_of_one_batch_do_not_see_each_other(backend: Backend, tiny: Path) -> None:
    examples = some_examples(4)
    model = fresh(backend, tiny)
    together = step_batches(examples, [range(4)])[0]
    alone = 0.0
    for row in range(4):
        only = np.zeros_like(together.weights)
        only[row] = together.weights[row]
        alone += naive_loss(model, Batch(together.prefix, together.tokens, together.lengths, only))
    assert model.loss(together) == pytest.approx(alone, rel=1e-5)


def test_gradients_are_clipped_to_the_global_norm(backend: Backend, tiny: Path) -> None:
    """With a huge epsilon the update is the gradient, times the rate over epsilon: its norm can be read off."""
    batches = step_batches(some_examples(4), [range(4)])
    moved = []
    for bound in (1e9, 0.1):
        model = fresh(backend, tiny, optimizer=OptimizerSpec(epsilon=1e3, weight_decay=0, max_grad_norm=bound))
        start = snapshot(model)
        norm = model.train_step(batches, 1e3 if backend.name != "fake" else 1e-2).grad_norm
        assert norm > 0.2
        end = snapshot(model)
        moved.append(np.sqrt(sum(((end[name] - start[name]).astype(np.float64) ** 2).sum() for name in start)))
    assert moved[1] / moved[0] == pytest.approx(0.1 / norm, rel=1e-2)


def test_a_step_without_an_update_leaves_the_weights(framework: Backend, tiny: Path) -> None:
    model = fresh(framework, tiny, optimizer=OptimizerSpec())
    start = snapshot(model)
    model.train_step(step_batches(some_examples(2), [range(2)]), 0.0)
    after = snapshot(model)
    assert start
    assert [name for name in start if not np.array_equal(start[name], after[name])] == []


def test_dropout_acts_in_training_alone(framework: Backend, tiny: Path) -> None:
    spec = spec_of("lora", dropout=0.5)
    model = framework.load(tiny, dtype="float32", adapter=(spec, random_adapter(framework, tiny, spec)))
    model.configure_optimizer(OptimizerSpec())
    batches = step_batches(some_examples(3), [range(3)])
    measured = model.loss(batches[0])
    assert model.train_step(batches, 0.0).loss != pytest.approx(measured, rel=1e-4)
    assert model.loss(batches[0]) == measured


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_same_seed_gives_same_training(framework: Backend, tiny: Path, fine_tune_type: str) -> None:
    ends = []
    for seed in (3, 3, 4):
        model = framework.load(tiny, dtype="float32")
        model.add_adapter(spec_of(fine_tune_type, dropout=0.2), seed=seed)
        model.configure_optimizer(OptimizerSpec())
        for _ in range(2):
            model.train_step(step_batches(some_examples(3), [range(3)]), 1e-2)
        ends.append(model.trained_tensors())
    name = sorted(ends[0])[0]
    np.testing.assert_array_equal(ends[0][name], ends[1][name])
    if fine_tune_type != "full":
        assert not np.array_equal(ends[0][name], ends[2][name])


def test_a_row_with_a_prompt_of_one_token_is_learned(backend: Backend, tiny: Path) -> None:
    examples = TrainingExamples((9, 10, 11), (TrainingExample((12,), (), (13,)),))
    model = fresh(backend, tiny)
    for share in (True, False):
        batch = step_batches(examples, [[0]], shared_prefix=share)[0]
        assert model.loss(batch) == pytest.approx(naive_loss(model, batch), rel=1e-5)


def token_losses(model: Model, head: Tokens, prompt: Tokens, learned: Tokens) -> list[float]:
    """−log p of each learned token, from one pass over the row alone."""
    sequence = (*head, *prompt, *learned)
    log_probabilities = log_softmax(model.logits(sequence))
    start = len(sequence) - len(learned)
    return [-float(log_probabilities[place - 1, sequence[place]]) for place in range(start, len(sequence))]


def both_tasks() -> TrainingExamples:
    """Rows of two tasks behind heads of their own; two of them have no reasoning."""
    rng = np.random.default_rng(5)
    prompts = [draw(rng, 2 + index) for index in range(5)]
    first = TrainingExamples(
        draw(rng, HEAD), tuple(TrainingExample(prompt, (), draw(rng, 1 + len(prompt) % 3)) for prompt in prompts)
    )
    reasonings = [draw(rng, count) for count in (3, 0, 6, 0, 1)]
    second = TrainingExamples(
        draw(rng, HEAD + 4), tuple(TrainingExample(*pair, ()) for pair in zip(prompts, reasonings, strict=True))
    )
    return replace(first, second=second)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_two_tasks_train_in_one_step_by_their_shares(backend: Backend, tiny: Path, alpha: float) -> None:
    """alpha · mean CE(labels) + (1 − alpha) · mean CE(reasonings), both of the weights before the step."""
    examples = both_tasks()
    assert examples.second is not None
    model = fresh(backend, tiny)
    answers = [token_losses(model, examples.prefix, row.prompt, row.answer) for row in examples.rows]
    reasonings = [
        token_losses(model, examples.second.prefix, row.prompt, row.reasoning) for row in examples.second.rows
    ]
    means = [np.mean([loss for row in rows for loss in row]) for rows in (answers, reasonings)]
    batches = step_batches(examples, [[0, 1, 2], [3, 4]], weights=LossWeights(alpha, 1 - alpha))
    assert len(batches) == 4
    expected = pytest.approx(alpha * means[0] + (1 - alpha) * means[1], rel=1e-5)
    assert sum(model.loss(batch) for batch in batches) == expected
    assert model.train_step(batches, 1e-2).loss == expected


def test_weighted_labels_give_the_weighted_mean(backend: Backend, tiny: Path) -> None:
    """As PyTorch's CrossEntropyLoss(weight=…): Σ w·CE / Σ w, over the tokens of the labels."""
    examples = some_examples(5)
    weights = (2.0, 0.25, 1.0, 3.0, 0.5)
    rows = tuple(replace(row, weight=weight) for row, weight in zip(examples.rows, weights, strict=True))
    examples = replace(examples, rows=rows)
    model = fresh(backend, tiny)
    losses = [token_losses(model, examples.prefix, row.prompt, row.learned)[len(row.reasoning) :] for row in rows]
    total = sum(weight * sum(row) for weight, row in zip(weights, losses, strict=True))
    expected = total / sum(weight * len(row) for weight, row in zip(weights, losses, strict=True))
    batches = step_batches(examples, [[0, 1], [2, 3, 4]], weights=LossWeights(reasoning=0))
    assert sum(model.loss(batch) for batch in batches) == pytest.approx(expected, rel=1e-5)


def test_sets_that_are_joined_lose_what_they_lose_apart(backend: Backend, tiny: Path) -> None:
    first, other = some_examples(3, reasoning=False), some_examples(4, reasoning=False, seed=1)
    second = replace(other, prefix=first.prefix[:12] + other.prefix)
    model = fresh(backend, tiny)
    apart = [
        sum(model.loss(batch) for batch in step_batches(examples, [range(len(examples.rows))]))
        for examples in (first, second)
    ]
    tokens = [sum(len(row.answer) for row in examples.rows) for examples in (first, second)]
    both = joined(first, second)
    found = sum(model.loss(batch) for batch in step_batches(both, [[0, 3, 4], [1, 2], [5, 6]]))
    expected = sum(loss * count for loss, count in zip(apart, tokens, strict=True)) / sum(tokens)
    assert found == pytest.approx(expected, rel=1e-5)


def test_measuring_between_two_steps_changes_nothing_of_them(framework: Backend, tiny: Path) -> None:
    """Weights are measured by what they write; dropout acts in the steps around that."""
    ends = []
    for measures in (False, True):
        model = framework.load(tiny, dtype="float32")
        model.add_adapter(spec_of("lora", dropout=0.3), seed=0)
        model.configure_optimizer(OptimizerSpec())
        for step in range(3):
            model.train_step(step_batches(some_examples(3), [range(3)]), 1e-2, seed=step)
            if measures:
                requests = [Request(0, (20, 30, 40)), Request(1, (50, 60))]
                written = list(model.generate(requests, Sampling(max_tokens=6), prefix=(9, 10)))
                assert len(written) == 2
                scores = model.score([(20, 30), (50,)], [(7,), (8, 9)], prefix=(9, 10))
                np.testing.assert_array_equal(scores, model.score([(20, 30), (50,)], [(7,), (8, 9)], prefix=(9, 10)))
        ends.append(model.trained_tensors())
    for name, tensor in ends[0].items():
        np.testing.assert_array_equal(tensor, ends[1][name])
