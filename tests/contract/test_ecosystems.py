"""An adapter folder opens unchanged in mlx-lm and in PEFT, and there computes what it computes here.

The tiny model's q_proj and o_proj are square, and so are its low-rank factors at rank 32: a transpose that is left
out shows in the logits alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from processes import start_code
from safetensors.numpy import load_file
from sequences import draw, random_adapter, spec_of

from rir_mlx.backends.base import Backend
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.adapters import Adapter, write_adapter
from rir_mlx.models.hub import ModelFiles

TOKENS = draw(np.random.default_rng(0), 100)
TOLERANCE = 5e-5
SPECS = [
    AdapterSpec(kind, num_layers=layers, rank=rank, scale=3.0, dropout=0.1, keys=keys)  # type: ignore[arg-type]
    for kind in ("lora", "dora")
    for layers, rank, keys in (
        (-1, 4, ()),
        (1, 4, ()),
        (2, 32, ("self_attn.q_proj", "self_attn.o_proj")),
    )
]


def name_of(spec: AdapterSpec) -> str:
    return f"{spec.fine_tune_type}-{spec.num_layers}-layers-rank-{spec.rank}"


@pytest.fixture(params=SPECS, ids=name_of)
def made(
    request: pytest.FixtureRequest, framework: Backend, tiny: Path, tiny_files: ModelFiles, tmp_path: Path
) -> tuple[Path, np.ndarray]:
    """A written adapter folder, and the logits of the model that it was taken from."""
    spec = request.param
    tensors = random_adapter(framework, tiny, spec)
    model = framework.load(tiny, dtype="float32", adapter=(spec, tensors))
    logits = model.logits(TOKENS)
    assert np.abs(logits - framework.load(tiny, dtype="float32").logits(TOKENS)).max() > 0.1
    write_adapter(tmp_path / "adapter", Adapter(spec, model.trained_tensors(), {}), tiny_files)
    return tmp_path / "adapter", logits


def test_mlx_lm_opens_the_adapter(
    made: tuple[Path, np.ndarray], tiny: Path, open_named: Callable[[str], Backend]
) -> None:
    open_named("mlx")  # first, as mlx_lm lowers the limit of open files for all tests after it
    import mlx.core as mx
    import mlx_lm

    folder, expected = made
    model, _ = mlx_lm.load(str(tiny), adapter_path=str(folder))
    model.eval()
    logits = np.array(model(mx.array([TOKENS]))[0].astype(mx.float32))
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_peft_opens_the_adapter(made: tuple[Path, np.ndarray], tiny: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder, expected = made
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, folder).eval()
    # PEFT puts an adapter of zeros, and a warning, wherever the config names a layer that the file does not hold.
    state = peft.get_peft_model_state_dict(model)
    assert set(state) == set(load_file(folder / "adapter_model.safetensors"))
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_peft_merges_the_adapter(made: tuple[Path, np.ndarray], tiny: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder, expected = made
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_mlx_lm_opens_weights_that_were_trained_in_full(
    framework: Backend, tiny: Path, tiny_files: ModelFiles, tmp_path: Path, open_named: Callable[[str], Backend]
) -> None:
    open_named("mlx")
    import mlx.core as mx
    import mlx_lm

    spec = spec_of("full")
    tensors = random_adapter(framework, tiny, spec)
    write_adapter(tmp_path / "adapter", Adapter(spec, tensors, {}), tiny_files)
    expected = framework.load(tiny, dtype="float32", adapter=(spec, tensors)).logits(TOKENS)
    model, _ = mlx_lm.load(str(tiny), adapter_path=str(tmp_path / "adapter"))
    model.eval()
    logits = np.array(model(mx.array([TOKENS]))[0].astype(mx.float32))
    # Weights changed by 0.1 make logits of size 30 and more.
    np.testing.assert_allclose(logits, expected, atol=20 * TOLERANCE)
    assert not (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_opening_mlx_leaves_the_limit_of_open_files(tmp_path: Path) -> None:
    """`import mlx_lm` sets the limits to 2048 and 4096, and a hard limit never rises again."""
    if find_spec("mlx_lm") is None:
        pytest.skip("mlx_lm is not installed")
    code = (
        "import resource, sys; files = resource.RLIMIT_NOFILE\n"
        "for name in list(sys.modules):\n"  # a warm process has imported it, and now does so once more
        "    if name.startswith(('mlx_lm', 'rir_mlx.backends.mlx')): del sys.modules[name]\n"
        "before = (1000, resource.getrlimit(files)[1])\n"
        "resource.setrlimit(files, before)\n"
        "original = resource.setrlimit\n"
        "import rir_mlx.backends.mlx, mlx_lm\n"
        "assert resource.getrlimit(files) == before, resource.getrlimit(files)\n"
        "assert resource.setrlimit is original\n"
        "print('same')"
    )
    process = start_code(tmp_path, code)
    assert (process.wait(timeout=300), process.out().strip()) == (0, "same"), process.err()


def test_no_framework_is_imported_before_a_backend_is_opened() -> None:
    modules = ["rir_mlx.backends", "rir_mlx.stages", "rir_cli.app", "rir_convert.exporting"]
    code = (
        "import sys, importlib\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        "    print(module, sorted({'torch', 'mlx', 'mlx_lm', 'peft', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{module} []" for module in modules]


def test_auto_is_the_number_format_that_a_model_is_loaded_in(framework: Backend, tiny: Path) -> None:
    """What the report names is what the weights take in memory."""
    model = framework.load(tiny)
    width = {"float32": 4, "bfloat16": 2}[framework.facts().auto]
    assert model.weight_bytes == width * model.parameters
