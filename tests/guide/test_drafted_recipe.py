"""A drafted recipe: what the user has set decides the rest, and its text is read back as it was drafted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import LABELS, WORDS

from rir_mlx import hub_access
from rir_mlx.errors import RecipeError
from rir_mlx.guide.draft import Draft
from rir_mlx.guide.drafting import draft_recipe, widen
from rir_mlx.guide.first_recipe import look_at, model_choices, scan
from rir_mlx.recipe.loading import load_recipe

GIB = 2**30


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, and nothing in its cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub_access, "hub_answers", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def table(folder: Path, count: int = 40, more: str = "") -> Path:
    path = folder / "rows.jsonl"
    rows = [{"text": f"{WORDS[label]} {n}{more}", "label": label} for n in range(count) for label in LABELS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def drafted(path: Path, *overrides: str) -> Draft:
    look = look_at(path, overrides)
    return draft_recipe(scan(look), model_choices(16 * GIB, overrides)[0])


def test_a_named_model_gets_its_own_settings_and_not_those_of_the_embedded_one(tmp_path: Path) -> None:
    made = drafted(table(tmp_path), "model=meta-llama/Llama-3.2-3B-Instruct").recipe()
    assert (made.model, made.fine_tune_type) == ("meta-llama/Llama-3.2-3B-Instruct", "lora")
    assert (made.dtype, made.rgen.learning_rate) == (load_recipe().dtype, load_recipe().rgen.learning_rate)
    assert model_choices(16 * GIB, ["model=builtin:tiny-llama"])[0].tiny
    assert drafted(table(tmp_path), "model=builtin:tiny-llama").recipe().fine_tune_type == "full"


def test_steps_are_counted_from_what_the_user_sets(tmp_path: Path) -> None:
    path = table(tmp_path, 400)
    made = drafted(path, "classifier.batch_size=4", "data.max_samples=100")
    assert made.recipe().classifier.epochs == 12
    assert made.reasons["classifier.epochs"].startswith("300 steps for 100 rows")
    for key in ("classifier.epochs=3", "classifier.iters=50"):
        assert "steps for" not in drafted(path, key).text([])
    assert drafted(path, "classifier.iters=50").recipe().classifier.epochs is None


def test_steps_are_counted_on_the_split_that_the_recipe_has(tmp_path: Path) -> None:
    """1,000 rows keep 700 for training, whatever part of them the default sizes would set aside."""
    made = drafted(table(tmp_path, 2000))
    assert (made.recipe().data.val_size, made.recipe().data.test_size, made.recipe().data.max_samples) == (
        500,
        1200,
        4000,
    )
    assert "for 4,000 rows" in made.reasons["classifier.epochs"]
    assert "for 1,050 rows" in drafted(table(tmp_path, 500)).reasons["classifier.epochs"]


@pytest.mark.parametrize("letter", ["\x92", "\x07", "\u2028", "\u2029", "\x85", "\x00", "\ufffe", "😀", "é"])
def test_a_recipe_loads_whatever_letters_the_sample_texts_have(tmp_path: Path, letter: str) -> None:
    made = Draft()
    made.set("name", "a")
    made.set("data.train", "a.csv", f"as {letter} said")
    made.set("data.labels", {"joy": f"x{letter}y", "tears": ""}, "described")
    made.notes["data.labels"] = {"joy": [f"it{letter}s"]}
    text = made.checked_text([f"of {letter}.csv"])
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(tmp_path / "a.yaml") == made.recipe()
    assert (f"#   it{letter}s" in text) is letter.isprintable()


def test_a_key_within_a_source_joins_what_was_chosen(tmp_path: Path) -> None:
    made = drafted(table(tmp_path), "reasoning.source.path=a.jsonl", "data.labels.joy=things went well")
    recipe = made.recipe()
    assert recipe.reasoning.source is not None
    assert recipe.reasoning.source.path == "a.jsonl"
    assert recipe.data.labels == {"anger": "", "joy": "things went well", "sadness": ""}
    assert made.checked_text([])
    with pytest.raises(RecipeError, match=r"rgen\.epochs"):
        drafted(table(tmp_path), "rgen.epochs=x")


def test_room_for_the_longest_texts_is_claimed_only_if_there_is_room() -> None:
    from types import SimpleNamespace

    for p99, reason in ((900.0, "Room for 99 %"), (9000.0, "As long as `init` sets it")):
        made = Draft()
        made.set("max_seq_length", 512)
        lengths = SimpleNamespace(p99=p99, room={"qa": 400})
        audit = SimpleNamespace(of=lambda _: [SimpleNamespace(name="trimmed texts (qa)")], lengths=lengths)
        widen(made, audit)  # type: ignore[arg-type]
        assert made.reasons["max_seq_length"].startswith(reason)


def test_a_recipe_of_many_labels_gets_the_room_that_they_take() -> None:
    """With 72 long labels `init` wrote a recipe of 256 tokens, which no training takes."""
    from types import SimpleNamespace

    for needed, wanted in ((1216, 1216), (4096, 256)):
        made = Draft()
        made.set("max_seq_length", 256)
        none = SimpleNamespace(name="no room for a text", metrics={"room": -700, "needed": needed})
        audit = SimpleNamespace(of=lambda severity, none=none: [none] * (severity == "error"), lengths=None)
        assert widen(made, audit) is (wanted > 256)  # type: ignore[arg-type]
        assert made.recipe().max_seq_length == wanted


def test_a_max_seq_length_that_the_user_set_stays(tmp_path: Path) -> None:
    """`init -s max_seq_length=300` wrote the length that the texts need, without a word of the other."""
    from types import SimpleNamespace

    made = drafted(table(tmp_path), "max_seq_length=300")
    none = SimpleNamespace(name="no room for a text", metrics={"room": -700, "needed": 1216})
    audit = SimpleNamespace(of=lambda severity: [none] * (severity == "error"), lengths=None)
    assert not widen(made, audit)  # type: ignore[arg-type]
    assert made.recipe().max_seq_length == 300
