"""`runs`, `compare`, `report` and `models`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from evaluated_run import lines_of

from rir_mlx.errors import UserError
from rir_mlx.guide.models import models_here
from rir_mlx.guide.runs.listing import list_runs
from rir_mlx.guide.runs.pairing import compare_runs
from rir_mlx.storage.layout import RunDir

Changed = Callable[..., RunDir]


@pytest.fixture
def changed(evaluated_run: Path) -> Changed:
    """A copy of the evaluated run whose rows of an arm are changed by a function, in every seed."""

    def copy(name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> RunDir:
        run = RunDir(evaluated_run.parent / name)
        shutil.copytree(evaluated_run, run.folder)
        for path in run.folder.glob("evaluation/*/predictions.jsonl"):
            path.write_text("".join(json.dumps(row) + "\n" for row in change(lines_of(path))), encoding="utf-8")
        return run

    return copy


def all_correct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"predicted": row["label"]} for row in rows]


def all_wrong(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"predicted": "none"} for row in rows]


def test_runs_are_listed_with_what_was_measured(evaluated_run: Path) -> None:
    [found] = list_runs(evaluated_run.parent)
    assert (found.name, found.test_rows, found.problem) == ("small", 24, "")
    assert set(found.arms) == {"qa", "qra", "qar", "multitask", "qra-scrambled", "qra-words"}
    assert all(0 <= (accuracy or -1) <= 1 for accuracy in found.arms.values())
    assert found.chosen in found.arms
    assert found.size == sum(path.stat().st_size for path in evaluated_run.rglob("*") if path.is_file())
    assert found.written.startswith("20")


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(evaluated_run: Path) -> None:
    path = evaluated_run / "evaluation/comparison.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"version": 3', '"version": 1'), encoding="utf-8")
    [found] = list_runs(evaluated_run.parent)
    assert "format version 1" in found.problem


def test_a_run_compared_with_itself_differs_nowhere(evaluated_run: Path, changed: Changed) -> None:
    pair = compare_runs(RunDir(evaluated_run), changed("same", lambda rows: rows))
    assert (pair.shared, pair.rows, pair.recipe, pair.notes) == (24, (24, 24), (), ())
    for entry in pair.entries:
        assert entry.difference is not None
        assert (entry.difference.difference.value, entry.significant) == (0.0, False)


def test_a_difference_is_taken_on_the_same_rows_whatever_their_order(evaluated_run: Path, changed: Changed) -> None:
    wrong = changed("wrong", all_wrong)
    right = changed("right", lambda rows: all_correct(rows)[::-1])
    by_name = {entry.name: entry for entry in compare_runs(wrong, right).entries}
    found = by_name["qra"].difference
    assert found is not None
    assert (found.rows, found.difference.value, len(found.by_seed)) == (24, 1.0, 2)
    assert by_name["qra"].significant


def test_only_rows_of_both_are_paired_and_it_is_said(evaluated_run: Path, changed: Changed) -> None:
    fewer = changed("fewer", lambda rows: all_correct(rows)[:10])
    pair = compare_runs(RunDir(evaluated_run), fewer)
    assert pair.shared == 10
    assert pair.notes[0].startswith("The test rows differ: 10 are in both")
    assert all(entry.difference is None or entry.difference.rows == 10 for entry in pair.entries)
    other = changed("other", lambda rows: [row | {"text": f"not {row['text']}"} for row in rows])
    pair = compare_runs(RunDir(evaluated_run), other)
    assert pair.shared == 0
    assert "no test row in common" in pair.notes[0]
    assert all(entry.difference is None and entry.first is not None for entry in pair.entries)


def test_rows_that_an_evaluation_left_out_are_not_paired(evaluated_run: Path, changed: Changed) -> None:
    """Copies of training rows counted in `compare`, though no verdict uses them."""

    def leaked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"compared": place > 1} for place, row in enumerate(rows)]

    pair = compare_runs(RunDir(evaluated_run), changed("leaked", leaked))
    assert pair.shared == 22
    assert pair.notes[0].startswith("2 rows of both left out: in one of the runs a copy")
    assert all(entry.difference is None or entry.difference.rows == 22 for entry in pair.entries)
    older = changed("older", lambda rows: [{key: row[key] for key in row if key != "compared"} for row in rows])
    assert compare_runs(RunDir(evaluated_run), older).notes == ()
    text = older.comparison.read_text(encoding="utf-8").replace('"cleaned": 24', '"cleaned": 20')
    older.comparison.write_text(text, encoding="utf-8")
    assert "is not known of older" in compare_runs(RunDir(evaluated_run), older).notes[0]


def test_a_row_that_comes_twice_is_paired_as_often_as_both_have_it(evaluated_run: Path, changed: Changed) -> None:
    twice = changed("twice", lambda rows: [rows[0], rows[0], *rows[1:]])
    assert compare_runs(twice, changed("thrice", lambda rows: [rows[0]] * 3 + rows[1:])).shared == 25
    assert compare_runs(RunDir(evaluated_run), twice).shared == 24


def test_predictions_that_are_missing_are_not_called_damaged(evaluated_run: Path, changed: Changed) -> None:
    other = changed("other", lambda rows: rows)
    shutil.rmtree(other.evaluation("qa").folder)
    with pytest.raises(UserError, match="is missing") as raised:
        compare_runs(RunDir(evaluated_run), other)
    assert "rir-mlx evaluate" in (raised.value.hint or "")


def test_how_the_recipes_differ_is_said_in_words(evaluated_run: Path, changed: Changed) -> None:
    other = changed("other", lambda rows: rows)
    text = other.comparison.read_text(encoding="utf-8").replace("max_seq_length: 320", "max_seq_length: 256")
    other.comparison.write_text(text.replace("name: small", "name: other"), encoding="utf-8")
    assert compare_runs(RunDir(evaluated_run), other).recipe == ("max_seq_length was 320, is 256",)


def test_the_commands_print_tables_and_json(evaluated_run: Path, changed: Changed, rir: Run, monkeypatch: Any) -> None:
    monkeypatch.chdir(evaluated_run.parents[1])
    changed("right", all_correct)
    assert "qra-words" in rir("runs").out
    assert {run["name"] for run in json.loads(rir("runs", "--json").out)} == {"small", "right"}
    shown = rir("compare", "small", "right").out
    assert "24 test rows in both" in shown
    assert "The recipes are the same." in shown
    assert "about these classifiers, not about ways of training (fewer than 3 seeds)" in shown, "qra has two"
    assert json.loads(rir("compare", "small", "runs/right", "--json").out)["shared"] == 24
    result = rir("compare", "smal", "right")
    assert (result.code, "Did you mean 'small'?" in result.err) == (2, True), result.err
    assert rir("report", "small").out == "runs/small/report.html\n"
    (evaluated_run / "report.html").unlink()
    assert rir("report", "--no-open").out == "runs/right/report.html\n"
    assert "rir-mlx evaluate runs/small" in rir("report", "small").err


def test_without_runs_the_demo_is_named(rir: Run) -> None:
    result = rir("runs")
    assert (result.code, result.out, "rir-mlx demo" in result.err) == (0, "", True)
    assert rir("report").code == 2


def test_models_of_the_cache_have_their_licence_and_what_is_known_of_them(
    rir: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, kind in (("known", "llama"), ("unknown", "mamba")):
        folder = tmp_path / f"hub/models--me--{name}/snapshots/0123"
        shutil.copytree(tiny, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}), encoding="utf-8")
        card = "---\nlicense: other\nlicense_name: llama3.2\n---\n# A model\n"
        (folder / "README.md").write_text(card, encoding="utf-8")
    (tmp_path / "hub/models--me--broken/snapshots/1").mkdir(parents=True)
    (tmp_path / "hub/models--me--broken/snapshots/1/model.safetensors").write_bytes(b"")
    found = {model.name: model for model in models_here(1 << 34)}
    assert set(found) == {"builtin:tiny-llama", "me/known", "me/unknown"}
    assert (found["me/known"].licence, found["me/known"].verified) == ("llama3.2", "Llama 2 and 3, SmolLM2")
    assert found["me/unknown"].verified == ""
    shown = rir("models").out
    assert "mamba: not tested; it is checked when it is loaded" in shown
    assert {model["name"] for model in json.loads(rir("models", "--json").out)["models"]} == set(found)


def test_models_that_cannot_be_trained_are_not_said_to_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "classifier": {"architectures": ["LlamaForSequenceClassification"]},
        "awq": {"quantization_config": {"quant_method": "awq"}},
        "packed": {"quantization": {"bits": 4, "group_size": 64}},
        "part": {},
    }
    for name, more in changes.items():
        folder = tmp_path / f"hub/models--me--{name}/snapshots/0123"
        shutil.copytree(tiny, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | more), encoding="utf-8")
    shutil.copy(
        folder / "model.safetensors", folder.parents[2] / "models--me--plain/snapshots/0123/consolidated.safetensors"
    )
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    found = {model.name: model for model in models_here(1 << 34)}
    assert set(found) == {"builtin:tiny-llama", *(f"me/{name}" for name in changes if name != "part")}
    assert {name for name in found if found[name].verified} == {"builtin:tiny-llama", "me/plain"}
    assert found["me/plain"].size == (tiny / "model.safetensors").stat().st_size


def test_every_family_that_the_tests_run_is_said_to_be_known_and_no_other() -> None:
    import transformers
    from families import FAMILIES

    from rir_mlx.models.families import VERIFIED

    assert {getattr(transformers, config).model_type for config, _ in FAMILIES.values()} == set(VERIFIED)


def test_figures_of_weights_that_were_trained_again_are_told(
    rir: Run, evaluated_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `train-classifier` with an edited recipe, `runs`, `report`, `compare` and `classify` showed the figures of
    the weights before as those of the run; `compare` put the edited recipe beside them."""
    shutil.copytree(evaluated_run, evaluated_run.parent / "second")
    monkeypatch.chdir(evaluated_run.parent.parent)
    before = "trained again since"
    for arguments in (["runs"], ["report", "small", "--no-open"], ["compare", "small", "second"]):
        assert before not in "".join([rir(*arguments).out, rir(*arguments).err])
    assert rir("train-classifier", "runs/small", "-q", "-s", "classifier.epochs=2", "--arm", "qra").code == 0
    [small] = [run for run in list_runs(evaluated_run.parent) if run.name == "small"]
    assert small.since == ("qra",)
    listed, reported, told = rir("runs"), rir("report", "small", "--no-open"), rir("compare", "small", "second")
    assert before in listed.out
    assert reported.out.strip() == "runs/small/report.html"
    assert "qra of small was trained again since: these are the figures of before." in reported.err
    assert "qra of small was trained again since: these are the figures of before." in told.out
    assert "The recipes are the same." in told.out, "those that were evaluated"
    assert "qra was trained again since" in rir("classify", "i feel happy", "--run", "runs/small").err
    assert rir("evaluate", "runs/small", "-q").code == 0
    for arguments in (["runs"], ["report", "small", "--no-open"], ["compare", "small", "second"]):
        assert before not in "".join([rir(*arguments).out, rir(*arguments).err])
    assert "classifier.epochs was 2, is 1" in rir("compare", "small", "second").out
