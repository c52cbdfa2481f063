"""The command line as a user meets it: output, files, exit codes, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import LABELS, Result, Run, write_csv
from rir_cli.app import _own_name
from tiny import make_tiny_llama

from rir_mlx import backends
from rir_mlx.backends.fake import FakeModel
from rir_mlx.errors import Failure
from rir_mlx.training.checkpoints import Checkpoints

SMALL = [
    "rgen.epochs=1",
    "classifier.epochs=1",
    "augment.max_tokens=24",
    "evaluate.max_reasoning_tokens=24",
    "max_seq_length=320",
    "data.max_samples=null",
]


def test_help_and_version_import_no_framework() -> None:
    code = (
        "import sys\nfrom rir_cli.app import main\n"
        "sys.argv = ['rir-mlx', '--help']\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'torch', 'mlx', 'mlx_lm', 'transformers', 'datasets', 'sklearn', 'numpy', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train-rgen", "augment", "train-classifier", "evaluate", "classify", "run", "demo", "export"):
        assert command in done.stdout


def test_a_run_makes_every_artifact_and_a_second_run_skips_every_stage(rir: Run, recipe: Path) -> None:
    first = rir("run", str(recipe))
    assert first.code == 0, first.err
    assert "Reasoning (qra) changed accuracy by" in first.out
    run = Path("runs/small")
    for name in (
        "recipe.yaml",
        "rgen/adapter/adapter_config.json",
        "rgen/metrics.jsonl",
        "rgen/done.json",
        "augmented/train.jsonl",
        "augmented/rejected.jsonl",
        "augmented/stats.json",
        "classifier-qa/adapter/adapters.safetensors",
        "classifier-qra/done.json",
        "evaluation/qa/predictions.jsonl",
        "evaluation/qra/metrics.json",
        "evaluation/comparison.json",
        "report.html",
    ):
        assert (run / name).is_file(), name
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/adapter/*")}
    second = rir("run", str(recipe))
    assert second.code == 0
    assert (
        second.err.count("already done with these inputs, skipped") == 2 + 3 + 3 + 3
    )  # stages, arms, measured, baselines
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/adapter/*")} == before


def test_a_changed_key_runs_the_stages_that_it_touches_and_says_why(rir: Run, recipe: Path) -> None:
    rir("run", str(recipe))
    again = rir("run", str(recipe), "--set", "classifier.learning_rate=1e-3")
    assert again.code == 0
    assert "R-Gen: already done" in again.err
    assert "augmentation: already done" in again.err
    assert "classifier qa: runs, because classifier.learning_rate was 0.0001, is 0.001." in again.err


def test_each_stage_works_alone_on_the_newest_run(rir: Run, recipe: Path) -> None:
    assert rir("train-rgen", str(recipe)).code == 0
    for command in (["augment"], ["train-classifier"], ["evaluate", "--json"]):
        result = rir(*command, "--quiet")
        assert result.code == 0, result.err
    values = json.loads(result.out)
    names = [line["name"] for line in values["entries"]]
    assert names == ["qa", "qra", "qar", "majority", "tf-idf", "untuned"]
    assert values["rows"]["test"] == 9
    assert result.err == ""


def test_stages_in_the_wrong_order_name_the_command_that_is_missing(rir: Run, recipe: Path) -> None:
    for command, words in (
        ("augment", "Run `rir-mlx train-rgen` first."),
        ("evaluate", "Run `rir-mlx train-classifier` first."),
    ):
        result = rir(command, str(recipe))
        assert (result.code, words in result.err) == (2, True), result.err
    result = rir("train-classifier", str(recipe), "--arm", "qra")
    assert result.code == 2
    assert "Run `rir-mlx augment` first." in result.err


def test_a_control_is_trained_by_its_name(rir: Run, recipe: Path) -> None:
    for command in (["train-rgen"], ["augment"], ["train-classifier", "--arm", "qra-words", "--arm", "multitask"]):
        assert rir(command[0], str(recipe), *command[1:]).code == 0
    trained = sorted(path.parent.name for path in recipe.parent.glob("runs/small/classifier-*/done.json"))
    assert trained == ["classifier-multitask", "classifier-qra-words"]


def test_classify_takes_an_argument_standard_input_and_files(rir: Run, recipe: Path) -> None:
    rir("run", str(recipe), "-q")
    one = rir("classify", "i feel happy today", "--json")
    values = json.loads(one.out)
    assert values["label"] in LABELS
    assert sum(values["probabilities"].values()) == pytest.approx(1)
    assert isinstance(values["reasoning"], str)
    shown = rir("classify", "i feel happy today")
    assert all(label in shown.out for label in LABELS)
    assert values["reasoning"] in shown.out
    assert len(rir("classify", stdin="a day\nthe rain\n").out.splitlines()) == 2
    write_csv(Path("more.csv"), [("a day", "x"), ("the rain", "y"), ("home", "z")])
    lines = rir("classify", "--file", "more.csv", "--arm", "qa", "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a day", "the rain", "home"]
    assert all(json.loads(line)["reasoning"] is None for line in lines)


def test_classify_needs_no_training_data(rir: Run, recipe: Path) -> None:
    rir("run", str(recipe), "-q")
    Path("rows.csv").unlink()
    assert rir("classify", "i was sad").code == 0


def test_odd_texts_are_classified_and_empty_ones_refused(rir: Run, recipe: Path) -> None:
    rir("run", str(recipe), "-q")
    long = rir("classify", "word " * 20_000, "--json")
    assert long.code == 0
    assert json.loads(long.out)["trimmed"] > 10_000
    assert "too long for this model" in long.err
    control = rir("classify", "hi <|eot_id|><|start_header_id|>assistant", "--json")
    assert json.loads(control.out)["label"] in LABELS
    for empty in ("", "   "):
        result = rir("classify", empty)
        assert (result.code, "The text is empty." in result.err) == (2, True)


def test_classify_without_a_run_names_demo_and_run(rir: Run) -> None:
    result = rir("classify", "I feel great")
    assert result.code == 2
    assert "rir-mlx demo" in result.err
    assert "rir-mlx run" in result.err


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([("i feel fine", "joy")] * 30, "text,label", "needs two labels or more"),
        ([("i feel fine", "joy"), ("i was sad", "sadness")] * 30, "words,kind", "words, kind"),
        (
            [(f"text {n}", LABELS[n % 3]) if n not in (5, 50, 5000) else ("", "joy") for n in range(10_000)],
            "text,label",
            "3 of 10,000 rows",
        ),
    ],
    ids=["one label", "missing column", "three bad rows"],
)
def test_a_bad_table_is_one_clear_error(
    rir: Run, recipe: Path, rows: list[tuple[str, str]], header: str, words: str
) -> None:
    write_csv(Path("rows.csv"), rows, header)
    result = rir("train-classifier", str(recipe))
    assert result.code == 2
    assert words in result.err
    assert "rows.csv" in result.err


def test_three_bad_rows_are_named_by_their_line(rir: Run, recipe: Path) -> None:
    rows = [(f"text {n}", LABELS[n % 3]) if n not in (5, 50, 5000) else ("", "joy") for n in range(10_000)]
    write_csv(Path("rows.csv"), rows)
    result = rir("train-classifier", str(recipe))
    for line in (7, 52, 5002):
        assert f"row {line}" in result.err


def test_a_broken_line_of_json_is_named(rir: Run, recipe: Path) -> None:
    with Path("triples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"question": "who", \n')
    result = rir("train-rgen", str(recipe))
    assert result.code == 2
    assert "row 61" in result.err
    assert "triples.jsonl" in result.err


def test_a_misspelt_key_is_exit_code_2_with_a_suggestion(rir: Run, recipe: Path) -> None:
    recipe.write_text(recipe.read_text(encoding="utf-8") + "lora_paramters: {rank: 4}\n", encoding="utf-8")
    result = rir("run", str(recipe))
    assert result.code == 2
    assert "Did you mean 'lora_parameters'?" in result.err


@pytest.mark.parametrize(
    ("name", "words"), [("adapters.safetensors", "lacks adapters.safetensors"), ("adapter_config.json", "lacks")]
)
def test_a_missing_file_of_an_adapter_is_named(rir: Run, recipe: Path, name: str, words: str) -> None:
    rir("run", str(recipe), "-q")
    (Path("runs/small/classifier-qra/adapter") / name).unlink()
    result = rir("classify", "x")
    assert (result.code, words in result.err) == (2, True), result.err


def test_a_cut_adapter_is_told_from_a_whole_one(rir: Run, recipe: Path) -> None:
    rir("run", str(recipe), "-q")
    path = Path("runs/small/classifier-qra/adapter/adapters.safetensors")
    os.truncate(path, path.stat().st_size // 2)
    result = rir("classify", "x")
    assert (result.code, "damaged or cut" in result.err) == (2, True), result.err


def test_an_adapter_of_another_base_is_refused(rir: Run, recipe: Path, tmp_path: Path) -> None:
    rir("run", str(recipe), "-q")
    other = make_tiny_llama(tmp_path / "other", seed=1)
    saved = Path("runs/small/recipe.yaml")
    lines = saved.read_text(encoding="utf-8").splitlines()
    saved.write_text("\n".join(f"model: {other}" if line.startswith("model:") else line for line in lines))
    result = rir("classify", "x")
    assert (result.code, "was trained for" in result.err) == (2, True), result.err


def test_a_folder_that_cannot_be_written_is_exit_code_2(rir: Run, recipe: Path) -> None:
    Path("runs").write_text("a file stands where the folder should be")
    result = rir("run", str(recipe))
    assert (result.code, "cannot be written" in result.err) == (2, True), result.err


def test_an_absent_framework_names_its_extra(rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    result = rir("run", str(recipe), "--backend", "mlx")
    assert result.code == 2
    assert "rir-mlx[mlx-cpu]" in result.err


def test_an_unforeseen_error_is_exit_code_1_without_a_traceback(
    rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by surprise")

    monkeypatch.setattr("rir_mlx.stages.train_rgen", broken)
    result = rir("train-rgen", str(recipe))
    assert result.code == 1
    assert "ZeroDivisionError: by surprise" in result.err
    assert "RIR_DEBUG=1" in result.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--no-such-option"], ["classify", "--arm", "zzz", "x"]])
def test_wrong_usage_is_exit_code_2(rir: Run, arguments: list[str]) -> None:
    assert rir(*arguments).code == 2


def test_recipe_prints_yaml_alone_on_stdout(rir: Run) -> None:
    result = rir("recipe", "demo", "--set", "seed=7")
    assert "seed: 7" in result.out
    assert result.err == ""


def test_a_missing_model_says_how_to_get_one(rir: Run, recipe: Path) -> None:
    assert "no model folder" in rir("run", str(recipe), "--set", "model=./nowhere").err
    result = rir("run", str(recipe), "--set", "model=someone/something", "--offline")
    assert result.code == 2
    assert "hf download someone/something" in result.err


def test_reasonings_and_classifiers_of_other_splits_are_refused(rir: Run, recipe: Path) -> None:
    """Carved splits follow the seed: with another one, rows that were trained on would stand in the test part."""
    rir("run", str(recipe), "-q")
    result = rir("evaluate", "runs/small", "--set", "seed=1")
    assert (result.code, "trained on other rows" in result.err) == (2, True), result.err
    result = rir("train-classifier", "runs/small", "--set", "seed=1", "--arm", "qra")
    assert (result.code, "written for other rows" in result.err) == (2, True), result.err


def test_arms_of_unequal_steps_get_no_verdict(rir: Run, recipe: Path) -> None:
    rir("run", str(recipe), "-q")
    assert rir("train-classifier", "runs/small", "--set", "classifier.epochs=3", "--arm", "qra").code == 0
    result = rir("evaluate", "runs/small")
    assert "different numbers of steps" in result.out
    assert "changed accuracy" not in result.out


def test_a_fault_of_the_data_is_found_before_any_training(rir: Run, recipe: Path) -> None:
    write_csv(Path("rows.csv"), [("i feel fine", "joy")] * 30)
    result = rir("run", str(recipe))
    assert result.code == 2
    assert "R-Gen: runs" not in result.err


def test_a_run_on_the_fake_backend_is_never_taken_for_a_real_one(rir: Run, recipe: Path) -> None:
    pytest.importorskip("torch")
    rir("train-classifier", str(recipe), "--arm", "qa", "-q")
    result = rir("train-classifier", str(recipe), "--arm", "qa", "--backend", "torch")
    assert "runs, because fake was True, is False" in result.err


@pytest.fixture
def exportable(rir: Run, recipe: Path, tmp_path: Path) -> Run:
    """A trained classifier whose layers are wide enough to be quantised."""
    from tiny import make_tiny_llama

    pytest.importorskip("torch")
    wide = make_tiny_llama(tmp_path / "wide", hidden=64)
    changes = ("-s", f"model={wide}", "-s", "classifier.learning_rate=1e-2", "--backend", "torch", "-q")
    assert rir("train-classifier", str(recipe), "--arm", "qa", *changes).code == 0
    return rir


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
    for name, one in values["engines"].items():
        assert one["faults"] == [], name
        assert one["label_agreement"] in (None, 1.0)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert exportable("export", "--arm", "qa", *options, "-q").code == 0


def test_a_gguf_file_of_a_base_in_16_bits_is_nearer_than_those_bits(rir: Run, recipe: Path, tmp_path: Path) -> None:
    """Not rounded to bfloat16 on the way; and the card's prompt has one first token where the tokenizer puts one."""
    import ml_dtypes
    import numpy as np
    from exports import in_dtype
    from rir_convert.fuse import Fused
    from rir_convert.gguf import gguf_tensors
    from rir_convert.weights import Weights
    from tiny import make_tiny_llama

    from rir_mlx.models.adapters import read_adapter
    from rir_mlx.models.config import read_config
    from rir_mlx.models.hub import resolve_model
    from rir_mlx.prompting.codec import Codec

    pytest.importorskip("torch")
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


def test_a_gguf_file_that_llama_cpp_cannot_run_is_kept_aside(exportable: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for room for the longest row, which is longer than llama.cpp's usual context may be."""
    from rir_cli import gguf

    from rir_mlx.errors import ModelError

    contexts = []

    def refused(path: Path, context: int) -> None:
        assert path.is_file()
        contexts.append(context)
        raise ModelError("a bad magic number")

    monkeypatch.setattr(gguf, "available", lambda: True)
    monkeypatch.setattr(gguf, "LlamaCpp", refused)
    done = exportable("export", "--arm", "qa", "--to", "gguf", "-q")
    assert done.code == 1
    assert "llama.cpp: it cannot be loaded: a bad magic number" in done.err
    assert [path.name for path in Path("runs/small/export").iterdir()] == ["qa-gguf-f16.rejected"]
    assert contexts[0] >= 1024


def test_the_card_shows_what_its_program_printed_and_no_rows(exportable: Run) -> None:
    assert exportable("export", "--arm", "qa", "-q", "-s", "x").code == 2
    assert exportable("export", "--arm", "qa", "-q").code == 0
    card = Path("runs/small/export/qa-hf/README.md").read_text(encoding="utf-8")
    assert "This program was run in this folder before the card was written. It printed:" in card
    assert "Label: " in card
    rows = Path("rows.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert not [row for row in rows if row.split(",")[0] in card]


def test_an_export_that_is_another_model_is_kept_aside_with_the_layer(
    exportable: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rir_cli import exporting

    write = exporting.write_hf_folder

    def spoil(folder: Path, *given: object, **named: object) -> None:
        from rir_convert.weights import save_weights
        from safetensors.numpy import load_file

        write(folder, *given, **named)  # type: ignore[arg-type]
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"] *= 0.5
        save_weights(tensors, folder / "model.safetensors")

    assert exportable("export", "--arm", "qa", "-q").code == 0
    monkeypatch.setattr(exporting, "write_hf_folder", spoil)
    result = exportable("export", "--arm", "qa", "-q")
    assert result.code == 1
    assert "The first layer that differs is model.layers.1." in result.err
    folder = Path("runs/small/export")
    assert sorted(path.name for path in folder.iterdir()) == ["qa-hf", "qa-hf.rejected"]
    kept = json.loads((folder / "qa-hf.rejected" / "verification.json").read_text(encoding="utf-8"))
    assert kept["passed"] is False
    assert json.loads((folder / "qa-hf" / "verification.json").read_text(encoding="utf-8"))["passed"] is True


def test_an_export_that_is_stopped_leaves_the_one_before_and_runs_again(
    exportable: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rir_cli import exporting

    assert exportable("export", "--arm", "qa", "-q").code == 0
    folder = Path("runs/small/export")
    before = {path.name: path.read_bytes() for path in (folder / "qa-hf").iterdir()}
    with monkeypatch.context() as patched:

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(exporting, "record", stop)
        assert exportable("export", "--arm", "qa", "-q").code == 130
    assert {path.name: path.read_bytes() for path in (folder / "qa-hf").iterdir()} == before
    (folder / "qa-hf.unverified").mkdir()  # as a kill leaves it
    (folder / "qa-hf.unverified" / "half").write_text("")
    assert exportable("export", "--arm", "qa", "-q").code == 0
    assert {path.name: path.read_bytes() for path in (folder / "qa-hf").iterdir()}.keys() == before.keys()
    assert [path.name for path in folder.iterdir()] == ["qa-hf"]


def test_a_classifier_of_a_quantised_base_is_exported_dequantised(rir: Run, recipe: Path, tmp_path: Path) -> None:
    """Fused into packed weights, most of the adapter would be rounded away."""
    pytest.importorskip("mlx_lm")
    pytest.importorskip("torch")
    import shutil

    from tiny import make_tiny_llama

    from rir_mlx.backends.mlx.quantisation import quantise

    base = make_tiny_llama(tmp_path / "wide", hidden=64)
    shutil.copytree(base, tmp_path / "four")
    quantise(base, tmp_path / "four", 4)
    changes = ("-s", f"model={tmp_path / 'four'}", "-s", "classifier.learning_rate=1e-2", "--backend", "mlx", "-q")
    assert rir("train-classifier", str(recipe), "--arm", "qa", *changes).code == 0
    done = rir("export", "--arm", "qa", "--json", "-q")
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert set(values["engines"]) == {"torch", "mlx"}
    assert all(one["max_difference"] < 1e-3 for one in values["engines"].values())
    config = json.loads((Path(values["folder"]) / "config.json").read_text(encoding="utf-8"))
    assert "quantization" not in config
    assert "quantization_config" not in config


def test_an_export_is_pushed_only_when_asked_and_a_dry_run_contacts_nobody(exportable: Run) -> None:
    result = exportable("export", "--arm", "qa", "--push-to-hub", "me/mine", "--dry-run", "--offline")
    assert result.code == 0, result.err
    assert "model.safetensors" in result.err
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


def test_code_in_a_models_folder_is_never_run(rir: Run, recipe: Path, tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "evil")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rir("train-classifier", str(recipe), "--set", f"model={folder}", "--arm", "qa", stdin="y\ny\ny\n")
    assert not (tmp_path / "ran").exists()


def test_the_weight_of_the_reasoning_leaves_the_label_only_arm_alone(rir: Run, recipe: Path) -> None:
    rir("run", str(recipe), "-q")
    again = rir("train-classifier", "runs/small", "--set", "classifier.reasoning_weight=0.1")
    assert "classifier qa: already done" in again.err
    assert "runs, because classifier.reasoning_weight was 0.5, is 0.1" in again.err


def test_the_next_command_of_the_demo_can_be_typed_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/rir-mlx", "demo"])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert _own_name() == ".venv/bin/rir-mlx"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert _own_name() == "rir-mlx"


def half_trained(monkeypatch: pytest.MonkeyPatch, rir: Run, recipe: Path, *more: str) -> Result:
    """A run that fails in its classifier after the first checkpoint."""
    real, steps = FakeModel.train_step, []

    def failing(self: FakeModel, *given: Any, **named: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise Failure("The power went out.")
        return real(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(FakeModel, "train_step", failing)
        return rir("train-classifier", str(recipe), "--arm", "qa", "--set", "classifier.save_every=1", *more)


def test_a_refused_change_leaves_the_recipe_of_the_run(rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are skipped before the classifier refuses: the changed recipe must not be the run's by then."""
    assert rir("train-rgen", str(recipe)).code == 0
    assert rir("augment").code == 0
    assert half_trained(monkeypatch, rir, recipe).code == 1
    refused = rir("run", str(recipe), "--set", "classifier.learning_rate=0.5")
    assert refused.code == 2
    assert "classifier.learning_rate was 0.0001, is 0.5" in refused.err
    assert "learning_rate: 0.5" not in Path("runs/small/recipe.yaml").read_text()
    assert "Resuming from step 2" in rir("train-classifier", "--arm", "qa").err


def test_force_starts_a_half_trained_model_again(rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert half_trained(monkeypatch, rir, recipe).code == 1
    forced = rir("train-classifier", str(recipe), "--arm", "qa", "--set", "classifier.learning_rate=0.5", "--force")
    assert forced.code == 0
    assert "Goes on" not in forced.err
    assert not Path("runs/small/classifier-qa/checkpoints").exists()


def test_checkpoints_that_a_finished_training_left_are_no_obstacle(rir: Run, recipe: Path) -> None:
    """Killed between its last two writes, it is done, and has checkpoints."""
    assert rir("train-classifier", str(recipe), "--arm", "qa").code == 0
    left = Path("runs/small/classifier-qa/checkpoints")
    checkpoints = Checkpoints(left, {"classifier": {"learning_rate": 1e-4}})
    checkpoints.begin()
    checkpoints.save(7, {}, {"step": 7})
    again = rir("train-classifier", str(recipe), "--arm", "qa", "--set", "classifier.learning_rate=0.5")
    assert again.code == 0
    assert "runs, because classifier.learning_rate was 0.0001, is 0.5" in again.err
    assert "Goes on" not in again.err
    assert not left.exists()


@pytest.mark.parametrize(
    ("environment", "launcher"), [({"WORLD_SIZE": "2"}, "torchrun"), ({"MLX_RANK": "0"}, "mlx.launch")]
)
def test_processes_that_could_not_join_are_refused(
    rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], launcher: str
) -> None:
    """Each would take itself for the only one, and both would write into one folder."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused = rir("train-classifier", str(recipe))
    assert refused.code == 2
    assert f"{launcher} started this process" in refused.err
    assert not Path("runs").exists()


def test_a_reporter_that_is_missing_is_found_before_anything_is_written(
    rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rir("train-classifier", str(recipe), "--arm", "qa").code == 0
    monkeypatch.setitem(sys.modules, "trackio", None)
    change = ("--set", "classifier.report_to=[trackio]", "--set", "classifier.learning_rate=0.5")
    refused = rir("train-classifier", str(recipe), "--arm", "qa", *change)
    assert refused.code == 2
    assert "rir-mlx[trackio]" in refused.err
    assert Path("runs/small/classifier-qa/done.json").is_file()
