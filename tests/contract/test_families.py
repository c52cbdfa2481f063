"""Models of many families against plain transformers, on both backends: nothing of ours stands on the other side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES, IGNORED_BY_MLX, ODD_TO_TRAIN, UNLISTED, VOCABULARY, WINDOW, Plain, make_family
from sequences import spec_of

from rir_mlx.backends.base import Backend, Batch, Execution, Model, OptimizerSpec, Request, Sampling, Tokens, pad_right
from rir_mlx.errors import ModelError
from rir_mlx.types import Dtype

pytest.importorskip("torch")
LEARNED = 2
OPTIONS: tuple[Tokens, ...] = ((20,), (20, 21, 22), (30, 31))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_family(tmp_path_factory.mktemp("families") / name, name)
        return made[name]

    return folder


def drawn(lengths: tuple[int, ...]) -> tuple[Tokens, list[Tokens]]:
    """A prefix and rows of these lengths."""
    rng = np.random.default_rng(1)
    first, *rest = (tuple(rng.integers(3, VOCABULARY, length).tolist()) for length in lengths)
    return first, rest


def batch_of(prefix: Tokens, rows: list[Tokens]) -> Batch:
    tokens, lengths = pad_right(rows)
    weights = np.zeros(tokens.shape, dtype=np.float32)
    for row, length in enumerate(lengths):
        weights[row, length - LEARNED : length] = 1 / (LEARNED * len(rows))
    return Batch(prefix, tokens, lengths, weights)


def full_step(model: Model, batch: Batch, execution: Execution) -> tuple[float, float]:
    """Of all weights, which stay as they are."""
    model.configure_optimizer(OptimizerSpec(max_grad_norm=1e9), execution)
    result = model.train_step([batch], 0.0)
    return result.loss, result.grad_norm


def assert_right(backend: Backend, folder: Path, lengths: tuple[int, ...]) -> None:
    model, plain = backend.load(folder, dtype="float32"), Plain(folder)
    prefix, rows = drawn(lengths)
    for row, logits in zip(rows, model.last_logits(rows, 99, prefix=prefix), strict=True):
        np.testing.assert_allclose(logits, plain.numpy(prefix + row)[len(prefix) :], atol=1e-4)
    expected = [[plain.score(prefix + row, option) for option in OPTIONS] for row in rows]
    np.testing.assert_allclose(model.score(rows, OPTIONS, prefix=prefix, batch_size=2), expected, atol=1e-4)
    shared = model.score(rows, OPTIONS, prefix=prefix, batch_size=2, mass=False) - expected
    np.testing.assert_allclose(shared - shared[:, :1], 0, atol=1e-4)
    assert_generated(model, plain, prefix, rows)
    wanted = plain.loss_and_gradient([prefix + row for row in rows], LEARNED)
    shared, whole = batch_of(prefix, rows), batch_of((), [prefix + row for row in rows])
    assert model.loss(shared) == pytest.approx(wanted[0], abs=1e-4)
    model.add_adapter(spec_of("full"), seed=0)
    for batch, execution in ((shared, Execution()), (whole, Execution()), (shared, Execution(grad_checkpoint=True))):
        assert full_step(model, batch, execution) == pytest.approx(wanted, rel=1e-4)


def assert_generated(model: Model, plain: Plain, prefix: Tokens, rows: list[Tokens]) -> None:
    """In a small batch, and in one of many rows, where some do not follow the prefix."""
    texts = {(False, row): plain.greedy(prefix + row, 3) for row in rows} | {(True, rows[0]): plain.greedy(rows[0], 3)}
    for count, batch_size in ((1, 2), (-(-16 // len(rows)), 18)):
        wanted = [(key == 2 * len(rows), row) for key, row in enumerate(rows * count)]
        requests = [Request(key, row, whole=whole) for key, (whole, row) in enumerate(wanted)]
        done = model.generate(requests, Sampling(3, batch_size=batch_size), prefix=prefix)
        found = {completion.key: completion.tokens for completion in done}
        assert [found[key] for key in range(len(wanted))] == [texts[each] for each in wanted]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_path_computes_what_plain_transformers_computes(
    framework: Backend, folder_of: Callable[[str], Path], name: str
) -> None:
    """Logits, scores, greedy text, loss and gradient, with rows much longer than a window of 16."""
    ignored = framework.name == "mlx" and name in IGNORED_BY_MLX
    assert_right(framework, folder_of(name), (4, 8, 3) if ignored else (19, 15, 4, 9))


@pytest.mark.parametrize("name", UNLISTED)
def test_a_family_that_nothing_was_written_for_writes_what_plain_transformers_writes(
    open_named: Callable[[str], Backend], tmp_path: Path, name: str
) -> None:
    folder = make_family(tmp_path / name, name)
    prefix, rows = drawn((19, 15, 4, 9))
    assert_generated(open_named("torch").load(folder, dtype="float32"), Plain(folder), prefix, rows)


@pytest.mark.parametrize("name", ODD_TO_TRAIN)
def test_a_family_that_nothing_was_written_for_learns_what_plain_transformers_learns(
    framework: Backend, tmp_path: Path, name: str
) -> None:
    """Training of these ended in a traceback, or in an adapter for all experts of all layers."""
    import torch

    if framework.name == "mlx" and name != "ministral3":
        pytest.skip("mlx-lm has no such model, or cannot read this config")
    folder = make_family(tmp_path / name, name)
    assert_right(framework, folder, (19, 15, 4))
    plain, (prefix, rows) = Plain(folder), drawn((19, 15, 4))
    wanted, _ = plain.loss_and_gradient([prefix + row for row in rows], LEARNED)
    for kind in ("lora", "dora"):
        model = framework.load(folder, dtype="float32")
        model.add_adapter(spec_of(kind, num_layers=1), seed=0)
        model.configure_optimizer(OptimizerSpec())
        assert model.train_step([batch_of(prefix, rows)], 0.0).loss == pytest.approx(wanted, abs=1e-4)
        adapted = {tensor.rpartition(".")[0] for tensor in model.trained_tensors()}
        assert adapted
        assert all(type(plain.model.get_submodule(module)) is torch.nn.Linear for module in adapted)
        assert {module.partition("layers.")[2][0] for module in adapted} == {"1"}


@pytest.mark.parametrize("name", sorted(IGNORED_BY_MLX))
def test_mlx_refuses_sequences_beyond_a_window_that_it_ignores(
    open_named: Callable[[str], Backend], folder_of: Callable[[str], Path], name: str
) -> None:
    model = open_named("mlx").load(folder_of(name), dtype="float32")
    assert model.longest == WINDOW
    prefix, rows = drawn((10, 9))
    assert_refused(model, prefix, rows, "window of 16", "--backend torch")


def assert_refused(model: Model, prefix: Tokens, rows: list[Tokens], says: str, hint: str) -> None:
    """Every path names the limit that the rows exceed."""
    model.add_adapter(spec_of("lora"), seed=0)
    model.configure_optimizer(OptimizerSpec())
    for run in (
        lambda: model.loss(batch_of(prefix, rows)),
        lambda: model.train_step([batch_of(prefix, rows)], 0.0),
        lambda: model.score(rows, OPTIONS, prefix=prefix),
        lambda: list(model.last_logits(rows, 1, prefix=prefix)),
        lambda: list(model.generate([Request(0, rows[0])], Sampling(1), prefix=prefix)),
    ):
        with pytest.raises(ModelError, match=says) as refused:
            run()
        assert hint in (refused.value.hint or "")


_LONG = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [2.0, 3.0, 4.0, 5.0]}
_CHANGING: dict[str, dict[str, object]] = {
    "dynamic": {"max_position_embeddings": 24, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
    "longrope": {
        "original_max_position_embeddings": 24,
        "rope_parameters": {"rope_type": "longrope", **_LONG},
    },
}


@pytest.mark.parametrize("kind", _CHANGING)
def test_angles_that_change_with_the_length_are_right_up_to_there_and_then_refused(
    framework: Backend, tmp_path: Path, kind: str
) -> None:
    """A kept prefix had the angles of a short sequence, and a batch those of its longest row."""
    folder = make_family(tmp_path / kind, "phi3" if kind == "longrope" else "llama2", **_CHANGING[kind])
    assert_right(framework, folder, (11, 9, 4))
    model = framework.load(folder, dtype="float32")
    assert model.longest == 24
    prefix, rows = drawn((20, 5, 3))
    assert_refused(model, prefix, rows, "longer than the 24", "max_seq_length to at most 24")


def test_a_model_ends_at_the_positions_that_it_learned(open_named: Callable[[str], Backend], tmp_path: Path) -> None:
    """An IndexError inside the embedding ended the command."""
    folder = make_family(tmp_path / "opt", "opt", max_position_embeddings=24)
    model = open_named("torch").load(folder, dtype="float32")
    assert_refused(model, *drawn((20, 5, 3)), "the 24 positions", "max_seq_length")


@pytest.mark.parametrize("name", ["phi", "glm"])
def test_a_share_of_a_head_is_rotated_as_the_config_says_or_refused(
    framework: Backend, tmp_path: Path, name: str
) -> None:
    """transformers 5 writes the share among the rotary settings, where mlx-lm does not look; its GLM knows none."""
    folder = make_family(tmp_path / name, name)
    if framework.name == "mlx" and name == "glm":
        with pytest.raises(ModelError, match="does not apply the rotary settings"):
            framework.load(folder, dtype="float32")
        return
    assert_right(framework, folder, (19, 15, 4))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cohere", {"rope_type": "linear", "factor": 4.0}),
        ("gemma2", {"rope_type": "linear", "factor": 4.0}),
        ("llama2", {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}),
        ("llama2", {"rope_type": "yarn", "factor": 4.0, "truncate": False, "original_max_position_embeddings": 64}),
    ],
)
def test_rotary_settings_that_mlx_ignores_are_refused(
    open_named: Callable[[str], Backend], tmp_path: Path, name: str, settings: dict[str, object]
) -> None:
    """The check at load compared mlx-lm with itself, and its numbers were those of another model."""
    folder = make_family(tmp_path / name, name, rope_parameters=settings)
    with pytest.raises(ModelError, match="does not apply the rotary settings") as refused:
        open_named("mlx").load(folder, dtype="float32")
    assert "--backend torch" in (refused.value.hint or "")
    assert_right(open_named("torch"), folder, (19, 15, 4))


def test_rotary_settings_by_layer_that_mlx_cannot_express_are_refused(
    open_named: Callable[[str], Backend], tmp_path: Path
) -> None:
    """mlx-lm gives all of OLMo 3's layers one base: it silently trained with wrong angles."""
    folder = make_family(tmp_path / "olmo3", "olmo3")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": 500_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="rotary settings"):
        open_named("mlx").load(folder, dtype="float32")
    assert_right(open_named("torch"), folder, (19, 15, 4))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", ["scale", "window", "positions"])
def test_a_model_whose_paths_differ_is_refused_at_load(
    open_named: Callable[[str], Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, dtype: Dtype
) -> None:
    """Each of these once silently gave wrong numbers."""
    from rir_mlx.backends.torch.forward import TorchForward
    from rir_mlx.models import families

    backend = open_named("torch")
    name, width = {"scale": ("granite", 40), "window": ("mistral-window", 41), "positions": ("mistral-window", 42)}[
        fault
    ]
    # A width of its own, so that this configuration was not checked before.
    folder = make_family(tmp_path / "model", name, intermediate_size=width)
    if fault == "scale":
        monkeypatch.setattr(families.LogitTransform, "of", classmethod(lambda cls, config: cls()))
    elif fault == "window":
        monkeypatch.setattr(TorchForward, "_by_layer", lambda self, mask, *_: mask)
    else:
        run = TorchForward.run
        monkeypatch.setattr(
            TorchForward, "run", lambda self, tokens, cache, mask, *_: run(self, tokens, cache, mask, 0 * tokens)
        )
    with pytest.raises(ModelError, match="differ from its own forward pass"):
        backend.load(folder, dtype=dtype)
    monkeypatch.undo()
    backend.load(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_weights_that_were_all_trained_open_as_they_were_trained(
    framework: Backend, tmp_path: Path, dtype: Dtype
) -> None:
    """Gemma's factor on the embedding, the root of the width, was rounded to 16 bits when a whole model was opened."""
    folder = make_family(tmp_path / "gemma3", "gemma3", hidden_size=40)
    spec = spec_of("full")
    trained = framework.load(folder, dtype="float32")
    trained.add_adapter(spec, seed=0)
    opened = framework.load(folder, dtype=dtype, adapter=(spec, trained.trained_tensors()))
    rows = [tuple(range(5, 30))]
    [expected], [found] = trained.last_logits(rows, 25), opened.last_logits(rows, 25)
    np.testing.assert_array_equal(found, expected)


def changed(folder: Path, **settings: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def test_weights_that_the_config_has_no_place_for_are_refused(framework: Backend, tmp_path: Path) -> None:
    """PyTorch left them out in silence: a model of the first layers, or without the biases that it was trained with."""
    for key, value, made in (("num_hidden_layers", 1, 2), ("attention_bias", False, True)):
        folder = changed(make_family(tmp_path / key, "llama2", **{key: made}), **{key: value})
        with pytest.raises(ModelError, match=r"no place for the weight|parameters not in model") as refused:
            framework.load(folder, dtype="float32")
        assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [("llama2", {"tie_word_embeddings": True}, "ties the head"), ("ernie", {}, "by which experts are chosen")],
)
def test_mlx_refuses_weights_that_mlx_lm_leaves_out(
    open_named: Callable[[str], Backend], tmp_path: Path, name: str, changes: dict[str, bool], says: str
) -> None:
    folder = changed(make_family(tmp_path / name, name), **changes)
    assert_right(open_named("torch"), folder, (19, 15, 4))
    with pytest.raises(ModelError, match=says):
        open_named("mlx").load(folder, dtype="float32")


def test_a_model_that_mlx_cannot_open_is_refused_with_a_hint(
    open_named: Callable[[str], Backend], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """mlx-lm's OLMo ended the process where its package is missing, and printed to where data goes."""
    folder = make_family(tmp_path / "olmo", "olmo")
    with pytest.raises(ModelError, match="a package that is not installed") as refused:
        open_named("mlx").load(folder, dtype="float32")
    assert "--backend torch" in (refused.value.hint or "")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["phi3-window", "llama2"])
def test_no_keys_means_every_linear_module_of_a_layer(
    framework: Backend, folder_of: Callable[[str], Path], name: str
) -> None:
    model = framework.load(folder_of(name), dtype="float32")
    model.add_adapter(spec_of("lora"), seed=0)
    found = {tensor.split(".", 3)[3].rpartition(".")[0] for tensor in model.trained_tensors()}
    fused = {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}
    parts = {f"self_attn.{part}_proj" for part in "qkvo"} | {f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    assert found == (fused if name.startswith("phi3") else parts)


def test_a_wrong_key_is_answered_with_the_right_one(framework: Backend, tiny: Path) -> None:
    model = framework.load(tiny, dtype="float32")
    with pytest.raises(ModelError, match=r"Did you mean 'self_attn\.q_proj'"):
        model.add_adapter(spec_of("lora", keys=("attention.q_proj",)), seed=0)


def test_a_model_without_linear_modules_is_right_in_full_and_takes_no_adapter(
    open_named: Callable[[str], Backend], tmp_path: Path
) -> None:
    """GPT-2 multiplies by modules of its own, Conv1D: an adapter would have ended in a KeyError."""
    folder = make_family(tmp_path / "gpt2", "gpt2")
    assert_right(open_named("torch"), folder, (19, 15, 4))
    with pytest.raises(ModelError, match="type gpt2 take no adapter") as refused:
        open_named("torch").load(folder, dtype="float32").add_adapter(spec_of("lora"), seed=0)
    assert "fine_tune_type to full" in (refused.value.hint or "")
    with pytest.raises(ModelError, match="gpt2"):
        open_named("mlx").load(folder, dtype="float32")


def test_gradient_checkpointing_keeps_less(open_named: Callable[[str], Backend], tiny: Path) -> None:
    """A wrapper that looked for the cache under its old name did nothing, and the results were the same."""
    import torch

    from rir_mlx.backends.torch.training import batch_loss

    rng = np.random.default_rng(0)
    rows = [tuple(rng.integers(8, 300, 60).tolist()) for _ in range(8)]
    kept = []
    for checkpointed in (False, True):
        model = open_named("torch").load(tiny, dtype="float32")
        model.add_adapter(spec_of("lora"), seed=0)
        model.configure_optimizer(OptimizerSpec(), Execution(grad_checkpoint=checkpointed))
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = batch_loss(model, batch_of(rows[0][:20], rows))  # type: ignore[arg-type]
        kept.append(sum(storages.values()))
        loss.backward()
    weights = 4 * model.parameters
    assert kept[1] - weights < 0.3 * (kept[0] - weights) or kept[1] < 0.3 * kept[0]


def test_a_small_model_computes_in_one_thread_and_leaves_the_process_its_own(
    open_named: Callable[[str], Backend], tiny: Path
) -> None:
    """Two threads that wait for each other by spinning made a small model a hundred times slower beside a busy process;
    one thread that stayed made everything after it slow."""
    import torch

    model = open_named("torch").load(tiny, dtype="float32")
    seen: list[int] = []
    model.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))  # type: ignore[attr-defined]
    model.model.get_decoder().register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))  # type: ignore[attr-defined]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model.loss(batch_of((9, 10), [(20, 21, 22)]))
        model.score([(20, 21)], [(22,)])
        model.logits((9, 10))
        for _ in model.generate([Request(0, (9, 10)), Request(1, (9,))], Sampling(2, batch_size=1)):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen
    assert set(seen) == {1}
