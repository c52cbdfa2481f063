"""The fused folder is the model that was trained, in a format that everybody reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from exports import ABOUT, Q_PROJ, SEQUENCES, TYPES, adapter_for, fused, in_dtype, read, spec_of, write
from rir_convert.weights.merging import merge
from rir_convert.weights.tensors import Weights, save_weights
from safetensors.numpy import load_file, save_file

from rir_mlx.backends.base import Backend
from rir_mlx.errors import ModelError
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.prompting.codec import Codec


@pytest.mark.parametrize("model", ["tiny", "untied"])
@pytest.mark.parametrize(("fine_tune_type", "num_layers"), [("lora", -1), ("lora", 1), ("dora", -1), ("full", -1)])
def test_the_fused_folder_has_the_adapters_logits(
    framework: Backend,
    model: str,
    fine_tune_type: str,
    num_layers: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    base = resolve_model(str(request.getfixturevalue(model)))
    spec = spec_of(fine_tune_type, num_layers)
    tensors = adapter_for(base.folder, spec)
    write(tmp_path / "out", base, (spec, tensors), ABOUT)
    trained = framework.load(base.folder, dtype="float32", adapter=(spec, tensors))
    fused = framework.load(tmp_path / "out", dtype="float32")
    before = framework.load(base.folder, dtype="float32")
    for tokens in SEQUENCES:
        # Logits of size 1 to 30, whose sums are formed in another order.
        np.testing.assert_allclose(fused.logits(tokens), trained.logits(tokens), atol=1e-3)
        assert np.abs(before.logits(tokens) - trained.logits(tokens)).max() > 0.3


@pytest.mark.parametrize("model", ["tiny", "untied"])
def test_plain_transformers_opens_the_fused_folder(
    model: str, tmp_path: Path, open_named: Callable[[str], Backend], request: pytest.FixtureRequest
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, spec = resolve_model(str(request.getfixturevalue(model))), spec_of("lora")
    tensors = adapter_for(base.folder, spec)
    write(tmp_path / "out", base, (spec, tensors), ABOUT)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert set(info) >= {"missing_keys", "unexpected_keys", "mismatched_keys"}
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = open_named("torch").load(base.folder, dtype="float32", adapter=(spec, tensors)).logits(SEQUENCES[0])
    with torch.no_grad():
        logits = loaded.eval()(torch.tensor([SEQUENCES[0]])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert loaded.dtype == torch.float32
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (base.folder, tmp_path / "out"))
    text = "i feel happy \U0001f642 <|eot_id|>"
    assert theirs(text)["input_ids"] == ours(text)["input_ids"]
    message = [{"role": "user", "content": "hello"}]
    rendered = theirs.apply_chat_template(message, tokenize=False, add_generation_prompt=True, date_string="x")
    assert rendered == ours.apply_chat_template(message, tokenize=False, add_generation_prompt=True, date_string="x")
    assert "Today Date: x" in rendered
    today = theirs.apply_chat_template(message, tokenize=False)
    assert "Today Date: 26 Jul 2024" in today, "another prompt every day"


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_tied_embeddings_stay_tied(tiny_files: ModelFiles, tmp_path: Path, fine_tune_type: str) -> None:
    spec = spec_of(fine_tune_type)
    write(tmp_path / "out", tiny_files, (spec, adapter_for(tiny_files.folder, spec)), ABOUT)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(load_file(tiny_files.folder / "model.safetensors"))
    assert "lm_head.weight" not in written
    assert read(tmp_path / "out", "config.json")["tie_word_embeddings"] is True


def test_a_tied_embedding_that_the_base_stores_twice_is_written_once(tiny: Path, tmp_path: Path) -> None:
    """Frameworks hold it once, so fully trained weights have no second copy to put in its place."""
    shutil.copytree(tiny, tmp_path / "twice")
    tensors = load_file(tiny / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_weights(tensors, tmp_path / "twice" / "model.safetensors")
    spec = spec_of("full")
    write(tmp_path / "out", resolve_model(str(tmp_path / "twice")), (spec, adapter_for(tiny, spec)), ABOUT)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_an_array_in_fortran_order_is_saved_as_it_reads(tmp_path: Path) -> None:
    """safetensors stores memory as it lies; NumPy gives a large sum with a transposed array in Fortran order."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    save_weights({"w": np.asfortranarray(weight)}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["w"], weight)


def test_an_untied_head_is_kept(untied: Path, tmp_path: Path) -> None:
    spec = spec_of("lora")
    write(tmp_path / "out", resolve_model(str(untied)), (spec, adapter_for(untied, spec)), ABOUT)
    head = load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]
    np.testing.assert_array_equal(head, load_file(untied / "model.safetensors")["lm_head.weight"])
    assert read(tmp_path / "out", "config.json")["tie_word_embeddings"] is False


@pytest.mark.parametrize("model", ["tiny", "plain"])
def test_end_of_text_agrees_in_all_three_files(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """After an export the tokenizer, the config and the generation config named different tokens, and the model never
    stopped."""
    folder = request.getfixturevalue(model)
    codec = Codec(folder, "26 Jul 2024")
    spec = spec_of("lora")
    about = replace(ABOUT, eos_token_id=list(codec.stops))
    write(tmp_path / "out", resolve_model(str(folder)), (spec, adapter_for(folder, spec)), about)
    config, generation = (read(tmp_path / "out", name) for name in ("config.json", "generation_config.json"))
    assert config["eos_token_id"] == generation["eos_token_id"] == list(codec.stops)
    exported = Codec(tmp_path / "out", "26 Jul 2024")
    assert exported.terminator == codec.terminator
    assert exported.terminator in list(codec.stops)
    assert exported.tokenizer.eos_token_id in list(codec.stops)
    assert exported.stops == codec.stops


def test_the_config_has_the_rotary_keys_in_both_forms(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "five")
    config = read(tiny, "config.json")
    scaling = config.pop("rope_scaling")
    theta = config.pop("rope_theta")
    assert isinstance(scaling, dict)
    config["rope_parameters"] = scaling | {"rope_theta": theta}
    (tmp_path / "five" / "config.json").write_text(json.dumps(config))
    spec = spec_of("lora")
    for base, target in ((tiny, "from-four"), (tmp_path / "five", "from-five")):
        files = resolve_model(str(base))
        write(tmp_path / target, files, (spec, adapter_for(tiny, spec)), ABOUT)
        written = read(tmp_path / target, "config.json")
        assert written["rope_theta"] == 500000.0
        assert written["rope_scaling"] == scaling
        assert written["rope_parameters"] == scaling | {"rope_theta": 500000.0}


def test_the_config_says_what_the_model_is_for(tiny_files: ModelFiles, tmp_path: Path) -> None:
    spec = spec_of("lora")
    write(tmp_path / "out", tiny_files, (spec, adapter_for(tiny_files.folder, spec)), ABOUT)
    config = read(tmp_path / "out", "config.json")
    assert config["id2label"] == {"0": "joy", "1": "anger"}
    assert config["label2id"] == {"joy": 0, "anger": 1}
    assert config["rir_mlx"] == {"arm": "qra"}
    assert config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("fine_tune_type", ["lora", "dora"])
def test_a_small_update_of_a_bfloat16_base_is_added_in_float32_and_cast_once(
    tiny: Path, tmp_path: Path, fine_tune_type: str
) -> None:
    """Merged in bfloat16, where the product and the sum are each rounded to 8 bits, other weights come out."""
    spec, base = spec_of(fine_tune_type), in_dtype(tiny, tmp_path / "base", ml_dtypes.bfloat16)
    adapter = adapter_for(base, spec, size=0.03)
    written = fused(Weights(base), spec, adapter)
    module = Q_PROJ.removesuffix(".weight")
    weight = load_file(base / "model.safetensors")[Q_PROJ]
    a, b = adapter[f"{module}.lora_a"], adapter[f"{module}.lora_b"]
    exact = weight.astype(np.float64) + 3.0 * (a.astype(np.float64) @ b.astype(np.float64)).T
    if fine_tune_type == "dora":
        exact *= (adapter[f"{module}.m"] / np.linalg.norm(exact, axis=1))[:, None]
    assert written[Q_PROJ].dtype == ml_dtypes.bfloat16
    # A sum in float32 may fall on the other side of the middle between two bfloat16 numbers once in a thousand.
    same = (written[Q_PROJ] == exact.astype(ml_dtypes.bfloat16)).mean()
    assert same > 0.995
    short = np.dtype(ml_dtypes.bfloat16)
    rounded = weight + (np.array(3.0, short) * (a.astype(short) @ b.astype(short)).T).astype(short)
    assert (written[Q_PROJ] == rounded).mean() < 0.98
    assert (written[Q_PROJ] != weight).mean() > 0.5


def test_tensors_without_an_update_are_copied_bit_for_bit(tiny: Path) -> None:
    spec, base = spec_of("lora", num_layers=1), load_file(tiny / "model.safetensors")
    after = fused(Weights(tiny), spec, adapter_for(tiny, spec))
    changed = {name for name in base if not np.array_equal(base[name], after[name])}
    assert changed == {name for name in base if name.startswith("model.layers.1.") and "_proj" in name}


def test_weights_in_several_files_are_fused_together(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "split")
    tensors = load_file(tiny / "model.safetensors")
    names = sorted(tensors)
    index = {}
    for part, some in enumerate((names[:9], names[9:])):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, tmp_path / "split" / file)
        index |= dict.fromkeys(some, file)
    (tmp_path / "split" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "split" / "model.safetensors").unlink()
    spec, adapter = spec_of("dora"), adapter_for(tiny, spec_of("dora"))
    whole = fused(Weights(tiny), spec, adapter)
    split = fused(Weights(tmp_path / "split"), spec, adapter)
    assert whole.keys() == split.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(tensor, split[name])


def test_a_cut_base_is_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    whole = path.read_bytes()
    for size in (len(whole) - 1, 100, 4, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut|damaged"):
            Weights(tmp_path / "base")


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_an_adapter_tensor_without_a_place_in_the_base_is_refused(tiny: Path, fine_tune_type: str) -> None:
    spec = spec_of(fine_tune_type)
    leaf = "weight" if fine_tune_type == "full" else "lora_a"
    odd = {f"model.layers.7.mlp.up_proj.{leaf}": np.zeros((32, 4), dtype=np.float32)}
    with pytest.raises(ModelError, match=r"no place for model\.layers\.7"):
        fused(Weights(tiny), spec, adapter_for(tiny, spec) | odd)


def test_trained_weights_that_lack_one_are_refused(tiny: Path) -> None:
    adapter = adapter_for(tiny, spec_of("full"))
    del adapter[Q_PROJ]
    with pytest.raises(ModelError, match="lack " + Q_PROJ.replace(".", r"\.")):
        fused(Weights(tiny), spec_of("full"), adapter)


def test_a_failed_export_leaves_what_was_there(tiny_files: ModelFiles, tmp_path: Path) -> None:
    spec, folder = spec_of("lora"), tmp_path / "out"
    write(folder, tiny_files, (spec, adapter_for(tiny_files.folder, spec)), ABOUT)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    odd = {"model.layers.7.mlp.up_proj.lora_a": np.zeros((32, 4), dtype=np.float32)}
    with pytest.raises(ModelError):
        write(folder, tiny_files, (spec, adapter_for(tiny_files.folder, spec) | odd), ABOUT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_merge_of_one_weight_by_hand() -> None:
    weight = np.array([[3.0, 0.0], [0.0, 4.0]], dtype=np.float32)
    adapter = {
        "lora_a": np.array([[1.0], [2.0]], dtype=np.float32),
        "lora_b": np.array([[10.0, 100.0]], dtype=np.float32),
        "m": np.array([1.0, 2.0], dtype=np.float32),
    }
    low_rank = merge(weight, AdapterSpec("lora", rank=1, scale=0.5), adapter)
    np.testing.assert_array_equal(low_rank, [[8.0, 10.0], [50.0, 104.0]])
    rescaled = merge(weight, AdapterSpec("dora", rank=1, scale=0.5), adapter)
    np.testing.assert_allclose(np.linalg.norm(rescaled, axis=1), [1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(rescaled[0] / rescaled[0, 0], low_rank[0] / low_rank[0, 0], rtol=1e-6)


def test_large_weights_are_cut_into_files_with_an_index(tiny_files: ModelFiles, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    spec = spec_of("dora")
    adapter = (spec, adapter_for(tiny_files.folder, spec))
    write(tmp_path / "whole", tiny_files, adapter)
    write(tmp_path / "cut", tiny_files, adapter, replace(ABOUT, shard_bytes=20_000))
    names = sorted(path.name for path in (tmp_path / "cut").glob("*.safetensors"))
    assert len(names) > 3
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    index = read(tmp_path / "cut", "model.safetensors.index.json")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert set(index["weight_map"]) == set(whole)  # type: ignore[call-overload]
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in whole.values())}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").state_dict()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(loaded[name].numpy(), tensor)


def test_the_weights_can_be_written_in_another_number_format(tiny_files: ModelFiles, tmp_path: Path) -> None:
    spec = spec_of("lora")
    write(tmp_path / "out", tiny_files, (spec, adapter_for(tiny_files.folder, spec)), dtype="bfloat16")
    weights = Weights(tmp_path / "out")
    assert {str(weights.form(name)[0]) for name in weights} == {"bfloat16"}
    assert read(tmp_path / "out", "config.json")["dtype"] == "bfloat16"


def test_an_adapter_of_another_width_is_refused(tiny: Path) -> None:
    """NumPy would silently broadcast a factor of width 1."""
    spec, module = spec_of("lora"), Q_PROJ.removesuffix(".weight")
    adapter = adapter_for(tiny, spec)
    with pytest.raises(ModelError, match=r"self_attn\.q_proj\.weight is \(32, 32\), and its update is"):
        fused(Weights(tiny), spec, adapter | {f"{module}.lora_b": adapter[f"{module}.lora_b"][:, :1]})
    whole = {name: tensor for name, tensor in adapter.items() if name != f"{module}.lora_b"}
    with pytest.raises(ModelError, match="is incomplete: lora_b"):
        fused(Weights(tiny), spec, whole)


def test_a_tied_head_is_written_down_where_the_base_leaves_it_to_its_class(tiny: Path, tmp_path: Path) -> None:
    """Gemma's configs on the hub do: the export was refused, for "the config does not tie the head"."""
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    config = {key: value for key, value in read(tiny, "config.json").items() if key != "tie_word_embeddings"}
    (base / "config.json").write_text(json.dumps(config | {"model_type": "gemma2"}), encoding="utf-8")
    spec = spec_of("lora")
    write(tmp_path / "out", resolve_model(str(base)), (spec, adapter_for(base, spec)))
    assert read(tmp_path / "out", "config.json")["tie_word_embeddings"] is True
