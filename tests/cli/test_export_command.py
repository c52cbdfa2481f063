"""`rir-mlx export`: each format is verified before it takes its place, and leaves what was there where it fails."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from commands import Run, command, write_recipe
from processes import made_once, warm_card_programs
from rir_convert import ExportOptions, export
from tiny import make_tiny_llama

from rir_mlx.errors import UserError

pytestmark = pytest.mark.slow
ASKED = ("classify", "i feel happy today", "--json", "--offline")


@pytest.fixture(scope="module")
def classifier_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier whose layers are wide enough to be quantised."""
    pytest.importorskip("torch")
    wide = make_tiny_llama(tmp_path_factory.mktemp("exportable") / "wide", hidden=64)

    def train(folder: Path) -> None:
        changes = ("-s", "classifier.learning_rate=1e-2", "-s", "dtype=float32", "--backend", "torch", "-q")
        recipe = write_recipe(folder, wide)
        assert command(folder, "train-classifier", str(recipe), "--arm", "qa", *changes).code == 0
        done = command(folder, *ASKED, "--run", "runs/small")
        (folder / "answer.json").write_text(done.out, encoding="utf-8")

    return made_once("exportable", train)


@pytest.fixture(scope="module")
def exported_once(classifier_once: Path) -> Path:
    def export_a_copy(folder: Path) -> None:
        shutil.copytree(classifier_once, folder, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            warm_card_programs(patch)
            assert command(folder, "export", "--arm", "qa", "-q").code == 0

    return made_once("exported", export_a_copy)


@pytest.fixture
def exported(rir: Run, tmp_path: Path, exported_once: Path) -> Run:
    """As `exportable`, with an export of `--to hf`."""
    shutil.copytree(exported_once, tmp_path, dirs_exist_ok=True)
    return rir


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are opened with transformers alone, where a test is about something else."""
    for module in ("exporting", "verification.verifier"):
        monkeypatch.setattr(f"rir_convert.{module}.installed_libraries", lambda: ["transformers"])


@pytest.fixture
def exportable(rir: Run, tmp_path: Path, classifier_once: Path) -> Run:
    """A copy of it, in the folder that `rir` runs in."""
    shutil.copytree(classifier_once, tmp_path, dirs_exist_ok=True)
    return rir


@pytest.mark.usefixtures("warm_examples")
@pytest.mark.parametrize(
    ("options", "files", "kind"),
    [
        (["--to", "hf"], {"model.safetensors", "README.md", "config.json", "generation_config.json"}, "hf"),
        (["--to", "hf", "--dtype", "bfloat16"], {"model.safetensors", "README.md"}, "hf-bfloat16"),
        (["--to", "mlx"], {"model.safetensors", "README.md"}, "mlx"),
        (["--to", "mlx", "--quantize", "8"], {"model.safetensors", "config.json", "README.md"}, "mlx-8bit"),
        (["--to", "adapter"], {"adapters.safetensors", "adapter_model.safetensors", "README.md"}, "adapter"),
        (["--to", "gguf", "--gguf-type", "q8_0"], {"small-qa.q8_0.gguf", "Modelfile", "README.md"}, "gguf-q8_0"),
    ],
)
def test_every_export_is_verified_before_it_takes_its_place(
    exportable: Run, options: list[str], files: set[str], kind: str
) -> None:
    pytest.importorskip("mlx_lm")
    done = exportable("export", "--arm", "qa", *options, "--json", "-q")
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert values["passed"] is True
    folder = Path(values["folder"])
    assert folder == Path("runs/small/export").absolute() / f"qa-{kind}"
    assert {path.name for path in folder.iterdir()} >= {*files, "verification.json"}
    assert values["adapter_effect"] > 0.1
    for name, engine in values["engines"].items():
        assert engine["faults"] == [], name
        assert engine["label_agreement"] in (None, 1.0)
    program = values["card_program"]
    assert program["label"] == (program["expected"] if kind in ("hf", "hf-bfloat16", "mlx") else None)
    assert (program["label"] is None) == (program["note"] == "a card of this format has none")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    _classifies_as_the_run_does(exportable, folder, kind)


def _classifies_as_the_run_does(rir: Run, folder: Path, kind: str) -> None:
    """Exports open with `--run`; weights in fewer bits give other probabilities, and llama.cpp's need llama.cpp."""
    if kind.startswith("gguf"):
        refused = rir(*ASKED, "--run", str(folder))
        assert refused.code == 2
        assert "only llama.cpp's programs run" in refused.err
        return
    expected = json.loads(Path("answer.json").read_text(encoding="utf-8"))
    for backend in ("mlx",) if "bit" in kind else ("mlx", "torch"):
        done = rir(*ASKED, "--run", str(folder), "--backend", backend)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found["label"] == expected["label"]
        near = 0.02 if kind in ("hf-bfloat16", "mlx-8bit") else 1e-4
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=near)


@pytest.mark.heavy
def test_the_card_shows_what_its_program_printed_and_no_rows(exportable: Run) -> None:
    assert exportable("export", "--arm", "qa", "-q", "-s", "x").code == 2
    assert exportable("export", "--arm", "qa", "-q").code == 0
    card = Path("runs/small/export/qa-hf/README.md").read_text(encoding="utf-8")
    assert "This program was run in this folder before the card was written. It printed:" in card
    assert "Label: " in card
    rows = Path("rows.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert not [row for row in rows if row.split(",")[0] in card]


@pytest.mark.usefixtures("one_engine")
def test_an_export_that_is_another_model_is_kept_aside_with_the_layer(
    exported: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rir_convert import exporting

    write = exporting.write_hf_folder

    def spoil(folder: Path, *given: object, **named: object) -> None:
        from rir_convert.weights.tensors import save_weights
        from safetensors.numpy import load_file

        write(folder, *given, **named)  # type: ignore[arg-type]
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"] *= 0.5
        save_weights(tensors, folder / "model.safetensors")

    monkeypatch.setattr(exporting, "write_hf_folder", spoil)
    result = exported("export", "--arm", "qa", "-q")
    assert result.code == 1
    assert "The first layer that differs is model.layers.1." in result.err
    folder = Path("runs/small/export")
    assert sorted(path.name for path in folder.iterdir()) == ["qa-hf", "qa-hf.rejected"]
    kept = json.loads((folder / "qa-hf.rejected" / "verification.json").read_text(encoding="utf-8"))
    assert kept["passed"] is False
    assert json.loads((folder / "qa-hf" / "verification.json").read_text(encoding="utf-8"))["passed"] is True


@pytest.mark.usefixtures("warm_examples", "one_engine")
def test_a_head_of_ours_that_is_wrong_fails_the_export_and_so_does_a_program_with_another_label(
    exportable: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained model is asked through the code that training used; the folder is not."""
    from rir_convert.cards import example

    from rir_mlx.backends.torch.forward import TorchForward

    rejected = Path("runs/small/export/qa-hf.rejected/verification.json")
    with monkeypatch.context() as patch:
        # The check at load passed in this process, before the head was changed.
        patch.setattr("rir_mlx.backends.torch.model.check_forward", lambda *_: None)
        patch.setattr(TorchForward, "logits_of", lambda model, hidden: 0.5 * model.lm_head(hidden))
        failed = exportable("export", "--arm", "qa", "-q")
    assert (failed.code, "transformers: log-probabilities differ" in failed.err) == (1, True), failed.err
    assert json.loads(rejected.read_text(encoding="utf-8"))["card_program"]["note"] == "the folder is another model"

    code = example.example_code
    monkeypatch.setattr(
        example, "example_code", lambda *given, **named: code(*given, **named).replace("index(max(", "index(min(")
    )
    failed = exportable("export", "--arm", "qa", "-q")
    assert (failed.code, "the model card's program: it answers " in failed.err) == (1, True), failed.err
    program = json.loads(rejected.read_text(encoding="utf-8"))["card_program"]
    assert program["label"] not in (None, program["expected"])


@pytest.mark.usefixtures("warm_examples", "one_engine")
def test_an_export_that_is_stopped_leaves_the_one_before_and_runs_again(
    exported: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rir_convert import exporting
    from rir_convert.cards.example import ProgramResult

    folder = Path("runs/small/export")
    (folder / "qa-hf/old").write_text("of the export before")
    before = {path.name: path.read_bytes() for path in (folder / "qa-hf").iterdir()}
    with monkeypatch.context() as patched:

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(exporting.Verifier, "by", lambda *_: [])
        patched.setattr(exporting, "run_program", lambda *_: ("", ProgramResult(note="not run")))
        patched.setattr(exporting, "record", stop)
        stopped = exported("export", "--arm", "qa", "-q")
        assert stopped.code == 130
        assert "continues" not in stopped.err
    assert {path.name: path.read_bytes() for path in (folder / "qa-hf").iterdir()} == before
    (folder / "qa-hf.unverified").mkdir()  # as a kill leaves it
    (folder / "qa-hf.unverified" / "half").write_text("")
    assert exported("export", "--arm", "qa", "-q").code == 0
    assert {path.name for path in (folder / "qa-hf").iterdir()} == before.keys() - {"old"}, "it takes the other's place"
    assert [path.name for path in folder.iterdir()] == ["qa-hf"]


@pytest.mark.usefixtures("one_engine")
def test_an_export_is_pushed_only_when_asked_and_a_dry_run_contacts_nobody(exportable: Run) -> None:
    pushed = ("--to", "adapter", "--push-to-hub", "me/mine", "--dry-run", "--offline")
    result = exportable("export", "--arm", "qa", *pushed)
    assert result.code == 0, result.err
    assert "adapter_model.safetensors" in result.err
    for options, says in (
        (["--public"], "--push-to-hub"),
        (["--push-to-hub", "me/mine", "--offline"], "needs a network"),
        (["--quantize", "4"], "--to mlx"),
    ):
        refused = exportable("export", "--arm", "qa", "-q", *options)
        assert (refused.code, says in refused.err) == (2, True), refused.err


def test_an_export_never_replaces_a_folder_of_somebody_else(rir: Run, recipe: Path, tiny: Path) -> None:
    pytest.importorskip("torch")
    rir("train-classifier", str(recipe), "--arm", "qa", "--backend", "torch", "-q")
    before = sorted(path.name for path in tiny.iterdir())
    result = rir("export", "--arm", "qa", "--output", str(tiny))
    assert (result.code, "did not write" in result.err) == (2, True), result.err
    assert sorted(path.name for path in tiny.iterdir()) == before


@pytest.mark.usefixtures("warm_examples")
def test_a_classifier_of_a_quantised_base_is_exported_dequantised(rir: Run, recipe: Path, tmp_path: Path) -> None:
    """Fused into packed weights, most of the adapter would be rounded away."""
    pytest.importorskip("mlx_lm")
    pytest.importorskip("torch")
    from rir_mlx.backends.mlx.weights import quantise

    base = make_tiny_llama(tmp_path / "wide", hidden=64)
    shutil.copytree(base, tmp_path / "four")
    quantise(base, tmp_path / "four", 4)
    changes = ("-s", f"model={tmp_path / 'four'}", "-s", "classifier.learning_rate=1e-2", "--backend", "mlx", "-q")
    assert rir("train-classifier", str(recipe), "--arm", "qa", *changes).code == 0
    done = rir("export", "--arm", "qa", "--json", "-q")
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert set(values["engines"]) == {"transformers", "mlx-lm"}
    assert all(engine["max_difference"] < 1e-3 for engine in values["engines"].values())
    config = json.loads((Path(values["folder"]) / "config.json").read_text(encoding="utf-8"))
    assert "quantization" not in config
    assert "quantization_config" not in config


def test_a_gguf_file_of_a_base_in_16_bits_is_nearer_than_those_bits(
    rir: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not rounded to bfloat16 on the way; and the card's prompt has one first token where the tokenizer puts one."""
    import ml_dtypes
    import numpy as np
    from exports import in_dtype
    from rir_convert.gguf.writer import gguf_tensors
    from rir_convert.weights.merging import Fused
    from rir_convert.weights.tensors import Weights

    from rir_mlx.models.adapters import read_adapter
    from rir_mlx.models.config import read_config
    from rir_mlx.models.hub import resolve_model
    from rir_mlx.prompting.codec import Codec

    pytest.importorskip("torch")
    monkeypatch.setattr("rir_convert.gguf.export.available", lambda: False)
    base = in_dtype(make_tiny_llama(tmp_path / "wide", hidden=64), tmp_path / "base", ml_dtypes.bfloat16)
    changes = ("-s", f"model={base}", "-s", "dtype=float32", "-s", "classifier.learning_rate=1e-2")
    assert rir("train-classifier", str(recipe), "--arm", "qa", *changes, "--backend", "torch", "-q").code == 0
    done = rir("export", "--arm", "qa", "--to", "gguf", "--json", "-q")
    assert done.code == 0, done.err
    [folder] = Path("runs/small/export").iterdir()
    adapter = read_adapter(Path("runs/small/classifier-qa/adapter"), resolve_model(str(base)))
    weights = Fused(Weights(base), adapter.spec, adapter.tensors, dtype="float32")
    for name, tensor in gguf_tensors(folder / "small-qa.f16.gguf", read_config(base)):
        expected = weights[name] if weights[name].ndim == 1 else weights[name].astype("float16")
        np.testing.assert_array_equal(tensor, expected.astype("float32"), err_msg=name)
    card = (folder / "README.md").read_text(encoding="utf-8")
    prompt = card.split("before it writes:\n\n```text\n")[1].split("\n```")[0]
    tokenizer = Codec(base, "26 Jul 2024").tokenizer
    assert tokenizer(prompt)["input_ids"].count(tokenizer.bos_token_id) == 1
    refused = rir("export", "--arm", "qa", "--to", "gguf", "--dtype", "float16")
    assert refused.code == 2
    assert "--gguf-type" in refused.err


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_a_family_that_gguf_files_are_not_written_for_is_refused_before_anything_is_computed(
    rir: Run, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """It was found after the trained model had answered, which takes minutes."""
    from rir_convert.trained_arm import TrainedArm

    pytest.importorskip("gguf")
    shutil.copytree(tiny, tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"model_type": family}))
    assert rir("train-classifier", str(write_recipe(tmp_path, tmp_path / "base")), "--arm", "qa", "-q").code == 0
    monkeypatch.setattr(TrainedArm, "reference", None)
    refused = rir("export", "--arm", "qa", "--to", "gguf", "-q")
    assert refused.code == 2, refused.err
    assert f"alone, and this model is of the type {family}." in refused.err
    assert "convert_hf_to_gguf.py" in refused.err


def test_a_gguf_file_that_llama_cpp_cannot_run_is_kept_aside(exportable: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for room for the longest row, which is longer than llama.cpp's usual context may be."""
    from rir_convert.gguf import export as gguf

    from rir_mlx.errors import ModelError

    contexts = []

    def refused(path: Path, context: int) -> None:
        assert path.is_file()
        contexts.append(context)
        raise ModelError("a bad magic number")

    monkeypatch.setattr(gguf, "available", lambda: True)
    monkeypatch.setattr(gguf, "open_llama_cpp", refused)
    done = exportable("export", "--arm", "qa", "--to", "gguf", "-q")
    assert done.code == 1
    assert "llama.cpp: it cannot be loaded or run: a bad magic number" in done.err
    assert [path.name for path in Path("runs/small/export").iterdir()] == ["qa-gguf-f16.rejected"]
    assert contexts[0] >= 1024


@pytest.mark.heavy
def test_a_gguf_file_that_llama_cpp_computes_otherwise_is_refused(
    exportable: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors that are read back agree with the writer, whatever it got wrong: here the order of rotated rows."""
    from rir_convert.gguf import architectures

    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(architectures, "permute", lambda weight, heads, back=False: weight)
    done = exportable("export", "--arm", "qa", "--to", "gguf", "--gguf-type", "f32", "-q")
    assert done.code == 1
    assert "llama.cpp: log-probabilities differ by" in done.err
    assert [path.name for path in Path("runs/small/export").iterdir()] == ["qa-gguf-f32.rejected"]


@pytest.mark.usefixtures("one_engine")
def test_a_run_is_exported_from_python_and_says_what_was_verified(exportable: Run, tmp_path: Path) -> None:
    done = export("runs/small", "qa", ExportOptions(to="adapter", output=tmp_path / "out"))
    assert done.folder == tmp_path / "out"
    assert (done.folder / "adapter_model.safetensors").is_file()
    assert done.verification["passed"]
    assert done.verification["arm"] == "qa"


def test_an_output_that_is_a_file_is_refused_in_words(exportable: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; an export is a folder"):
        export("runs/small", "qa", ExportOptions(output=tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_an_export_multiplies_float32_with_all_bits_unless_the_user_says_otherwise(
    rir: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX takes 10 of them on some GPUs, and what is compared then is not what was written."""
    for before, after in ((None, "0"), ("1", "1")):
        monkeypatch.setenv("MLX_ENABLE_TF32", before or "")
        if before is None:
            monkeypatch.delenv("MLX_ENABLE_TF32")
        assert rir("export", "--runs", str(tmp_path)).code == 2
        assert os.environ["MLX_ENABLE_TF32"] == after
