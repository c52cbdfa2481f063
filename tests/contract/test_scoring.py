"""Label scores against the same numbers computed the slow way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from banking import BANKING
from sequences import HEAD, draw, naive_score, random_adapter, spec_of

from rir_mlx.backends.base import Backend, Model, Request, Sampling, Tokens
from rir_mlx.prompting.arms import label_tokens
from rir_mlx.prompting.codec import Codec

LENGTHS = (1, 30, 4, 80, 2)
OPTIONS: tuple[Tokens, ...] = ((20,), (20, 21), (20, 21, 22, 23), (30, 31), (40,), (20, 21))
"""Of different lengths, prefixes of each other, and one twice."""


def some_prompts(lengths: tuple[int, ...] = LENGTHS) -> list[Tokens]:
    rng = np.random.default_rng(1)
    return [draw(rng, length) for length in lengths]


@pytest.fixture(scope="module")
def banking(codec: Codec) -> list[Tokens]:
    """77 labels of 4 to 45 tokens; the last of each is the terminator."""
    return [label_tokens(codec, label) for label in BANKING]


def starts_of(options: list[Tokens]) -> set[Tokens]:
    """What must run behind a prompt: every start of an option that the option goes on from."""
    return {option[:end] for option in options for end in range(1, len(option))}


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("prefix_length", [0, 1, HEAD])
def test_scores_are_sums_of_log_probabilities(
    backend: Backend, tiny: Path, prefix_length: int, batch_size: int
) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    prefix = draw(np.random.default_rng(2), prefix_length)
    scores = model.score(prompts, OPTIONS, prefix=prefix, batch_size=batch_size)
    assert scores.dtype == np.float64
    expected = [[naive_score(model, prefix + prompt, option) for option in OPTIONS] for prompt in prompts]
    # A sum of up to four log-probabilities near -6, each from a float32 softmax over 400 words.
    np.testing.assert_allclose(scores, expected, atol=3e-5)


@pytest.mark.parametrize("options", [((20,), (21,), (22,)), ((20, 21, 22),)])
def test_options_of_one_token_and_a_single_option(backend: Backend, tiny: Path, options: tuple[Tokens, ...]) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    expected = [[naive_score(model, prompt, option) for option in options] for prompt in prompts]
    np.testing.assert_allclose(model.score(prompts, options), expected, atol=3e-5)


def test_probabilities_of_all_one_token_options_sum_to_one(backend: Backend, tiny: Path) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    words = model.logits((9,)).shape[-1]
    scores = model.score(prompts, [(token,) for token in range(words)], prefix=(9, 10))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, atol=1e-5)


SOME: Tokens = (9, 200, 31, 8, 77, 120, 60, 18, 250, 99, 41, 12)


@pytest.mark.parametrize("prefix", [(), tuple(range(30, 49))])
def test_last_logits_are_the_end_of_all_logits(backend: Backend, tiny: Path, prefix: Tokens) -> None:
    """Each row alone, shorter ones than what is asked for and after a longer one too: no row sees another."""
    model = backend.load(tiny, dtype="float32")
    rows = [SOME[:3], SOME, SOME[5:], SOME[:1]]
    found = list(model.last_logits(rows, 4, prefix=prefix))
    assert [len(logits) for logits in found] == [3, 4, 4, 1]
    for row, logits in zip(rows, found, strict=True):
        np.testing.assert_allclose(logits, model.logits(prefix + row)[-len(logits) :], atol=1e-5)


def test_an_option_that_goes_on_is_less_likely_than_its_start(backend: Backend, tiny: Path) -> None:
    scores = backend.load(tiny, dtype="float32").score(some_prompts(), OPTIONS)
    assert (scores[:, 0] > scores[:, 1]).all()
    assert (scores[:, 1] > scores[:, 2]).all()
    np.testing.assert_allclose(scores[:, 1], scores[:, 5], atol=1e-6)


def test_scoring_twice_gives_the_same_numbers(backend: Backend, tiny: Path) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    prefix = draw(np.random.default_rng(2), HEAD)
    first = model.score(prompts, OPTIONS, prefix=prefix)
    np.testing.assert_array_equal(model.score(prompts, OPTIONS, prefix=prefix), first)


def test_many_labels_of_several_tokens_score_as_each_alone(backend: Backend, tiny: Path, banking: list[Tokens]) -> None:
    model, prompts, options = backend.load(tiny, dtype="float32"), some_prompts((1, 12)), banking[:24]
    prefix = draw(np.random.default_rng(2), HEAD)
    assert len(starts_of(options)) < 0.9 * sum(len(option) - 1 for option in options)  # some begin alike
    expected = [[naive_score(model, prefix + prompt, option) for option in options] for prompt in prompts]
    # A sum of up to 45 log-probabilities near -6.
    np.testing.assert_allclose(model.score(prompts, options, prefix=prefix), expected, atol=1e-4)


@pytest.mark.parametrize("labels", ["banking", "mixed"])
def test_both_backends_give_the_same_scores(
    open_named: Callable[[str], Backend], tiny: Path, banking: list[Tokens], labels: str
) -> None:
    options, prefix = {"banking": banking, "mixed": OPTIONS}[labels], draw(np.random.default_rng(2), HEAD)
    models = [open_named(name).load(tiny, dtype="float32") for name in ("mlx", "torch")]
    mlx_scores, torch_scores = (model.score(some_prompts(), options, prefix=prefix) for model in models)
    np.testing.assert_allclose(mlx_scores, torch_scores, atol=1e-4)


@pytest.mark.parametrize("untie", [False, True])
def test_rows_scored_together_do_not_change_each_other(
    backend: Backend, tiny: Path, untied: Path, banking: list[Tokens], untie: bool
) -> None:
    model, prompts = backend.load(untied if untie else tiny, dtype="float32"), some_prompts()
    each = [model.score(prompts, banking[:16], prefix=(9, 10), batch_size=size) for size in (1, 2, 32)]
    np.testing.assert_allclose(each[1], each[0], atol=1e-4)
    np.testing.assert_allclose(each[2], each[0], atol=1e-4)


@pytest.mark.parametrize("fine_tune_type", ["lora", "dora"])
def test_an_adapter_over_a_base_of_16_bits_scores_as_it_computes(
    framework: Backend, tiny: Path, fine_tune_type: str
) -> None:
    spec = spec_of(fine_tune_type)
    adapter = (spec, random_adapter(framework, tiny, spec))
    prompts, prefix = some_prompts(), draw(np.random.default_rng(2), HEAD)
    full, half, plain = (
        framework.load(tiny, dtype=dtype, adapter=given).score(prompts, OPTIONS, prefix=prefix)
        for dtype, given in (("float32", adapter), ("bfloat16", adapter), ("float32", None))
    )
    # Sums of up to four logits that bfloat16 keeps to one part in 256.
    assert np.abs(half - full).max() < 0.5
    assert np.abs(half - full).mean() < 0.05 * np.abs(plain - full).mean()


class Watch:
    """What enters the model, and what is projected to the vocabulary."""

    def __init__(self) -> None:
        self.entered: list[tuple[int, ...]] = []
        self.projected: list[int] = []


@contextmanager
def watching(model: Any) -> Iterator[Watch]:
    """Watches a tied model of either framework, whose embedding is its head."""
    watch = Watch()
    if hasattr(model, "device"):
        hooks = [
            model.model.get_input_embeddings().register_forward_hook(
                lambda _, given, __: watch.entered.append(tuple(given[0].shape))
            ),
            model.lm_head.register_forward_hook(lambda _, __, made: watch.projected.append(made[..., 0].numel())),
        ]
        yield watch
        for hook in hooks:
            hook.remove()
        return
    from mlx.nn import Embedding

    with pytest.MonkeyPatch.context() as patch:
        embed, project = Embedding.__call__, Embedding.as_linear
        patch.setattr(Embedding, "__call__", lambda own, ids: (watch.entered.append(ids.shape), embed(own, ids))[1])
        patch.setattr(
            Embedding, "as_linear", lambda own, hidden: (watch.projected.append(len(hidden)), project(own, hidden))[1]
        )
        yield watch


def score_watched(model: Model, options: list[Tokens] | tuple[Tokens, ...], rows: int) -> Watch:
    """Equally long prompts, so that there is no padding among them."""
    prefix = draw(np.random.default_rng(2), HEAD)
    with watching(model) as watch:
        model.score(some_prompts((10,) * rows), options, prefix=prefix, batch_size=2)
    return watch


def test_only_positions_that_predict_are_projected_and_each_once(
    framework: Backend, tiny: Path, banking: list[Tokens]
) -> None:
    watch = score_watched(framework.load(tiny, dtype="float32"), banking, rows=6)
    assert sum(watch.projected) == 6 * (1 + len(starts_of(banking)))


def test_torch_repeats_no_row_for_its_options(
    open_named: Callable[[str], Backend], tiny: Path, banking: list[Tokens]
) -> None:
    watch = score_watched(open_named("torch").load(tiny, dtype="float32"), banking, rows=6)
    run = (2, 10 + len(starts_of(banking)))
    assert watch.entered == [(1, HEAD), run, run, run]


def test_mlx_runs_an_option_that_another_goes_on_from_with_that_one(
    open_named: Callable[[str], Backend], tiny: Path
) -> None:
    watch = score_watched(open_named("mlx").load(tiny, dtype="float32"), OPTIONS, rows=2)
    # Of the six options three tokens of one and one token of another are more than a prompt's end predicts.
    assert watch.entered == [(1, HEAD), (2, 10), (4, 3)]


def test_options_of_one_token_run_nothing_behind_the_prompt(framework: Backend, tiny: Path) -> None:
    watch = score_watched(framework.load(tiny, dtype="float32"), ((20,), (21,), (22,)), rows=4)
    assert watch.entered == [(1, HEAD), (2, 10), (2, 10)]
    assert sum(watch.projected) == 4


def test_what_is_held_at_a_time_is_bounded_and_changes_no_score(
    framework: Backend, tiny: Path, banking: list[Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    model, prompts = framework.load(tiny, dtype="float32"), some_prompts()
    expected = model.score(prompts, banking, prefix=(9, 10))
    backend = import_module(f"rir_mlx.backends.{framework.name}.scoring")
    monkeypatch.setattr("rir_mlx.backends.limits.logits.LOGIT_BYTES", 70 * 4 * model.logits((9,)).shape[-1])
    monkeypatch.setattr(backend, "_TOKENS", 40)
    if framework.name == "mlx":
        monkeypatch.setattr(backend, "_SEEN", 400)
    with watching(model) as watch:
        np.testing.assert_allclose(model.score(prompts, banking, prefix=(9, 10)), expected, atol=1e-4)
    assert max(watch.projected) <= 70
    most = 40 if framework.name == "torch" else 400
    assert all(rows == 1 or rows * tokens <= most for rows, tokens in watch.entered)


def test_kept_prefixes_change_no_score_and_no_text(framework: Backend, tiny: Path) -> None:
    """Rows run after a prefix's keys and values in turn; a row that left its own behind would change the next."""
    model, prompts = framework.load(tiny, dtype="float32"), some_prompts()
    prefixes = [draw(np.random.default_rng(seed), HEAD + seed) for seed in range(3)]

    def results() -> list[tuple[list[float], list[Tokens]]]:
        found = []
        for prefix in prefixes * 2:
            requests = [Request(index, prompt) for index, prompt in enumerate(prompts)]
            done = model.generate(requests, Sampling(max_tokens=6, batch_size=3), prefix=prefix)
            written = {completion.key: completion.tokens for completion in done}
            scores = model.score(prompts, OPTIONS, prefix=prefix)
            found.append((scores.ravel().tolist(), [written[key] for key in sorted(written)]))
        return found

    expected = results()
    model.keep_prefixes(2)
    assert results() == expected


def logits_computed(model: Any, options: Any, *, mass: bool) -> tuple[int, np.ndarray]:
    """How many logits scoring computes, and the probabilities of the options."""
    kept, counted = model.logits_of, list[int]()

    def watched(*given: Any) -> Any:
        made = kept(*given)
        counted.append(int(np.prod(made.shape)))
        return made

    prompts, prefix = some_prompts(), draw(np.random.default_rng(2), HEAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "logits_of", watched)
        scores = model.score(prompts, options, prefix=prefix, mass=mass)
    return sum(counted), np.exp(scores - scores.max(axis=1, keepdims=True))


@pytest.mark.parametrize("options", [OPTIONS, ((20,), (21,), (22,)), ((20, 21, 22),)])
def test_without_the_mass_only_the_words_that_options_begin_with_are_projected_behind_a_prompt(
    framework: Backend, tiny: Path, options: tuple[Tokens, ...]
) -> None:
    model: Any = framework.load(tiny, dtype="float32")
    words, nodes = model.logits((9,)).shape[-1], len(starts_of(list(options)))
    whole, expected = logits_computed(model, options, mass=True)
    fewer, found = logits_computed(model, options, mass=False)
    assert whole == len(LENGTHS) * (1 + nodes) * words
    assert fewer == len(LENGTHS) * (nodes * words + len({option[0] for option in options}))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["QuantizedLinear", "QuantizedEmbedding", "Linear"])
def test_any_head_of_mlx_projects_some_words_as_all(open_named: Callable[[str], Backend], kind: str) -> None:
    open_named("mlx").device()
    import mlx.core as mx
    import mlx.nn as nn

    from rir_mlx.backends.mlx.forward import _Words

    mx.random.seed(0)
    form = {} if kind == "Linear" else {"group_size": 32, "bits": 4}
    sizes = (96, 64) if kind == "QuantizedEmbedding" else (64, 96)
    head = getattr(nn, kind)(*sizes, **form)
    hidden, words = mx.random.normal((3, 64)), mx.array([5, 90, 6])
    whole = head.as_linear(hidden) if kind == "QuantizedEmbedding" else head(hidden)
    np.testing.assert_allclose(np.array(_Words(head, words)(hidden)), np.array(whole[:, words]), rtol=1e-4, atol=1e-5)
