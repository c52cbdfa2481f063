"""One measurement: which rows it has, which rounds count, and what a program ran with."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rir_mlx.errors import Failure
from rir_mlx.speed import fitting, measuring
from rir_mlx.speed.job import Job, drawn_lengths
from rir_mlx.speed.programs import trainers, writers
from rir_mlx.speed.rows import MOST_TOKENS
from rir_mlx.speed.shapes import make_shape


@pytest.fixture(autouse=True)
def _no_counting_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement has its process to itself and counts tokens there to its end."""
    functional = pytest.importorskip("torch").nn.functional
    monkeypatch.setattr(functional, "embedding", functional.embedding)


def job(peer: str, task: str, folder: Path | str = "", **more: Any) -> Job:
    given = Job(peer, task, "torch", str(folder), "float32", **{"batch": 2, "seconds": 0.01, "as_told": True} | more)
    return Job(**json.loads(json.dumps(asdict(given))))  # as the other process gets it


@pytest.mark.parametrize("peer", ["ours", writers.COPIED, writers.LAUNCHED, "transformers-sorted", "generate_batch"])
def test_more_rows_than_go_at_a_time_are_written_with_drawn_lengths(
    peer: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round was one batch of rows of one length: none entered or left while others went on."""
    calls: list[tuple[int, list[int | None]]] = []
    write = writers.WRITERS["torch"][peer]

    def seen(given: Job, model: Any, prefix: Any, requests: Any) -> Any:
        calls.append((given.batch, sorted(request.max_tokens for request in requests)))
        return write(given, model, prefix, requests)

    monkeypatch.setitem(writers.WRITERS["torch"], peer, seen)
    found = measuring.measure(job(peer, "augment", tiny, rows=8, lengths=(3, 9)))
    assert found["rows"] == 8
    assert {call[0] for call in calls} == {2}
    assert [len(lengths) for _, lengths in calls][:2] == [1, 8]
    assert calls[1][1] == sorted(drawn_lengths(range(3, 9), 8))
    assert len(set(calls[1][1])) > 2
    assert bool(found["works"]) == (peer == "ours")


@pytest.mark.parametrize("task", ["label", "reasoning"])
def test_rows_and_batch_of_a_classification_are_told_apart(task: str, tiny: Path) -> None:
    assert measuring.measure(job("ours", task, tiny, rows=5, lengths=(3, 6)))["rows"] == 5


@pytest.mark.parametrize(("first", "later", "counted"), [(3.0, 3.0, [3.0]), (0.5, 0.4, [0.4] * 3)])
def test_a_round_that_counts_is_never_the_first_run(
    first: float, later: float, counted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow peer had one round, with the loading of libraries in it, beside a median of ours that was warm."""
    now, ran = [0.0], list[int]()
    monkeypatch.setattr(fitting.time, "perf_counter", lambda: now[0])

    def work(rows: int) -> None:
        ran.append(rows)
        now[0] += 100.0 if len(ran) == 1 else first if len(ran) == 2 else later

    rows, seconds = measuring._rounds(job("generate-rows", "reasoning", batch=1, rows=4, seconds=1.0), work)
    assert (rows, ran[:2]) == (4, [1, 4])
    assert seconds == pytest.approx(counted)


def test_what_is_launched_differs_from_what_is_copied_in_the_steps_alone() -> None:
    """Rows share a prefix on a GPU only in recorded steps, so that `ours` beside launched steps showed both."""
    model = SimpleNamespace(record=1, shares=True, generate=lambda *_, **__: [])
    assert (
        list(writers.write_launched(job("ours-launched", "augment"), model, (), [SimpleNamespace(max_tokens=1)])) == []
    )  # type: ignore[list-item]
    assert (model.record, model.shares) == (None, False)


def test_pages_are_made_for_the_longest_rows_whatever_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call makes them, and it has few and short rows: a whole batch had no room then."""
    made: dict[str, Any] = {}
    monkeypatch.setattr("transformers.ContinuousBatchingConfig", lambda **sizes: made.update(sizes) or 1 / 0)
    model = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    request = SimpleNamespace(tokens=(1,), max_tokens=1)
    with pytest.raises(ZeroDivisionError):
        list(writers.write_continuous(job("generate_batch", "augment", batch=8), model, (), [request]))  # type: ignore[list-item]
    assert made["num_blocks"] * made["page_size"] >= 8 * MOST_TOKENS


def test_trl_at_its_best_takes_flash_attention_without_padding_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "liger_kernel" else find(name))
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    given = job("trl-best", "qa")
    half = Job(**asdict(given) | {"dtype": "bfloat16"})
    faster, attention, said = trainers.trl_at_its_best(half, "cuda")
    assert {"padding_free": True, "max_length": None, "use_liger_kernel": True}.items() <= faster.items()
    assert (attention, said) == ("flash_attention_2", "flash_attention_2, no padding, Liger, no checkpointing")
    for wide, place in ((given, "cuda"), (half, "cpu")):
        faster, attention, said = trainers.trl_at_its_best(wide, place)
        assert attention == "sdpa"
        assert "padding_free" not in faster
        assert "padded" in said


def test_a_program_says_what_it_trained_with(tmp_path: Path) -> None:
    make_shape(tmp_path, 64, 1, 4096)
    given = job("plain", "qa", tmp_path, steps=2)
    assert measuring.measure(Job(**asdict(given) | {"dtype": "bfloat16"}))["settings"].startswith("adapter in float32")
    assert measuring.measure(given)["settings"] == ""


def test_every_batch_that_is_trained_has_as_many_rows_as_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are 4,828 rows, nine batches of 512 and one of 220, which counted as 512 too."""
    make_shape(tmp_path, 64, 1, 4096)
    make, groups = measuring.make_rows, list[list[list[int]]]()
    monkeypatch.setattr(measuring, "make_rows", lambda codec, task, _: make(codec, task, 7))

    def seen(_: Job, examples: Any, given: list[list[int]], __: Any) -> None:
        assert len(examples.rows) == 6
        groups.append(given)
        raise Failure("enough")

    monkeypatch.setitem(measuring.TRAINERS, "ours", seen)
    with pytest.raises(Failure, match="enough"):
        measuring.measure(job("ours", "qa", tmp_path))
    assert [len(group) for group in groups[0]] == [2, 2, 2]
    with pytest.raises(Failure, match="There are 7 rows to train on, and a batch of 8 needs more"):
        measuring.measure(job("ours", "qa", tmp_path, batch=8))
