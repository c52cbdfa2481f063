"""The recipe's promises: strict keys, helpful errors, defaults that are a shipped file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rir_mlx.errors import RecipeError
from rir_mlx.recipe.loading import (
    dump_recipe,
    dump_yaml,
    load_recipe,
    parse_yaml,
    shipped_recipe,
)
from rir_mlx.recipe.schema import Recipe
from rir_mlx.types import SHIPPED


def test_the_defaults_are_the_emotion_recipe() -> None:
    assert load_recipe("emotion") == Recipe()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_valid_and_named_after_its_file(name: str) -> None:
    assert load_recipe(name).name == name
    assert load_recipe(shipped_recipe(name)) == load_recipe(name)


def test_a_dumped_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["rgen.learning_rate=1e-5", "data.labels={joy: glad, fear: ''}"])
    path = tmp_path / "demo.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert list(recipe.data.labels) == ["joy", "fear"]


def test_scientific_notation_without_a_point_is_a_number() -> None:
    """PyYAML reads `1e-5` as a string."""
    assert load_recipe(None, ["rgen.learning_rate=1e-5"]).rgen.learning_rate == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("augment.gates=[]", "'augment.gates' is now called 'augment.filters'."),
        ("rgen.learnig_rate=1", "'rgen.learnig_rate'. Did you mean 'learning_rate'?"),
        ("data.trian=x.csv", "'data.trian'. Did you mean 'train'?"),
        ("data.train.confg=x", "'data.train.confg'. Did you mean 'config'?"),
        ("classifier.arm=[qa]", "'classifier.arm'. Did you mean 'arms'?"),
        (
            "classifier.arms=[qq]",
            "classifier.arms.0: input should be 'qa', 'qra', 'qar', 'qarqa', 'multitask', 'curriculum', "
            "'qra-scrambled' or 'qra-words'",
        ),
        ("classifier.curriculum=[0.7, 0.2]", "curriculum begins before it ends, not at [0.7, 0.2]"),
        ("rgen.learning_rate=fast", "rgen.learning_rate: input should be a valid number"),
        ("seed=-1", "seed: input should be greater than or equal to 0, not -1"),
        ("rgen={epochs: 1, iters: 3}", "rgen: give epochs or iters, not both"),
        ("name=../elsewhere", "name: string should match pattern"),
        ("justakey", "not of the form section.key=value"),
        ("seed=[", "not a YAML value"),
        ('data.labels={"joy": "a", "joy": "b"}', "is not a YAML value: the key 'joy' comes twice."),
    ],
)
def test_an_unusable_key_is_named_with_its_mend(override: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, [override])
    assert words in str(caught.value)


def test_all_faults_of_a_recipe_are_reported_together() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, ["seed=-1", "rgen.epoch=2"])
    assert "seed" in str(caught.value)
    assert "rgen.epoch" in str(caught.value)


def test_ones_own_rows_never_inherit_the_default_test_set() -> None:
    """Otherwise a recipe that names train alone would be measured on the default data set's test rows."""
    recipe = load_recipe(None, ["data={train: mine.csv}"])
    assert recipe.data.validation is None
    assert recipe.data.test is None
    assert "emotion" not in recipe.data.instruction


def test_one_key_of_a_default_source_can_be_set_alone() -> None:
    source = load_recipe(None, ["data.train.revision=abc"]).data.train
    assert (source.path, source.config, source.revision) == ("dair-ai/emotion", "split", "abc")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1\n- 2\n", "must hold keys and values"),
        (b"name: \xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_broken_recipe_file_is_one_clear_error(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


def test_an_unknown_recipe_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'emotion'"):
        load_recipe("emotoin")
    with pytest.raises(RecipeError, match=r"no recipe file nowhere/x\.yaml"):
        load_recipe("nowhere/x.yaml")


def test_every_key_has_its_help() -> None:
    def helpless(model: type, at: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            kind = field.annotation
            if isinstance(kind, type) and hasattr(kind, "model_fields"):
                found += helpless(kind, f"{at}{name}.")
            elif not field.description:
                found.append(at + name)
        return found

    assert helpless(Recipe, "") == []


def test_labels_may_be_numbers_and_need_no_description() -> None:
    assert load_recipe(None, ["data.labels={0: sad, 1: }"]).data.labels == {"0": "sad", "1": ""}


def test_a_description_set_for_a_listed_label_keeps_the_other_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: {train: rows.csv, labels: [joy, anger]}\n")
    assert load_recipe(path, ["data.labels.joy=happy"]).data.labels == {"joy": "happy", "anger": ""}


@pytest.mark.parametrize("key", ["classifier.arms.qa", "seed.x", "data.instruction.x"])
def test_a_value_is_not_replaced_by_a_key_below_it(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\nclassifier: {arms: [qa]}\ndata: {train: rows.csv, instruction: Which}\n")
    with pytest.raises(RecipeError, match="which has no keys"):
        load_recipe(path, [f"{key}=1"])


def test_labels_that_are_listed_with_descriptions_are_refused_with_the_mend() -> None:
    with pytest.raises(RecipeError, match="write a mapping"):
        load_recipe(None, ["data.labels=[joy: glad, fear: afraid]"])


def test_truth_values_as_labels_are_refused_with_the_mend() -> None:
    with pytest.raises(RecipeError, match="put such labels in quotes"):
        load_recipe(None, ["data.labels=[yes, no]"])


def test_other_training_rows_replace_a_recipes_test_rows_too() -> None:
    recipe = load_recipe("emotion", ["data.train=mine.csv", "data.validation=more.csv"])
    assert recipe.data.test is None
    assert recipe.data.validation is not None
    assert recipe.data.validation.path == "more.csv"
    assert load_recipe("demo", ["data.train=mine.csv"]).data.test is None


def test_a_test_file_of_ones_own_stays_with_other_training_rows(tmp_path: Path) -> None:
    """Cleaned training rows (`check --write`) silently cost a recipe its test file, and 2,000 training rows instead."""
    path = tmp_path / "mine.yaml"
    path.write_text("data: {train: rows.csv, test: {path: test.csv}, validation: {path: rows.csv}}\n")
    data = load_recipe(path, ["data.train=clean.csv"]).data
    assert data.test is not None
    assert data.test.path == "test.csv"
    assert data.validation is None


def test_a_key_that_comes_twice_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1\nrgen:\n  epochs: 1\n  epochs: 2\n")
    with pytest.raises(RecipeError, match=r"a\.yaml, line 4: not valid YAML: the key 'epochs' comes twice"):
        load_recipe(path)
    path.write_text("data: {train: a.csv, labels: {1: one, 1.0: uno}}\n")
    with pytest.raises(RecipeError, match=r"the key '1\.0' comes twice"):
        load_recipe(path)
    path.write_text("rgen: &training\n  epochs: 1\nclassifier:\n  <<: *training\n  epochs: 3\n")
    assert load_recipe(path).classifier.epochs == 3


@pytest.mark.parametrize("key", ["rgen.learning_rate", "rgen.epochs", "data.val_size", "augment.temperature"])
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_a_number_that_is_not_finite_is_refused(key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: "):
        load_recipe(None, [f"{key}={value}"])


def test_a_recipe_file_whose_name_has_blanks_names_its_run_without_them(tmp_path: Path) -> None:
    path = tmp_path / "my recipe (2).yaml"
    path.write_text("seed: 1\n")
    assert load_recipe(path).name == "my-recipe-2"


@pytest.mark.parametrize(
    ("given", "mark"), [("|", "|"), (",", ","), (";", ";"), ("tab", "\t"), ("\\t", "\t"), ("#", "#")]
)
def test_a_delimiter_can_be_set_as_it_is_or_by_name(given: str, mark: str) -> None:
    assert load_recipe(None, [f"data.delimiter={given}"]).data.delimiter == mark


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.delimiter=ab", "must be one character"),
        ("reasoning.delimiter=ab", "must be one character"),
        ("data.encoding=utf-9", "must be the name of a text encoding"),
    ],
)
def test_a_format_that_there_is_not_is_refused(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(None, [override])


@pytest.mark.parametrize("override", ["seed=true", "rgen.epochs=yes", "classifier.seeds=[0, on]"])
def test_a_truth_value_is_no_number(override: str) -> None:
    """pydantic took `true` for 1."""
    with pytest.raises(RecipeError, match="should be a number"):
        load_recipe(None, [override])


def test_labels_that_look_like_numbers_of_yaml_stay_as_they_are_written() -> None:
    """`12:30` was 750, in base 60, and `010` was 8."""
    assert list(load_recipe(None, ["data.labels=[12:30, 010, 007.5.1, 1.5]"]).data.labels) == [
        *("12:30", "010", "007.5.1", "1.5"),
    ]
    faults = {"[joy, joy]": "'joy' comes twice", "[joy, null]": "no name", "{joy: a, ' joy': b}": "twice"}
    faults |= {"[1.0, 1, 2]": "two of these are one number", "!!omap [a: x, b: y]": "names alone"}
    for value, words in faults.items():
        with pytest.raises(RecipeError, match=words):
            load_recipe(None, [f"data.labels={value}"])


def test_a_recipe_nested_without_end_is_one_error(tmp_path: Path) -> None:
    """It was a RecursionError; and one of aliases of aliases an error of 24 MB."""
    lines = [f"x{number}: &x{number} [{', '.join([f'*x{number - 1}'] * 9)}]" for number in range(1, 7)]
    (tmp_path / "a.yaml").write_text("\n".join(["x0: &x0 [a]", *lines, "data: {labels: *x6}"]))
    with pytest.raises(RecipeError, match="names alone") as raised:
        load_recipe(tmp_path / "a.yaml")
    assert len(str(raised.value)) < 4000
    (tmp_path / "a.yaml").write_text("a: " + "[" * 3000 + "]" * 3000)
    with pytest.raises(RecipeError, match="nested too deeply"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "override", ["data.val_size=1.5", "data.test_size=20.1", "seed=99999999999999999999", "rgen.iters=1e30"]
)
def test_a_number_that_would_be_cut_or_overflow_is_refused(override: str) -> None:
    with pytest.raises(RecipeError, match="should be"):
        load_recipe(None, [override])


@pytest.mark.parametrize(
    "text",
    ["1.5e3", "1.0e5", "12:30", "007", "0o17", "1e3", "yes", ".5", "1_000", "0x1F", "null", "a\x85b", "a\u2028b"],
)
def test_a_text_that_looks_like_a_number_is_dumped_as_a_text(text: str) -> None:
    assert parse_yaml(dump_yaml({text: [text]})) == {text: [text]}
    recipe = Recipe.model_validate({"data": {"train": "a.csv", "instruction": text, "labels": {text: text, "b": ""}}})
    assert Recipe.model_validate(parse_yaml(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("number", [7, -0.5, 1e-05, 1e20, 2e-4, 1500.0, float("inf"), True, None])
def test_a_number_is_dumped_as_a_number(number: float | None) -> None:
    assert parse_yaml(dump_yaml([number])) == [number]
