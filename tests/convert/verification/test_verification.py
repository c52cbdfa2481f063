"""A folder that is not the model that was trained does not leave the house."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from exports import Q_PROJ, SEQUENCES, TYPES, adapter_for, in_dtype, read, spec_of, write
from rir_convert.verification.comparison import EngineComparison, Tolerance, compare_answers, first_different_layer
from rir_convert.verification.engines.base import Engine
from rir_convert.verification.engines.libraries import Library, open_engine
from rir_convert.verification.integrity import folder_faults
from rir_convert.verification.probe import (
    Probe,
    answer_rows,
    engine_answers,
    mean_difference,
    reference_answers,
)
from rir_convert.verification.record import record
from rir_convert.weights.hf_folder import FolderMetadata
from rir_convert.weights.tensors import save_weights
from safetensors.numpy import load_file
from tiny import make_tiny_llama

from rir_mlx.backends import release_memory
from rir_mlx.backends.base import Backend, Tokens
from rir_mlx.errors import Failure
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.prompting.arms import label_tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt, classifier_prompt

LIBRARIES: dict[str, Library] = {"torch": "transformers", "mlx": "mlx-lm"}
LABELS = {"joy": "feels good", "joyful": "", "anger": ""}


@pytest.fixture
def prompts(codec: Codec) -> list[tuple[Prompt, Tokens]]:
    made = [classifier_prompt(text, LABELS, "Which?", "label") for text in ("i feel happy", "it was <|eot_id|> sad")]
    encoded = [codec.encode(prompt, 300) for prompt in made]
    return [(prompt, row.prefix + row.row) for prompt, row in zip(made, encoded, strict=True)]


def probe_of(codec: Codec) -> Probe:
    return Probe(SEQUENCES[1], SEQUENCES, [label_tokens(codec, label) for label in LABELS])


def open_as_users_do(backend: Backend, folder: Path) -> Engine:
    return open_engine(LIBRARIES[backend.name], folder)


class Trained:
    """A written folder beside the adapter model that it was made from."""

    def __init__(self, backend: Backend, base: Path, folder: Path, codec: Codec, size: float = 0.1) -> None:
        self.backend, self.codec, self.folder = backend, codec, folder
        files, self.spec = resolve_model(str(base)), spec_of("lora")
        adapter: tuple[AdapterSpec, dict[str, np.ndarray]] = (self.spec, adapter_for(base, self.spec, size))
        self.probe = probe_of(codec)
        self.reference = reference_answers(backend.load(base, dtype="float32", adapter=adapter), self.probe)
        self.effect = mean_difference(answer_rows(backend.load(base, dtype="float32"), self.probe), self.reference.rows)
        about = FolderMetadata(list(codec.stops), list(LABELS), codec.date, {"rir_mlx": {}})
        write(folder, files, adapter, about)
        self.kind = str(load_file(folder / "model.safetensors")[Q_PROJ].dtype)

    def compared(self, prompts: Sequence[tuple[Prompt, Tokens]] = ()) -> EngineComparison:
        found = folder_faults(self.folder, self.codec, prompts)
        answers = engine_answers(open_as_users_do(self.backend, self.folder), self.probe, self.reference.scores)
        return compare_answers("x", self.reference, answers, Tolerance(self.kind, self.effect), found)


@pytest.fixture
def trained(framework: Backend, tiny: Path, tmp_path: Path, codec: Codec) -> Trained:
    return Trained(framework, tiny, tmp_path / "out", codec)


def test_a_folder_that_is_the_same_model_passes(trained: Trained, prompts: list[tuple[Prompt, Tokens]]) -> None:
    result = trained.compared(prompts)
    assert result.faults == ()
    assert (result.rows, result.label_agreement, result.same_choice) == (3, 1.0, 1.0)
    assert result.max_difference < 1e-4
    assert result.probability_difference is not None
    assert result.probability_difference < 1e-5
    assert trained.effect > 0.1
    values = record(trained.folder, [result], arm="qa")
    assert values == read(trained.folder, "verification.json")
    assert (values["passed"], values["arm"]) == (True, "qa")


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16])
def test_a_folder_that_is_rounded_once_passes(
    framework: Backend, tiny: Path, tmp_path: Path, codec: Codec, stored: type
) -> None:
    base = in_dtype(tiny, tmp_path / "base", stored)
    result = Trained(framework, base, tmp_path / "out", codec).compared()
    assert result.faults == ()
    assert 0 < result.mean_difference < 0.1


def change_config(folder: Path, **values: object) -> None:
    config = read(folder, "config.json") | values
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def lose_rope_scaling(folder: Path) -> None:
    """As transformers 5 writes it, and mlx-lm cannot read it; here both read the wrong one."""
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    change_config(folder, rope_theta=10000.0, rope_scaling=None, rope_parameters=plain)


def lose_adapter(folder: Path) -> None:
    shutil.copyfile(make_tiny_llama(folder.parent / "fresh") / "model.safetensors", folder / "model.safetensors")


def transpose_square_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[Q_PROJ] = np.ascontiguousarray(tensors[Q_PROJ].T)
    save_weights(tensors, folder / "model.safetensors")


def break_second_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 0.5
    save_weights(tensors, folder / "model.safetensors")


def put_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[Q_PROJ][0, 0] = np.nan
    save_weights(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("corrupt", "says", "layer"),
    [
        (lose_rope_scaling, "log-probabilities differ", "model.layers.0"),
        (lose_adapter, "the adapter is missing", "model.layers.0"),
        (transpose_square_layer, "log-probabilities differ", "model.layers.0"),
        (break_second_layer, "log-probabilities differ", "model.layers.1"),
        (put_nan, "log-probabilities differ by nan", "model.layers.0"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_other_numbers_are_found_and_the_first_layer_is_named(
    trained: Trained, corrupt: Callable[[Path], None], says: str, layer: str
) -> None:
    corrupt(trained.folder)
    result = trained.compared()
    assert any(says in fault for fault in result.faults), result.faults
    assert result.first_difference == layer
    with pytest.raises(Failure, match="is not the model that was trained") as failed:
        record(trained.folder, [result])
    assert f"The first layer that differs is {layer}." in failed.value.what
    written = (trained.folder / "verification.json").read_text(encoding="utf-8")
    assert json.loads(written)["passed"] is False
    assert "NaN" not in written


def untie(folder: Path) -> None:
    """As a merge into the embedding alone leaves it."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + np.float32(0.1)
    save_weights(tensors, folder / "model.safetensors")


def lose_head(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=False)


def keep_one_rope_form(folder: Path) -> None:
    config = read(folder, "config.json")
    del config["rope_scaling"], config["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def lose_terminator(folder: Path) -> None:
    values = read(folder, "generation_config.json") | {"eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")


def end_elsewhere(folder: Path) -> None:
    values = read(folder, "tokenizer_config.json") | {"eos_token": "<|python_tag|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def lose_template(folder: Path) -> None:
    values = read(folder, "tokenizer_config.json")
    del values["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def change_template(folder: Path) -> None:
    values = read(folder, "tokenizer_config.json")
    values["chat_template"] = str(values["chat_template"]).replace("Cutting Knowledge", "Knowledge")
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def thaw_date(folder: Path) -> None:
    values = read(folder, "tokenizer_config.json")
    values["chat_template"] = str(values["chat_template"]).replace('"26 Jul 2024"', 'strftime_now("%d %b %Y")')
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def lose_format(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("corrupt", "says"),
    [
        (untie, "the weights hold a head of their own"),
        (lose_head, "the weights hold no head"),
        (keep_one_rope_form, "no rope_theta that agrees"),
        (lose_terminator, "generation_config.json: eos_token_id is 1; it must include "),
        (end_elsewhere, "which the model never learned"),
        (lose_template, "the chat template is lost"),
        (change_template, "other ids for a prompt than in training"),
        (thaw_date, "prints today's date"),
        (lose_format, "does not say its format"),
    ],
)
def test_what_engines_load_without_a_word_is_found(
    tiny: Path,
    tmp_path: Path,
    codec: Codec,
    prompts: list[tuple[Prompt, Tokens]],
    corrupt: Callable[[Path], None],
    says: str,
) -> None:
    spec = spec_of("lora")
    about = FolderMetadata(list(codec.stops), list(LABELS), codec.date)
    write(tmp_path / "out", resolve_model(str(tiny)), (spec, adapter_for(tiny, spec)), about)
    assert folder_faults(tmp_path / "out", codec, prompts) == []
    corrupt(tmp_path / "out")
    found = folder_faults(tmp_path / "out", codec, prompts)
    assert any(says in fault for fault in found), found


def test_mlx_reads_a_folder_as_its_users_do(
    tiny: Path, tmp_path: Path, codec: Codec, open_named: Callable[[str], Backend]
) -> None:
    """Our own loading guards against rotary keys that mlx-lm cannot read, and would hide that they are lost."""
    trained = Trained(open_named("mlx"), tiny, tmp_path / "out", codec)
    keep_one_rope_form(tmp_path / "out")
    assert any("log-probabilities differ" in fault for fault in trained.compared().faults)


def test_mlx_holds_one_weight_twice_at_most_while_it_loads(
    tiny: Path, tmp_path: Path, open_named: Callable[[str], Backend]
) -> None:
    """In the folder's 16 bits beside the 32 that are asked for; all of them twice is a model and a half."""
    backend = open_named("mlx")
    import mlx.core as mx

    stored = in_dtype(tiny, tmp_path / "base", ml_dtypes.bfloat16)
    largest = max(int(tensor.nbytes) for tensor in load_file(stored / "model.safetensors").values())
    whole = sum(2 * int(tensor.nbytes) for tensor in load_file(stored / "model.safetensors").values())
    for load in (partial(open_engine, "mlx-lm"), partial(backend.load, dtype="float32")):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        model = load(stored)
        assert mx.get_peak_memory() - before <= whole + 2 * largest
        del model


def test_what_mlx_keeps_of_a_model_that_is_gone_is_given_back(tiny: Path, open_named: Callable[[str], Backend]) -> None:
    backend = open_named("mlx")
    import mlx.core as mx

    model = backend.load(tiny, dtype="float32")
    model.logits(SEQUENCES[0])
    del model
    assert mx.get_cache_memory() > 0
    release_memory()
    assert mx.get_cache_memory() == 0


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16])
def test_a_small_adapter_that_is_lost_is_found_although_the_difference_is_small(
    framework: Backend, tiny: Path, tmp_path: Path, codec: Codec, stored: type
) -> None:
    """Within the bounds of 16 bits, the base itself passes for the adapter model."""
    base = in_dtype(tiny, tmp_path / "base", stored)
    trained = Trained(framework, base, tmp_path / "out", codec, size=0.01)
    assert trained.effect < 0.05
    shutil.copyfile(base / "model.safetensors", tmp_path / "out" / "model.safetensors")
    result = trained.compared()
    assert [fault for fault in result.faults if "the adapter is missing" in fault], result


def test_label_by_label_an_engine_scores_what_the_tree_of_labels_does(
    framework: Backend, tiny: Path, codec: Codec
) -> None:
    probe = probe_of(codec)
    whole = reference_answers(framework.load(tiny, dtype="float32"), probe)
    alone = engine_answers(open_as_users_do(framework, tiny), probe, whole.scores)
    assert alone.asked is not None
    assert alone.asked.all()
    np.testing.assert_allclose(alone.scores, whole.scores, atol=1e-3)
    assert engine_answers(open_as_users_do(framework, tiny), probe).scores is None


def test_the_outputs_of_layers_are_the_same_in_both_backends(tiny: Path, open_named: Callable[[str], Backend]) -> None:
    ours, theirs = (
        open_named(name).load(tiny, dtype="float32").layer_outputs(SEQUENCES[0]) for name in ("mlx", "torch")
    )
    assert len(ours) == len(theirs) == 3
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape == (100, 32)
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert first_different_layer(ours, theirs, "float32") == "model.norm or lm_head"


@pytest.mark.parametrize("fine_tune_type", TYPES)
def test_every_kind_of_training_passes(
    framework: Backend, tiny_files: ModelFiles, tmp_path: Path, codec: Codec, fine_tune_type: str
) -> None:
    spec = spec_of(fine_tune_type)
    adapter = (spec, adapter_for(tiny_files.folder, spec))
    probe = probe_of(codec)
    reference = reference_answers(framework.load(tiny_files.folder, dtype="float32", adapter=adapter), probe)
    write(tmp_path / "out", tiny_files, adapter)
    answers = engine_answers(open_as_users_do(framework, tmp_path / "out"), probe, reference.scores)
    result = compare_answers("x", reference, answers, Tolerance("float32", 1))
    assert result.faults == ()
