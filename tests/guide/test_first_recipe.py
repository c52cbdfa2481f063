"""A first recipe: its choices, its reasons, and its comments from the keys' own help."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import LABELS, WORDS

from rir_mlx import hub_access
from rir_mlx.data.loading import load_labelled
from rir_mlx.guide.draft import Draft, first_sentence
from rir_mlx.guide.drafting import as_split, draft_recipe
from rir_mlx.guide.first_recipe import ModelChoice, look_at, model_choices, scan
from rir_mlx.guide.models import default_model, models_here, training_bytes
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import DataSection, Recipe

GIB = 2**30
Tabled = Callable[..., Path]


@pytest.fixture(autouse=True)
def _hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that answers, and nothing in its cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub_access, "hub_answers", lambda: True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def tabled(tmp_path: Path) -> Tabled:
    def write(count: int = 60, **columns: str) -> Path:
        path = tmp_path / "my rows.jsonl"
        rows = [{"text": f"{WORDS[label]} {n}", "label": label} | columns for n in range(count) for label in LABELS]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def draft(path: Path, memory: int = 16 * GIB, *overrides: str, **descriptions: str) -> Draft:
    return draft_recipe(scan(look_at(path, overrides)), model_choices(memory)[0], descriptions)


def test_the_text_is_the_recipe_that_was_drafted(tabled: Tabled) -> None:
    made = draft(tabled(), joy="things went well")
    recipe = Recipe.model_validate(yaml.safe_load(made.text(["mine"])))
    assert recipe == made.recipe()
    assert (recipe.name, recipe.data.text_column, recipe.data.label_column) == ("my-rows", "text", "label")
    assert recipe.data.labels == {"anger": "", "joy": "things went well", "sadness": ""}


def test_each_key_stands_below_its_help_and_its_reason(tabled: Tabled) -> None:
    lines = draft(tabled()).text(["mine", ""]).splitlines()
    assert lines[:2] == ["# mine", "#"]
    place = lines.index("  text_column: text")
    assert lines[place - 2 : place] == [
        f"  # {first_sentence(DataSection.model_fields['text_column'].description or '')}",
        "  # Chosen because its name is usual for texts.",
    ]
    keys = [line for line in lines if line.strip() and not line.strip().startswith("#") and not line.endswith(":")]
    for key in keys:
        above = lines[lines.index(key) - 1]
        assert above.strip().startswith("#") or key.startswith("    "), key


def test_a_label_without_a_description_shows_rows_to_write_one_from(tabled: Tabled) -> None:
    text = draft(tabled(), joy="things went well").text([])
    assert text.count("60 rows, such as:") == 2
    assert text.count("#   i was sad") == 3
    assert "i feel happy" not in text


def test_bad_rows_are_skipped_if_they_are_few_and_the_reason_counts_them(tabled: Tabled) -> None:
    path = tabled()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": "", "label": "joy"}\n{"text": "well", "label": "sadnes"}\n')
    made = draft(path)
    assert made.recipe().data.on_bad_rows == "skip"
    assert made.reasons["data.on_bad_rows"].startswith("2 rows cannot be used")
    assert "'sadnes' (1 row) for 'sadness'" in made.text([])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": "", "label": "joy"}\n' * 90)
    assert draft(path).recipe().data.on_bad_rows == "stop"


def test_a_few_arrays_are_not_skipped_for_they_are_all_the_rows_with_several_labels(tabled: Tabled) -> None:
    path = tabled()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": "both", "label": "[\'joy\' \'sadness\']"}\n')
    assert draft(path).recipe().data.on_bad_rows == "stop"


@pytest.mark.parametrize(("memory", "tiny"), [(32 * GIB, False), (2 * GIB, True)])
def test_the_model_fits_into_the_memory(tabled: Tabled, memory: int, tiny: bool) -> None:
    choice = model_choices(memory)[0]
    assert choice.tiny is tiny
    assert choice.model.fits
    made = draft(tabled(), memory).recipe()
    assert (made.fine_tune_type, made.reasoning.source and made.reasoning.source.path) == (
        ("full", "builtin:reasoning.jsonl") if tiny else ("lora", "syvai/reasoning-gen")
    )


def test_without_a_hub_the_embedded_model_is_chosen_and_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_access, "hub_answers", lambda: False)
    [choice] = model_choices(16 * GIB)
    assert choice.tiny
    assert choice.reason.startswith("no other is on this machine, and the hub cannot be reached")


def test_a_model_of_the_cache_is_offered_with_what_is_known_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path
) -> None:
    folder = tmp_path / "hub/models--me--tiny/snapshots/0123"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tiny)
    monkeypatch.setattr(hub_access, "hub_answers", lambda: False)
    assert [choice.model.name for choice in model_choices(16 * GIB)] == ["me/tiny", "builtin:tiny-llama"]
    found = next(model for model in models_here(16 * GIB) if model.name == "me/tiny")
    assert (found.family, found.verified, found.fits) == ("llama", "Llama 2 and 3, SmolLM2", True)


def test_the_default_models_estimate_grows_with_the_width_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 2.5 GB in bfloat16 take 4.9 GB on a processor that is slow in it, beside activations and moments."""
    taken = {}
    for width in (2, 4):
        monkeypatch.setattr("rir_mlx.guide.models.bytes_of_a_weight", lambda width=width: width)
        taken[width] = default_model(16 * GIB, []).memory or 0
    assert taken[4] - taken[2] > 2_471_645_608, "activations are wider, too"
    assert taken[2] > 2_471_645_608 + 11e6 * 16


def test_own_reasonings_are_what_rgen_learns_from(tabled: Tabled) -> None:
    made = draft(tabled(why="these words say so"))
    assert (made.recipe().data.reasoning_column, made.recipe().reasoning.source) == ("why", None)
    assert made.reasons["reasoning.source"].startswith("126 training rows of yours")


def test_what_the_user_sets_stands(tabled: Tabled) -> None:
    made = draft(tabled(), 16 * GIB, "classifier.arms=[qa, qra]", "data.test_size=30")
    assert (made.recipe().classifier.arms, made.recipe().data.test_size) == (("qa", "qra"), 30)
    assert made.reasons["data.test_size"] == "You set it."


def test_few_rows_are_passed_over_more_often(tabled: Tabled) -> None:
    assert draft(tabled(20)).recipe().classifier.epochs == 10
    assert draft(tabled(1500)).recipe().classifier.epochs == 2


def test_a_small_pretrained_model_gets_the_settings_that_were_measured(tabled: Tabled) -> None:
    usual = default_model(16 * GIB, [])
    small, large = (ModelChoice(replace(usual, weights=count), "") for count in (268_000_000, 1_236_000_000))
    table = scan(look_at(tabled(20)))
    made, measured = draft_recipe(table, small).recipe(), load_recipe("emotion-small")
    for stage in ("rgen", "classifier"):
        for key in ("learning_rate", "batch_size", "grad_accumulation_steps"):
            assert getattr(getattr(made, stage), key) == getattr(getattr(measured, stage), key)
    assert draft_recipe(table, large).recipe().classifier.learning_rate == Recipe().classifier.learning_rate
    assert not ModelChoice(replace(usual, weights=0), "you named it").small  # nothing is known of it


def test_a_named_folder_is_looked_into(tiny: Path) -> None:
    [choice] = model_choices(16 * GIB, [f"model={tiny}"])
    assert choice.model.here
    assert choice.model.size == sum(path.stat().st_size for path in tiny.glob("*.safetensors"))
    assert choice.model.weights == pytest.approx(choice.model.size / 4, rel=0.01)  # they are stored in float32
    [unknown] = model_choices(16 * GIB, ["model=nobody/knows-it"])
    assert (unknown.model.size, unknown.model.here) == (0, False)


def test_a_quantised_model_is_held_as_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"vocab_size": 1000, "intermediate_size": 128}
    monkeypatch.setattr("rir_mlx.guide.models.bytes_of_a_weight", lambda: 4)
    plain, packed = (training_bytes(config | more, 100_000_000) for more in ({}, {"quantization": {"bits": 4}}))
    assert plain - packed == 100_000_000  # two bytes a weight are held as four, packed ones as they are


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"dtype": "bfloat16"}, 268_000_000),
        ({"torch_dtype": "float32"}, 134_000_000),
        ({"quantization": {"bits": 4, "group_size": 64}}, 1_072_000_000),
        ({"quantization_config": {"bits": 8}}, 536_000_000),
    ],
)
def test_weights_are_counted_whatever_they_are_stored_in(tmp_path: Path, more: dict[str, Any], expected: int) -> None:
    """A model of a billion weights in 4 bits is as small a file as one of 270 million in 16, and no small model."""
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 1000, "intermediate_size": 128} | more))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(536_000_000)  # no bytes of it are stored
    [choice] = model_choices(16 * GIB, [f"model={tmp_path}"])
    assert choice.model.weights == expected
    assert choice.small == (expected < 500_000_000)


def test_a_choice_is_tiny_if_it_is_the_embedded_model() -> None:
    model = default_model(16 * GIB, [])
    assert not ModelChoice(model, "").tiny
    assert ModelChoice(replace(model, name="builtin:tiny-llama"), "").tiny


def test_the_first_sentence_of_a_keys_help_ends_at_its_stop() -> None:
    assert first_sentence("Column of the text. Default: the usual one.") == "Column of the text."
    assert first_sentence("Whether marks enclose cells\nof CSV files (`true`).") == (
        "Whether marks enclose cells of CSV files (`true`)."
    )


def test_test_rows_are_neither_shown_nor_counted(tabled: Tabled) -> None:
    """Whoever describes a label from a test row has seen what the classifier is measured on."""
    path = tabled(why="these words say so")
    table = scan(look_at(path))
    made = draft_recipe(table, model_choices(16 * GIB)[0])
    parts = load_labelled(made.recipe().data, made.recipe().seed)
    train = {row.text for row in parts.train}
    shown = [text for texts in as_split(table).facts.examples.values() for text in texts]
    assert len(shown) == 9
    assert set(shown) <= train
    assert made.reasons["reasoning.source"].startswith(f"{len(train)} training rows of yours")
