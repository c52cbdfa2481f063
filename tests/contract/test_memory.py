"""A step that does not fit into memory leaves the weights, and one that fits takes no more than it needs."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import start_code
from sequences import (
    SMOOTH,
    assert_same_step,
    draw,
    fresh,
    prepared,
    snapshot,
    some_examples,
    spec_of,
)
from tiny import make_tiny_llama

from rir_mlx.backends.base import (
    Backend,
    Execution,
)
from rir_mlx.errors import Failure, OutOfMemory
from rir_mlx.prompting.batches import step_batches
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples


def test_memory_that_runs_out_while_a_checkpointed_step_is_computed_leaves_the_weights(
    open_named, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX computes when asked to: by then a checkpointed layer's weights belong to the graph that fails."""
    import rir_mlx.backends.mlx.training as module

    batches = step_batches(some_examples(4), [range(4)])
    models = [prepared(open_named("mlx"), tiny, execution=Execution(grad_checkpoint=True)) for _ in range(2)]
    before = snapshot(models[0])

    def full(*_: object) -> None:
        raise RuntimeError("[metal::malloc] Unable to allocate 9 bytes: out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(module.mx, "eval", full)
        with pytest.raises(OutOfMemory):
            models[0].train_step(batches, 1e-2)
    assert all(np.array_equal(before[name], tensor) for name, tensor in snapshot(models[0]).items())
    assert_same_step(models[0], models[1], batches)


def test_running_out_of_memory_changes_no_weight(
    framework: Backend, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch of a step does not fit: the first one's gradient must not be left behind."""
    batches = step_batches(some_examples(4), [[0, 1], [2, 3]])
    module = f"rir_mlx.backends.{framework.name}.training"
    model, untouched = fresh(framework, tiny), fresh(framework, tiny)
    words = {
        "torch": "[enforce fail at alloc_cpu.cpp:120] DefaultCPUAllocator: can't allocate memory",
        "mlx": "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size",
    }
    calls = []
    with monkeypatch.context() as patched:
        from importlib import import_module

        real = import_module(module).batch_loss

        def failing(*arguments, **named):
            calls.append(1)
            if len(calls) > 1:
                raise RuntimeError(words[framework.name])
            return real(*arguments, **named)

        patched.setattr(f"{module}.batch_loss", failing)
        if framework.name == "mlx":
            model.configure_optimizer(SMOOTH)
        with pytest.raises(OutOfMemory):
            model.train_step(batches, 1e-2)
    assert len(calls) == 2
    if framework.name == "mlx":
        model.configure_optimizer(SMOOTH)
    assert_same_step(model, untouched, batches)


def test_peak_memory_does_not_grow_with_the_vocabulary_times_the_prompt(open_named, tiny: Path) -> None:
    """Only the positions that learn are projected. Measured by MLX's allocator: with a vocabulary eight times as large,
    logits of the whole prompts alone would be 15 MB more."""
    import mlx.core as mx

    backend = open_named("mlx")
    peaks = []
    for copies in (1, 8):
        rows = tuple(TrainingExample(draw(np.random.default_rng(row), 170), (), (20, 21)) for row in range(8))
        batches = step_batches(TrainingExamples((), rows), [range(8)])
        model = backend.load(tiny, dtype="float32")
        embedding = model.model.model.embed_tokens
        embedding.weight = mx.concatenate([embedding.weight] * copies)
        model.add_adapter(spec_of("lora"), seed=0)
        model.configure_optimizer(SMOOTH)
        taken = []
        for _ in range(7):  # the thread that computes frees a buffer sooner or later; the first step also makes states
            gc.collect()  # the models of other tests, which would be freed while this one is measured
            mx.synchronize()  # on a busy machine the step before may not have freed its buffers yet
            mx.clear_cache()
            mx.reset_peak_memory()
            before = mx.get_active_memory()
            model.train_step(batches, 1e-3)
            taken.append(mx.get_peak_memory() - before)
        peaks.append(sorted(taken)[len(taken) // 2])
    logits = 8 * 170 * 7 * 390 * 4
    assert logits > 14e6
    assert peaks[1] - peaks[0] < 0.1 * logits


@pytest.mark.parametrize(
    "words",
    [
        "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002)",
        "[METAL] Command buffer execution failed: Impacting Interactivity (0000000e)",
    ],
)
def test_the_display_watchdog_of_macos_is_explained(open_named, tiny: Path, words: str, monkeypatch) -> None:
    """macOS kills long work on the GPU while the display is on. Nothing is set for the user: it is only said."""
    model = fresh(open_named("mlx"), tiny)

    def killed(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(model.training, "_gradient_of", killed)
    with pytest.raises(Failure, match="display is on") as failed:
        model.train_step(step_batches(some_examples(2), [range(2)]), 1e-3)
    assert "AGX_RELAX_CDM_CTXSTORE_TIMEOUT" in failed.value.hint
    assert "AGX_RELAX_CDM_CTXSTORE_TIMEOUT" not in os.environ


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from rir_mlx.backends import open_backend
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.progress import Silent
from rir_mlx.recipe.schema import TrainingSection
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.training.job import TrainingJob, TrainingOutputs
from rir_mlx.training.loop import train

class Loud(Silent):
    def warn(self, text):
        print(text, flush=True)

folder, backend, limited = Path(sys.argv[1]), open_backend("torch"), sys.argv[2] == "limited"
model = backend.load(folder, dtype="float32")
model.add_adapter(AdapterSpec(rank=4), seed=0)
rows = tuple(TrainingExample((20 + i,) * 300, (), (30, 31)) for i in range(32))
options = TrainingSection(batch_size=32, grad_accumulation_steps=1)
job = TrainingJob(TrainingExamples((), rows), TrainingExamples((), ()), options, 0, 3)
if limited:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 120 * 2**20, resource.RLIM_INFINITY))
outcome = train(model, job, TrainingOutputs(Path(sys.argv[2]), lambda: None), progress=Loud())
print("loss", outcome.train_loss, float(np.abs(model.trained_tensors()["model.layers.0.mlp.up_proj.lora_b"]).sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, which only Linux keeps to")
@pytest.mark.heavy
def test_a_process_that_really_runs_out_of_memory_trains_on_in_smaller_batches(tmp_path: Path, open_named) -> None:
    open_named("torch")
    folder = make_tiny_llama(tmp_path / "model", hidden=128)
    processes = [start_code(folder, LIMITED, str(folder), how) for how in ("limited", "free")]
    for process in processes:
        assert process.wait(timeout=300) == 0, process.err()[-2000:]
    ends = [process.out().splitlines() for process in processes]
    assert any("Memory ran out at step 1" in line for line in ends[0][:-1])
    assert len(ends[1]) == 1
    np.testing.assert_allclose(
        [float(word) for word in ends[0][-1].split()[1:]], [float(word) for word in ends[1][-1].split()[1:]], rtol=1e-4
    )
