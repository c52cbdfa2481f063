"""What a generated row is, on the backends that run a real model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from sequences import HEAD, draw, log_softmax, naive_greedy, random_adapter, spec_of, until_stop

from rir_mlx.backends.base import (
    Backend,
    Completion,
    Model,
    Request,
    Sampling,
    Tokens,
)
from rir_mlx.backends.noise import blocks_of, gumbel_noise
from rir_mlx.types import FineTuneType

LENGTHS = (1, 40, 3, 17, 2, 90)
"""Very different ones, so that most rows of a batch are mostly padding."""
COUNT = 12


def rows_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    return [draw(rng, length) for length in lengths]


def lively(backend: Backend, folder: Path) -> Model:
    """A random model repeats one token; this adapter makes its text vary."""
    spec = spec_of("lora", scale=8.0)
    return backend.load(folder, dtype="float32", adapter=(spec, random_adapter(backend, folder, spec)))


def write(model: Model, rows: list[Tokens], sampling: Sampling, prefix: Tokens = ()) -> dict[int, Completion]:
    requests = [Request(index, row) for index, row in enumerate(rows)]
    done = list(model.generate(requests, sampling, prefix=prefix))
    assert sorted(completion.key for completion in done) == list(range(len(rows)))
    return {completion.key: completion for completion in done}


@pytest.mark.parametrize(("batch_size", "prefix_length"), [(1, HEAD), (3, 0), (3, HEAD), (32, 1), (32, HEAD)])
def test_greedy_text_is_the_likeliest_token_after_token(
    framework: Backend, tiny: Path, batch_size: int, prefix_length: int
) -> None:
    """Padding on the wrong side, or positions that count it, change most of these rows."""
    model, rows = lively(framework, tiny), rows_of()
    prefix = draw(np.random.default_rng(5), prefix_length)
    done = write(model, rows, Sampling(max_tokens=COUNT, batch_size=batch_size), prefix)
    expected = {index: naive_greedy(model, prefix + row, COUNT) for index, row in enumerate(rows)}
    assert {index: completion.tokens for index, completion in done.items()} == expected
    assert {completion.finish_reason for completion in done.values()} == {"length"}
    assert len({token for tokens in expected.values() for token in tokens}) > COUNT


def test_a_request_joins_rows_in_progress_and_gets_its_own_text(framework: Backend, tiny: Path) -> None:
    """None says that no request waits now: a row that comes later enters between two tokens of the others."""
    model, rows = lively(framework, tiny), rows_of()
    prefix, drawn = draw(np.random.default_rng(5), HEAD), list[int]()

    def arriving() -> Iterator[Request | None]:
        for index, row in enumerate(rows):
            yield Request(index, row)
            yield from [None] * (2 * index)

    sampling = Sampling(max_tokens=COUNT, batch_size=4)
    done = model.generate(arriving(), sampling, prefix=prefix, on_token=lambda key, _: drawn.append(key))
    found = {completion.key: completion.tokens for completion in done}
    assert found == {index: naive_greedy(model, prefix + row, COUNT) for index, row in enumerate(rows)}
    assert drawn.index(1) < len(drawn) - 1 - drawn[::-1].index(0) < drawn.index(5)


@pytest.mark.parametrize("prefix_length", [0, HEAD])
def test_a_whole_request_does_not_follow_the_prefix(framework: Backend, tiny: Path, prefix_length: int) -> None:
    model, rows = lively(framework, tiny), rows_of()
    prefix = draw(np.random.default_rng(5), prefix_length)
    requests = [Request(index, row, whole=index % 2 == 1) for index, row in enumerate(rows)]
    done = model.generate(requests, Sampling(max_tokens=COUNT, batch_size=4), prefix=prefix)
    before = {request.key: () if request.whole else prefix for request in requests}
    expected = {index: naive_greedy(model, before[index] + row, COUNT) for index, row in enumerate(rows)}
    assert {completion.key: completion.tokens for completion in done} == expected


def test_the_model_is_as_it_was_after_generating(framework: Backend, tiny: Path) -> None:
    model, rows = lively(framework, tiny), rows_of()
    prefix = draw(np.random.default_rng(5), HEAD)
    before = model.logits(rows[1])
    runs = [write(model, rows, Sampling(max_tokens=5), prefix) for _ in range(2)]
    assert runs[0] == runs[1]
    np.testing.assert_array_equal(model.logits(rows[1]), before)


@pytest.mark.parametrize(("size", "prefix_length"), [(1, HEAD), (2, 0), (3, HEAD)])
def test_a_stop_sequence_ends_a_row_and_is_not_in_it(
    framework: Backend, tiny: Path, size: int, prefix_length: int
) -> None:
    model, rows = lively(framework, tiny), rows_of()
    prefix = draw(np.random.default_rng(5), prefix_length)
    endless = [naive_greedy(model, prefix + row, COUNT) for row in rows]
    stops = (endless[1][4 : 4 + size], endless[3][2 : 2 + size])
    done = write(model, rows, Sampling(max_tokens=COUNT, stop=stops, batch_size=4), prefix)
    expected = {index: until_stop(tokens, stops) for index, tokens in enumerate(endless)}
    assert {index: (completion.tokens, completion.finish_reason) for index, completion in done.items()} == expected
    assert Counter(reason for _, reason in expected.values())["stop"] >= 2


def test_a_stop_sequence_is_found_after_a_false_start(framework: Backend, tiny: Path) -> None:
    """The delimiter a, b is found in a, a, b, where matching from the first a fails at the second."""
    model, rows = lively(framework, tiny), rows_of()
    row, endless, place = next(
        (row, tokens, place)
        for row in rows
        for tokens in [naive_greedy(model, row, 40)]
        for place in range(len(tokens) - 2)
        if tokens[place] == tokens[place + 1] != tokens[place + 2]
    )
    stop = endless[place + 1 : place + 3]
    done = write(model, [row], Sampling(max_tokens=40, stop=(stop,)))[0]
    assert (done.tokens, done.finish_reason) == until_stop(endless, [stop])
    assert done.finish_reason == "stop"


def test_a_stop_sequence_in_the_prompt_does_not_end_the_row(framework: Backend, tiny: Path) -> None:
    """A row that starts with the second half of a stop sequence, whose first half ended the prompt, goes on."""
    model, row = lively(framework, tiny), rows_of()[1]
    endless = naive_greedy(model, row, COUNT)
    stop = (row[-1], endless[0])
    done = write(model, [row], Sampling(max_tokens=COUNT, stop=(stop,)))[0]
    assert (done.tokens, done.finish_reason) == until_stop(endless, [stop])


def test_a_stop_sequence_that_ends_at_the_limit_is_a_stop(framework: Backend, tiny: Path) -> None:
    model, row = lively(framework, tiny), rows_of()[1]
    endless = naive_greedy(model, row, 6)
    done = write(model, [row], Sampling(max_tokens=6, stop=(endless[4:6],)))[0]
    assert (done.tokens, done.finish_reason) == until_stop(endless, [endless[4:6]])
    assert done.finish_reason == "stop"


def test_on_token_sees_each_token_in_order(framework: Backend, tiny: Path) -> None:
    model, rows = lively(framework, tiny), rows_of()
    stop = naive_greedy(model, rows[1], COUNT)[3:5]
    seen: dict[int, list[int]] = {index: [] for index in range(len(rows))}
    requests = [Request(index, row) for index, row in enumerate(rows)]
    sampling = Sampling(max_tokens=COUNT, stop=(stop,), batch_size=4)
    done = list(model.generate(requests, sampling, on_token=lambda key, token: seen[key].append(token)))
    assert len(done) == len(rows)
    for completion in done:
        assert tuple(seen[completion.key]) == completion.tokens + (stop if completion.finish_reason == "stop" else ())
    assert "stop" in {completion.finish_reason for completion in done}


def test_a_generator_that_is_left_early_does_no_harm(framework: Backend, tiny: Path) -> None:
    model, rows = lively(framework, tiny), rows_of()
    sampling = Sampling(max_tokens=4, batch_size=2)
    left = model.generate([Request(index, row) for index, row in enumerate(rows)], sampling)
    next(iter(left))
    del left
    expected = {index: naive_greedy(model, row, 4) for index, row in enumerate(rows)}
    assert {key: completion.tokens for key, completion in write(model, rows, sampling).items()} == expected


def test_nothing_is_written_for_no_rows(framework: Backend, tiny: Path) -> None:
    model = framework.load(tiny, dtype="float32")
    assert list(model.generate([], Sampling(), prefix=(9, 10, 11))) == []


def test_a_sampled_row_depends_on_its_own_seed_alone(framework: Backend, tiny: Path) -> None:
    """mlx-lm draws every row from one global stream, so that a row's text changed with the rows beside it."""
    model, rows = lively(framework, tiny), rows_of()

    def sample(requests: list[Request], batch_size: int) -> dict[int, Tokens]:
        sampling = Sampling(max_tokens=6, temperature=1.0, top_p=0.95, batch_size=batch_size)
        return {completion.key: completion.tokens for completion in model.generate(requests, sampling)}

    requests = [Request(index, row, seed=100 + index) for index, row in enumerate(rows)]
    together = sample(requests, 4)
    assert sample(requests, 4) == together
    assert sample(requests[::-1], 1) == together
    assert {key: tokens for request in requests for key, tokens in sample([request], 4).items()} == together
    neighbours = [Request(index, rows[5 - index], seed=7 * index) for index in range(5)]
    assert sample([*neighbours, Request(9, rows[1], seed=101)], 6)[9] == together[1]


def test_a_row_has_a_limit_of_its_own(framework: Backend, tiny: Path) -> None:
    model, rows = lively(framework, tiny), rows_of()
    limits = [1, 9, 4, 30, 2, 12]
    requests = [Request(index, row, max_tokens=limits[index]) for index, row in enumerate(rows)]
    done = {
        completion.key: completion.tokens
        for completion in model.generate(requests, Sampling(max_tokens=COUNT, batch_size=2))
    }
    assert done == {i: naive_greedy(model, row, min(limits[i], COUNT)) for i, row in enumerate(rows)}


def test_rows_enter_as_others_leave(framework: Backend, tiny: Path) -> None:
    """In groups, the ninth of these rows would wait for the one long row, and come last."""
    model = lively(framework, tiny)
    rows = rows_of((5,) * 24)
    requests = [Request(index, row, max_tokens=40 if index == 0 else 2) for index, row in enumerate(rows)]
    order = [completion.key for completion in model.generate(requests, Sampling(max_tokens=40, batch_size=8))]
    assert order[-1] == 0
    assert sorted(order) == list(range(24))


def test_requests_are_taken_as_they_are_needed(framework: Backend, tiny: Path) -> None:
    """A million requests at once would be all in memory."""
    model, taken = lively(framework, tiny), []

    def endless() -> Iterator[Request]:
        for index in count():
            taken.append(index)
            yield Request(index, (9, 10, 11 + index % 7))

    going = model.generate(endless(), Sampling(max_tokens=2, batch_size=2))
    assert len([next(going) for _ in range(30)]) == 30
    assert len(taken) <= 130


def _naive_draws(model: Model, row: Tokens, seed: int, sampling: Sampling, length: int) -> Tokens:
    """One row by the definitions, without a cache or a batch, in float64."""
    written: list[int] = []
    for step in range(length):
        logits = model.logits((*row, *written))[-1].astype(np.float64)
        for token in set(written):
            penalty = sampling.repetition_penalty
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        probabilities = np.exp(log_softmax(logits / sampling.temperature))
        order = np.argsort(-probabilities)
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= sampling.top_p]] = 0
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
        blocks, width = blocks_of(len(probabilities))
        noise = gumbel_noise(seed, step, (1, blocks + width))[0].astype(np.float64)
        cut = np.pad(probabilities, (0, blocks * width - len(probabilities))).reshape(blocks, width)
        with np.errstate(divide="ignore"):
            block = int(np.argmax(np.log(cut.sum(axis=1)) + noise[:blocks]))
            written.append(block * width + int(np.argmax(np.log(cut[block]) + noise[blocks:])))
    return tuple(written)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(COUNT, temperature=0.8, batch_size=4),
        Sampling(COUNT, temperature=1.2, top_p=0.7, batch_size=4),
        Sampling(COUNT, temperature=1.0, min_p=0.2, batch_size=4),
        Sampling(COUNT, temperature=0.8, repetition_penalty=1.5, batch_size=4),
        Sampling(COUNT, temperature=0.9, top_p=0.9, min_p=0.05, repetition_penalty=1.2, batch_size=4),
    ],
    ids=["temperature", "top-p", "min-p", "penalty", "all of them"],
)
def test_draws_are_those_of_the_definitions(framework: Backend, tiny: Path, sampling: Sampling) -> None:
    """On either backend, so both write the same from the same seed."""
    model, rows = lively(framework, tiny), rows_of((6, 3, 11))
    requests = [Request(index, row, seed=2**40 + index) for index, row in enumerate(rows)]
    done = {completion.key: completion.tokens for completion in model.generate(requests, sampling)}
    assert done == {i: _naive_draws(model, row, 2**40 + i, sampling, COUNT) for i, row in enumerate(rows)}


def test_a_penalty_makes_greedy_text_repeat_itself_less(framework: Backend, tiny: Path) -> None:
    model, row = framework.load(tiny, dtype="float32"), rows_of()[1]

    def distinct(penalty: float) -> int:
        sampling = Sampling(max_tokens=30, repetition_penalty=penalty)
        return len(set(next(iter(model.generate([Request(0, row)], sampling))).tokens))

    assert distinct(1.0) < distinct(1.3) <= distinct(5.0) == 30


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_fused_model_is_the_adapted_one(framework: Backend, tiny: Path, kind: FineTuneType) -> None:
    spec = spec_of(kind, scale=8.0)
    model = framework.load(tiny, dtype="float32", adapter=(spec, random_adapter(framework, tiny, spec)))
    row = rows_of()[1]
    before, plain = model.logits(row), framework.load(tiny, dtype="float32").logits(row)
    model.fuse()
    np.testing.assert_allclose(model.logits(row), before, atol=2e-4)
    assert np.abs(before - plain).max() > 0.1


def test_fusing_in_bfloat16_rounds_once(framework: Backend, tiny: Path) -> None:
    """Added in bfloat16, a small update is rounded away: its own rounding comes on top of the sum's."""
    spec = spec_of("lora", scale=1.0)
    adapter = (spec, random_adapter(framework, tiny, spec))
    exact, row = framework.load(tiny, dtype="float32", adapter=adapter), rows_of()[1]
    fused = framework.load(tiny, dtype="bfloat16", adapter=adapter)
    fused.fuse()
    plain = framework.load(tiny, dtype="bfloat16")
    error = np.abs(fused.logits(row) - exact.logits(row)).mean()
    update = np.abs(exact.logits(row) - plain.logits(row)).mean()
    assert error < 0.3 * update


def test_seeds_give_different_texts(framework: Backend, tiny: Path) -> None:
    model, row = lively(framework, tiny), rows_of()[1]
    sampling = Sampling(max_tokens=COUNT, temperature=1.0)
    done = list(model.generate([Request(seed, row, seed=seed) for seed in range(16)], sampling))
    assert len({completion.tokens for completion in done}) == 16


def test_a_row_draws_anew_at_each_token(framework: Backend, tiny: Path) -> None:
    """A key that is used twice gives the same quantile at each place: hot enough, the same token over and over."""
    model, row = lively(framework, tiny), rows_of()[1]
    done = next(iter(model.generate([Request(0, row, seed=1)], Sampling(max_tokens=40, temperature=100.0))))
    assert len(set(done.tokens)) > 25


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1, temperature=0.7, batch_size=500),
        Sampling(1, temperature=1.5, batch_size=500),
        Sampling(1, temperature=1.0, top_p=0.6, batch_size=500),
        Sampling(1, temperature=1.0, min_p=0.1, batch_size=500),
    ],
    ids=["cool", "hot", "top-p", "min-p"],
)
def test_draws_follow_the_models_probabilities(framework: Backend, tiny: Path, sampling: Sampling) -> None:
    model, row = lively(framework, tiny), rows_of()[2]
    draws = 1000
    done = list(model.generate([Request(seed, row, seed=seed) for seed in range(draws)], sampling))
    counts = np.bincount([completion.tokens[0] for completion in done], minlength=model.logits(row).shape[-1])
    expected = np.exp(log_softmax(model.logits(row)[-1] / sampling.temperature))
    order = np.argsort(-expected)
    before = np.cumsum(expected[order]) - expected[order]
    expected[order[before >= sampling.top_p]] = 0
    expected[expected < sampling.min_p * expected.max()] = 0
    expected *= draws / expected.sum()
    assert counts[expected == 0].sum() == 0
    # Chi-square over the likely tokens and all others together; beyond six standard deviations once in a million.
    likely = expected >= 5
    found, wanted = (np.append(array[likely], array[~likely].sum()) for array in (counts, expected))
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    assert ((found - wanted) ** 2 / wanted).sum() < len(wanted) + 6 * np.sqrt(2 * len(wanted))


def test_draws_in_bfloat16_reach_what_is_rare(framework: Backend, tmp_path: Path) -> None:
    """Summed up in 16 bits, a vocabulary's many rare words lost nine tenths of their share."""
    from tiny import make_tiny_llama

    folder = make_tiny_llama(tmp_path / "wide", vocabulary=32_000)
    model, row = framework.load(folder, dtype="bfloat16"), rows_of()[1]
    probabilities = np.exp(log_softmax(model.logits(row)[-1] / 2.0))
    rare = np.sort(probabilities)[:-100].sum()
    assert rare > 0.5
    done = list(
        model.generate([Request(n, row, seed=n) for n in range(250)], Sampling(1, temperature=2.0, batch_size=50))
    )
    threshold = np.sort(probabilities)[-100]
    share = np.mean([probabilities[completion.tokens[0]] < threshold for completion in done])
    # Five standard deviations, and what bfloat16 does to the logits themselves.
    assert share == pytest.approx(rare, abs=5 * np.sqrt(rare * (1 - rare) / 250) + 0.02)


def test_a_nucleus_of_one_token_is_greedy(framework: Backend, tiny: Path) -> None:
    model, row = lively(framework, tiny), rows_of()[1]
    done = next(iter(model.generate([Request(0, row, seed=3)], Sampling(COUNT, temperature=1.0, top_p=1e-6))))
    assert done.tokens == naive_greedy(model, row, COUNT)
