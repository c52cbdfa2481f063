"""Exports are compared with the libraries' own forward passes: a fault of ours on both sides of an export is found.

Before, an engine loaded the folder and was then asked through our own head, masks and shared prefix. A head that forgot
a factor agreed with itself.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import adapter_for, spec_of, write
from families import VOCABULARY, make_family
from rir_convert.verification.comparison import EngineComparison
from rir_convert.verification.engines.libraries import Library, open_engine
from rir_convert.verification.probe import (
    Probe,
    ProbeAnswers,
    Reference,
    answer_rows,
    mean_difference,
    most_tokens,
    reference_answers,
)
from rir_convert.verification.record import comparison_line, record
from rir_convert.verification.verifier import Verifier, Written

from rir_mlx.backends.base import Backend, Tokens
from rir_mlx.errors import Failure
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import Progress, Silent, Task

pytest.importorskip("torch")
LIBRARIES: dict[str, Library] = {"torch": "transformers", "mlx": "mlx-lm"}
QUIET = Silent()
FAMILIES = ("llama3", "qwen3", "gemma3", "granite", "mistral-window", "phi3-window")


def drawn(*lengths: int) -> list[Tokens]:
    rng = np.random.default_rng(1)
    return [tuple(rng.integers(3, VOCABULARY, length).tolist()) for length in lengths]


class Counted(Silent):
    """How much work was announced, and how much was done."""

    total = done = 0.0

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[Task]:
        self.total += total
        yield self

    def advance(self, amount: float = 1, **fields: float) -> None:
        self.done += amount


def compared(
    backend: Backend,
    base: Path,
    folder: Path,
    libraries: list[Library],
    *,
    short: bool = False,
    progress: Progress = QUIET,
    **how: Any,
) -> list[EngineComparison]:
    """A family's adapter model, as the backend runs it, beside the folder that it was fused into. Rows are longer than
    a window of 16 tokens unless they are to be `short`."""
    files, spec = resolve_model(str(base)), spec_of("lora")
    adapter = (spec, adapter_for(base, spec))
    model = backend.load(base, dtype="float32", adapter=adapter)
    prefix, *prompts = drawn(4, 6, 3) if short else drawn(19, 15, 24)
    options = [(20, 1), (20, 21, 1), (30, 1)]
    probe = Probe(prefix, prompts, options, most_tokens(files.config, model.longest))
    answers = reference_answers(model, probe)
    effect = mean_difference(answer_rows(backend.load(base, dtype="float32"), probe), answers.rows)
    write(folder, files, adapter)
    return Verifier(progress, Reference(probe, answers, effect)).by(libraries, Written(folder, "float32", **how))


@pytest.mark.parametrize("name", FAMILIES)
def test_each_library_agrees_with_our_own_code(framework: Backend, tmp_path: Path, name: str) -> None:
    """Logits after a shared prefix, scores from the tree of labels, and layers, against whole rows without a cache."""
    library = LIBRARIES[framework.name]
    short = library == "mlx-lm" and name.endswith("-window")
    base = make_family(tmp_path / "base", name)
    progress = Counted()
    [result] = compared(framework, base, tmp_path / "out", [library], short=short, progress=progress)
    assert progress.done == progress.total == 2 + 2 * 3, "two rows, and three labels of each"
    assert (result.faults, result.not_compared) == ((), None)
    assert (result.rows, result.label_rows, result.label_agreement) == (2, 2, 1.0)
    assert library in str(result.forward)


Patch = Callable[[pytest.MonkeyPatch], None]


def forget_factor_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rir_mlx.backends.torch.forward.transformed", lambda logits, _: logits)


def forget_window_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rir_mlx.backends.torch.forward.TorchForward._by_layer", lambda _, mask, *__: mask)


def see_the_future_torch(patch: pytest.MonkeyPatch) -> None:
    import torch

    def all_seen(_: Any, before: int, width: int) -> torch.Tensor:
        return torch.ones(1, 1, width, before + width, dtype=torch.bool)

    patch.setattr("rir_mlx.backends.torch.forward.TorchForward.causal", all_seen)


def forget_factor_mlx(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rir_mlx.backends.mlx.forward.MlxForward.logits_of", lambda model, hidden: model.lm_head(hidden))


def let_labels_see_everything_mlx(patch: pytest.MonkeyPatch) -> None:
    from rir_mlx.backends.mlx.scoring import _Continued

    make_mask = _Continued.make_mask
    patch.setattr(_Continued, "make_mask", lambda *given, **named: make_mask(*given, **named) | True)


@pytest.mark.parametrize(
    ("backend", "family", "spoil", "says", "layer"),
    [
        ("torch", "granite", forget_factor_torch, "log-probabilities differ", "model.norm or lm_head"),
        ("torch", "mistral-window", forget_window_torch, "log-probabilities differ", "model.layers.0"),
        ("torch", "llama3", see_the_future_torch, "log-probabilities differ", "model.layers.0"),
        ("mlx", "granite", forget_factor_mlx, "log-probabilities differ", "model.norm or lm_head"),
        ("mlx", "llama3", let_labels_see_everything_mlx, "a label's probability differs", "model.norm or lm_head"),
    ],
)
def test_a_wrong_head_or_mask_of_ours_fails_the_export(
    open_named: Callable[[str], Backend],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    family: str,
    spoil: Patch,
    says: str,
    layer: str,
) -> None:
    """As if the check at load had a gap: it finds these as well."""
    opened, base = open_named(backend), make_family(tmp_path / "base", family)
    monkeypatch.setattr(f"rir_mlx.backends.{backend}.model.check_forward", lambda *_: None)
    spoil(monkeypatch)
    library = LIBRARIES[backend]
    comparisons = compared(opened, base, tmp_path / "out", [library])
    with pytest.raises(Failure, match="is not the model that was trained") as failed:
        record(tmp_path / "out", comparisons)
    assert f"{library}: {says}" in failed.value.what
    assert f"The first layer that differs is {layer}." in failed.value.what


@pytest.mark.parametrize("library", LIBRARIES.values())
def test_no_code_of_ours_runs_in_a_librarys_forward_pass(
    open_named: Callable[[str], Backend], tmp_path: Path, library: Library
) -> None:
    """After our backends were used in the same process: neither registered attention nor changed classes reach it."""
    base, rows = make_family(tmp_path / "base", "gemma2"), drawn(9)
    for name in LIBRARIES:
        open_named(name).load(base, dtype="float32").logits(rows[0])
    engine, ran = open_engine(library, base), set()

    def watch(frame: Any, _event: str, _given: object) -> None:
        ran.add(Path(frame.f_code.co_filename))

    sys.setprofile(watch)
    try:
        next(engine.last_logits(rows, 1))
    finally:
        sys.setprofile(None)
    ours = {path.name for path in ran if {"rir_mlx", "rir_convert"} & set(path.parts)}
    own = {"transformers": {"transformers_engine.py", "threads.py"}, "mlx-lm": {"mlx_lm_engine.py"}}
    assert ours == own[library]
    assert any(library.replace("-", "_") in path.parts for path in ran)


def one_window(_base: Path, _patch: pytest.MonkeyPatch) -> None:
    """Sixteen tokens, and mlx-lm sees all of them."""


def angles_by_layer(base: Path, _patch: pytest.MonkeyPatch) -> None:
    config = json.loads((base / "config.json").read_text())
    kinds = {"full_attention": 500_000.0, "sliding_attention": 10_000.0}
    config["rope_parameters"] = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in kinds.items()}
    (base / "config.json").write_text(json.dumps(config))


def no_code(_base: Path, patch: pytest.MonkeyPatch) -> None:
    import mlx_lm.utils

    patch.setitem(mlx_lm.utils.MODEL_REMAPPING, "llama", "no_such_module")


@pytest.mark.parametrize(
    ("family", "change", "why"),
    [
        (
            "phi3-window",
            one_window,
            "mlx-lm ignores this model's attention window of 16 tokens, and the longest row has 45",
        ),
        ("olmo3", angles_by_layer, "it does not know these rotary settings of sliding-window layers"),
        ("llama2", no_code, "mlx-lm has no code for models of this type"),
    ],
)
def test_a_family_that_a_library_cannot_run_is_named_and_no_fault_unless_the_folder_is_for_it(
    open_named: Callable[[str], Backend],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    change: Callable[[Path, pytest.MonkeyPatch], None],
    why: str,
) -> None:
    open_named("mlx")
    base = make_family(tmp_path / "base", family)
    change(base, monkeypatch)
    torch, out = open_named("torch"), tmp_path / "out"
    comparisons = compared(torch, base, out, ["transformers", "mlx-lm"])
    engines = record(out, comparisons)["engines"]
    assert engines["transformers"]["not_compared"] is None
    assert why in engines["mlx-lm"]["not_compared"]
    assert comparison_line(comparisons[1]).startswith("Not compared with mlx-lm: ")
    with pytest.raises(Failure, match="mlx-lm cannot run it: mlx-lm ") as failed:
        record(out, comparisons[1:])
    assert why in failed.value.what
    [result] = compared(torch, base, out, ["mlx-lm"], made_for="mlx-lm")
    assert result.not_compared is None
    assert "it cannot be loaded or run: " in result.faults[0]
    assert why in result.faults[0]


@pytest.mark.parametrize("library", LIBRARIES.values())
def test_a_base_that_a_library_cannot_load_says_nothing_of_the_adapter_over_it(
    open_named: Callable[[str], Backend], tiny: Path, tmp_path: Path, library: Library
) -> None:
    open_named("torch")
    open_named("mlx")
    shutil.copytree(tiny, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"cut")
    probe = Probe((), drawn(9), ())
    flat = np.zeros((4, 9), np.float32)
    verifier = Verifier(Silent(), Reference(probe, ProbeAnswers([flat], flat, None, []), 1.0))
    written = Written(tmp_path / "base", "float32", adapter=tmp_path / "adapter")
    [result] = verifier.by([library], written)
    assert (result.engine, result.faults) == ("PEFT" if library == "transformers" else library, ())
    assert "cannot load the base model: " in str(result.not_compared)
    assert str(tmp_path) not in str(result.not_compared), "a path of this machine would be published"
