"""`rir-mlx bench`: shares of the limit, other programs beside it, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import command

from rir_mlx.errors import Failure, ModelError, UserError
from rir_mlx.guide.models import MIRROR_CONFIG
from rir_mlx.models.families import ModelShape
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.speed import bench as module
from rir_mlx.speed import shapes
from rir_mlx.speed.bench import Bench, BenchOptions, bench_steps
from rir_mlx.speed.job import Job
from rir_mlx.speed.rows import DATE, classification_prompts, joined_texts

LIMITS = {"flops": 100.0, "bandwidth": 10.0, "dtype": "float32", "width": 512, "copied": 2**26}
LORA = load_recipe("demo", ["fine_tune_type=lora"])


def measured(given: Mapping[str, Any], _: float) -> dict[str, Any]:
    """As a process would: ours runs two rows in 1, 2 and 4 seconds, and 50 operations and 30 bytes are the least; a
    peer takes ten seconds, and no reasoning can be written."""
    if "peer" not in given:
        return {"device": "a processor", "accelerator": None, "limits": LIMITS}
    if given["task"] == "reasoning":
        raise Failure("no reasoning")
    seconds = [1.0, 4.0, 2.0] if given["peer"] == "ours" else [10.0]
    works = [[{"flops": 50.0, "bytes": 2.0}, {"flops": 1.0, "bytes": 4.0}]] * 3 if given["peer"] == "ours" else []
    rates = [2 / each for each in seconds]
    assert given["batch"] == (8 if given["peer"] == "ours" else 2)
    return {"rows": 2, "seconds": seconds, "rows/s": rates, "tokens/s": rates, "peak GB": 0.5, "works": works}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(module, "run_apart", measured)
    monkeypatch.setattr(module, "check_rival", lambda *_: None)
    options = BenchOptions(("qa", "augment", "reasoning"), 1, "torch", "trl", batch=8)
    return list(bench_steps(LORA, options))[-1]


def test_a_share_is_the_least_time_of_the_limits_in_the_median_round(done: Bench) -> None:
    mine = done.parts[0]
    assert (mine.rows_per_s, mine.rows_range, mine.rounds) == (1.0, (0.5, 2.0), 3)
    assert mine.share == pytest.approx((0.5 + 0.4) / 2)
    assert mine.limit == "arithmetic"


def test_another_program_gets_the_same_rows_at_a_time_and_a_ratio(done: Bench) -> None:
    assert [(part.task, part.program) for part in done.parts] == [
        ("qa", "rir-mlx"),
        ("qa", "trl"),
        ("augment", "rir-mlx"),
        ("augment", "trl"),
        ("reasoning", "rir-mlx"),
    ]
    assert done.faster == {"qa": 5.0}
    assert done.parts[3].failed == "trl only trains"


def test_every_program_trains_the_layers_and_modules_of_the_recipe() -> None:
    """Others trained every module of every layer, whatever the recipe says, so that ours seemed faster than it is."""
    recipe = load_recipe(LORA, ["num_layers=1", "lora_parameters.keys=[self_attn.q_proj]"])
    [job] = module._jobs(recipe, BenchOptions(("qa",)), ("torch", "folder", "float32"))
    given = Job(**json.loads(json.dumps(asdict(job))))  # as the other process gets it
    assert (given.spec.num_layers, given.spec.keys) == (1, ("self_attn.q_proj",))


def test_weights_that_are_all_trained_are_measured_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, Any]] = []
    monkeypatch.setattr(module, "run_apart", lambda given, _: asked.append(given) or measured(given, _))
    recipe = load_recipe("demo", ["fine_tune_type=full", "dtype=auto"])
    next(bench_steps(recipe, BenchOptions(backend="torch")))
    assert asked[0]["dtype"] == "float32"


def test_fewer_rows_at_a_time_are_the_first_ones_and_not_the_shortest(tiny: Path) -> None:
    """Another program gets as many rows as ours could take. It got the first ones, and ours had taken the shortest."""
    codec = Codec(tiny, DATE)
    many, few = (classification_prompts(codec, joined_texts(count), "qa", [0] * count) for count in (16, 4))
    assert many.first(4).rows == few.first(4).rows == sorted(many.rows[:4], key=len)
    assert many.first(4).rows != sorted(many.rows, key=len)[:4]


def test_what_fails_is_said_and_the_rest_is_measured(done: Bench) -> None:
    assert done.parts[-1].failed == "no reasoning"
    line = "qa 1 rows/s (45% of the limit), augment 1 rows/s (45% of the limit); against trl: 5.00x qa"
    assert done.line().endswith(line)


def test_the_whole_run_ends_in_time_and_says_what_no_longer_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only each part had a limit, of some nine minutes: all of them could take three quarters of an hour."""
    now, limits = [0.0], list[float]()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def slow(given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        if "peer" not in given:
            return measured(given, seconds)
        limits.append(seconds)
        now[0] += min(seconds, 200.0)
        if seconds < 200:
            raise Failure("It took more than 80 s.")
        return measured(given, seconds)

    monkeypatch.setattr(module, "run_apart", slow)
    found = list(bench_steps(LORA, BenchOptions(("qa", "qra", "augment"), backend="torch", batch=8)))[-1]
    assert now[0] < 300
    assert limits == [280, 80]
    assert [part.failed for part in found.parts] == [
        None,
        *(f"The time for all tasks was over. Add --only {task} to the same command." for task in ("qra", "augment")),
    ]
    list(bench_steps(LORA, BenchOptions(("qa",), backend="torch", batch=8)))
    assert limits[-1] == 570, "a task that is measured alone gets as long as one task may take"


@pytest.mark.parametrize(
    ("rival", "backend", "recipe", "hint"),
    [
        ("mlx-lm", "torch", LORA, "--backend mlx"),
        ("trl", "torch", LORA, "pip install trl"),
        ("peft", "torch", load_recipe("demo", ["fine_tune_type=full"]), "fine_tune_type=lora"),
    ],
)
def test_a_program_that_cannot_be_compared_is_refused(
    rival: Any, backend: str, recipe: Any, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trl" else find(name))
    with pytest.raises(UserError) as refused:
        module.check_rival(rival, backend, recipe)
    assert hint in refused.value.hint


def test_random_weights_take_the_place_of_a_model_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = MIRROR_CONFIG | {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 96, "vocab_size": 2048}
    monkeypatch.setattr(shapes, "MIRROR_CONFIG", small)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "meta-llama/Llama-3.2-1B"
    folder, is_random = shapes.model_folder(name, tmp_path / "model", offline=True)
    assert is_random
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert ModelShape.of(written) == ModelShape.of(small)
    drawn = shapes._drawn(np.random.default_rng(0), 64, 64).astype(np.float32)
    assert 1 / 64 <= np.abs(drawn).min() <= np.abs(drawn).max() <= 1 / 32
    assert abs(drawn.mean()) < 0.002
    with pytest.raises(ModelError, match="its shape is not known"):
        shapes.model_folder("nobody/nothing", tmp_path / "other", offline=True)


@pytest.mark.parametrize(("what", "said"), [("free_disk", "GB free"), ("physical_memory", "GB of memory")])
def test_random_weights_that_have_no_room_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    monkeypatch.setattr(shapes, what, lambda *_: 10**6)
    with pytest.raises(UserError, match=said):
        shapes.model_folder("meta-llama/Llama-3.2-1B", tmp_path / "model", offline=True)


@pytest.mark.heavy
def test_bench_measures_this_machine_and_mlx_lm_beside_it(tmp_path: Path) -> None:
    arguments = ["--only", "label", "--against", "mlx-lm", "--backend", "mlx", "--seconds", "0.1"]
    more = ["--set", "fine_tune_type=lora", "--batch", "2", "--json", "--quiet"]
    found = json.loads(command(tmp_path, "bench", "demo", *arguments, *more).out)
    assert [(part["task"], part["program"]) for part in found["parts"]] == [
        ("label", program) for program in ("rir-mlx", "mlx-lm")
    ]
    for part in found["parts"]:
        assert part["failed"] is None
        assert part["rows"] in (1, 2)
        assert part["rows_per_s"] > 0
        assert (part["share"] is None) == (part["program"] == "mlx-lm")
    assert set(found["faster"]) == {"label"}
    assert not found["random_weights"]
