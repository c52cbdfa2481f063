"""What an export finds before anything is computed, and what its card takes from an evaluation."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from commands import write_recipe
from comparisons import a_comparison
from exports import adapter_for, spec_of
from rir_convert import ExportOptions, exporting, push_folder
from rir_convert.cards.card import CardExample, model_card
from rir_convert.cards.facts import card_facts
from rir_convert.exporting import export_arm
from rir_convert.fusing import fuse
from rir_convert.trained_arm import TrainedArm
from rir_convert.upload import check_push
from rir_convert.verification.comparison import EngineComparison
from rir_convert.weights.tensors import save_weights

from rir_mlx.errors import RirError, UserError
from rir_mlx.models.adapters import MLX_WEIGHTS, Adapter, write_adapter
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.stages import Context, OpenOptions, open_run
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import write_json
from rir_mlx.storage.digests import digest_of_file

LABELS = ("joy", "sadness", "anger")


@pytest.fixture
def context(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A run with a trained qar classifier that was evaluated, and no other stage."""
    monkeypatch.chdir(tmp_path)
    opened = open_run(str(write_recipe(tmp_path, tiny)), OpenOptions(offline=True))
    opened.run.save_recipe(opened.recipe)
    train(opened, seed=0)
    evaluate(opened)
    return opened


def train(context: Context, seed: int) -> None:
    stage, spec = context.run.classifier("qar"), spec_of("lora")
    stage.begin()
    task = ClassificationTask(dict.fromkeys(LABELS, ""), "Which?", 320, 12)
    tensors = adapter_for(context.model.files.folder, spec, seed=seed)
    write_adapter(stage.adapter, Adapter(spec, tensors, {"task": asdict(task)}), context.model.files)
    stage.finish({})


def evaluate(context: Context, finished: str = "2126-05-11T14:03:22+0200", seeds: tuple[int, ...] = (0,)) -> None:
    """As an evaluation leaves the run: its record, the calibration and, written last, the comparison."""
    stage = context.run.classifier("qar")
    adapter = digest_of_file(stage.adapter / MLX_WEIGHTS)
    context.run.evaluation("qar").begin()
    context.run.evaluation("qar").finish({"adapter": adapter})
    calibration = Calibration({"direct": 1.3125, "reasoned": 1.0, "sampled": 1.0}, 500)
    write_json(stage.calibration, {"adapter": adapter, "calibration": calibration.as_dict()})
    values = a_comparison(LABELS)
    values["run"]["finished"] = finished
    for entry in values["entries"]:
        entry["seeds"] = list(seeds)
    write_json(context.run.comparison, values)


def card(context: Context) -> str:
    verification: dict[str, Any] = {"engines": {"x": asdict(EngineComparison("x", mean_difference=0.0))}}
    facts = card_facts(TrainedArm(context, "qar"), "x", verification, CardExample("?"), "adapter")
    return model_card(facts)


def test_a_card_has_the_accuracy_and_temperature_that_were_measured_on_its_own_weights(context: Context) -> None:
    """Training again left the comparison and the calibration of the weights before: they were published with the new
    ones."""
    measured = card(context)
    assert "Measured on 2,000 test rows" in measured
    assert "a temperature of 1.31" in measured
    assert "| reasoning | triples.jsonl |" in measured
    train(context, seed=1)
    said = list[str]()
    context.progress.warn = said.append  # type: ignore[method-assign]
    again = card(context)
    assert "It has not been evaluated" in again
    assert "No temperature was fitted" in again
    assert ["not the one that" in line for line in said] == [True]


def test_a_comparison_older_than_the_record_of_the_evaluation_is_not_published(context: Context) -> None:
    """An evaluation that was killed after it measured the new weights leaves the comparison of the old ones."""
    assert TrainedArm(context, "qar").comparison is not None
    evaluate(context, finished="2020-05-11T14:03:22+0200")
    assert TrainedArm(context, "qar").comparison is None
    evaluate(context, finished="yesterday")
    assert TrainedArm(context, "qar").comparison is None
    evaluate(context, seeds=(0, 1))
    assert TrainedArm(context, "qar").comparison is None, "the other seed's weights are not there"


def test_an_export_is_asked_what_classify_is(context: Context) -> None:
    """It took the longest reasoning from the training, and classify from the recipe."""
    assert TrainedArm(context, "qar").task.max_reasoning_tokens == context.recipe.evaluate.max_reasoning_tokens == 24


def test_an_arm_that_is_not_trained_is_refused_with_those_that_are(context: Context) -> None:
    with pytest.raises(UserError, match="no trained qra classifier") as refused:
        TrainedArm(context, "qra")
    assert "or name a trained arm: qar." in refused.value.hint
    (context.run.classifier("qar").folder / "done.json").unlink()
    with pytest.raises(UserError) as refused:
        TrainedArm(context, "qar")
    assert refused.value.hint == "Run `rir-mlx train-classifier` with the same recipe first."


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (ExportOptions("mlx", quantize=8), "width 32 cannot be quantised in groups of 64"),
        (ExportOptions("mlx", quantize=3), "ExportOptions.quantize is 3."),  # type: ignore[arg-type]
        (ExportOptions("onnx"), "ExportOptions.to is 'onnx'."),  # type: ignore[arg-type]
        (ExportOptions("gguf", gguf="q4_k"), "ExportOptions.gguf is 'q4_k'."),  # type: ignore[arg-type]
        (ExportOptions(dtype="int8"), "ExportOptions.dtype is 'int8'."),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_written_is_refused_before_the_model_is_asked(
    context: Context, monkeypatch: pytest.MonkeyPatch, options: ExportOptions, says: str
) -> None:
    monkeypatch.setattr(exporting, "installed_libraries", lambda: ["mlx-lm"])
    monkeypatch.setattr(TrainedArm, "reference", None)
    with pytest.raises(UserError) as refused:
        export_arm(context, "qar", options)
    assert says in refused.value.what
    assert not (context.run.folder / "export").exists()


def test_a_link_that_is_named_as_output_stays_and_leads_to_the_export(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder took the place of the link, and where the link led nowhere, the export failed at its end."""

    class ReachedError(Exception):
        pass

    def stop(folder: Path) -> None:
        raise ReachedError(folder)

    monkeypatch.setattr(exporting, "verified_folder", stop)
    (tmp_path / "link").symlink_to("there/new")
    with pytest.raises(ReachedError, match="there/new"):
        export_arm(context, "qar", ExportOptions("adapter", output=tmp_path / "link"))


def test_quantising_without_mlx_is_refused_in_words_of_its_own(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said to choose another backend, which quantises nothing."""
    monkeypatch.setattr(exporting, "installed_libraries", lambda: ["transformers"])
    with pytest.raises(UserError, match="--quantize needs MLX") as refused:
        export_arm(context, "qar", ExportOptions("mlx", quantize=8))
    assert "--backend" not in refused.value.hint


def test_a_comparison_of_another_version_is_refused_before_the_model_is_asked(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read last: everything was computed, and lost."""
    values = json.loads(context.run.comparison.read_text(encoding="utf-8"))
    write_json(context.run.comparison, values | {"version": 1})
    monkeypatch.setattr(TrainedArm, "reference", None)
    with pytest.raises(UserError, match="has format version 1") as refused:
        export_arm(context, "qar", ExportOptions())
    assert "rir-mlx evaluate" in refused.value.hint


def test_a_folder_whose_record_is_damaged_is_not_replaced(context: Context, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "verification.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="did not write"):
        export_arm(context, "qar", ExportOptions(output=tmp_path / "out"))


def test_an_upload_that_cannot_succeed_is_refused_before_there_is_anything_to_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UserError, match="it has no owner"):
        check_push("feelings", dry_run=True)
    with pytest.raises(UserError, match="needs a Hugging Face token"):
        check_push("me/feelings")
    check_push("me/feelings", dry_run=True)
    with pytest.raises(UserError, match="There is no folder"):
        push_folder(tmp_path / "none", "me/feelings", dry_run=True)


def test_a_fusion_that_cannot_be_verified_or_stored_is_refused_before_a_model_is_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that were trained in full were refused with the hint to run the same command."""
    from rir_convert import fusing

    def refused(adapter: Path) -> RirError:
        with pytest.raises(RirError) as raised:
            fuse(str(tiny), adapter, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return raised.value

    for kind in ("full", "lora"):
        (tmp_path / kind).mkdir()
        config = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 3.0}}
        (tmp_path / kind / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        save_weights(adapter_for(tiny, replace(spec_of("lora"), fine_tune_type=kind)), tmp_path / kind / MLX_WEIGHTS)
    monkeypatch.setattr(fusing, "open_engine", None)
    monkeypatch.setattr(fusing, "installed_libraries", lambda: ["transformers"])
    error = refused(tmp_path / "full")
    assert "Only mlx-lm opens weights that were trained in full" in error.what
    assert "export --to hf" in error.hint
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 20_000}))
    error = refused(tmp_path / "lora")
    assert "GB are needed" in error.what
    assert "--" not in error.hint, "convert has no such option"
