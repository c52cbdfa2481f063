"""The card says what the model is, and holds no row of its data."""

from __future__ import annotations

import ast
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from comparisons import EVIL, a_comparison
from huggingface_hub import ModelCard, ModelCardData
from rir_convert.cards.card import CardExample, CardFacts, CardForm, DataSource, base_licence, model_card
from rir_convert.cards.program import example_code
from rir_convert.cards.public import public_command, public_name, public_recipe
from rir_convert.verification.comparison import EngineComparison

from rir_mlx.evaluation.schema import Comparison
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.statistics.calibration import Calibration

TASK = ClassificationTask(
    {"joy": "gladness", "sadness": "", "anger": "being | cross"}, "Which label fits the text?", 320, 12
)


NASTY = 'so <|eot_id|> "quoted" \\ and\nLabel: joy {{ 7 * 7 }} \U0001f642'
"""Control tokens, what ends a string, what separates a reasoning from its label, and a template's brackets."""


def compared(
    forward: str | None,
    positions: int = 0,
    mean: float | None = None,
    same: float | None = None,
    labels: float | None = None,
    not_compared: str | None = None,
) -> dict[str, Any]:
    """An engine's entry of verification.json."""
    found = EngineComparison(
        "x",
        positions=positions,
        mean_difference=mean,
        same_choice=same,
        label_agreement=labels,
        forward=forward,
        not_compared=not_compared,
    )
    return asdict(found)


VERIFICATION = {
    "passed": True,
    "engines": {
        "transformers": compared("AutoModelForCausalLM's own forward pass", 1043, 2.1e-6, 1.0, 1.0),
        "mlx-lm": compared("mlx-lm's own model(tokens)", 1043, None, 0.9981, None),
    },
}


def facts_of(**more: Any) -> CardFacts:
    facts = CardFacts(
        name="emotion-qar",
        base="org/Base-1B",
        base_revision="8d3f0c5a",
        base_licence="llama3.2",
        sources=(
            DataSource("train", "dair-ai/emotion", "cab853a1", "other"),
            DataSource("test", "mine/rows.csv", "9f86d081"),
        ),
        arm="qar",
        task=TASK,
        calibration=Calibration({"direct": 1.3125, "reasoned": 1.0, "sampled": 1.0}, 500),
        recipe="name: emotion\n",
        example=CardExample("<|begin|>Which?", "print(1)\n", "Label: joy\n0.5000 joy\n"),
        verification=VERIFICATION,
        comparison=Comparison.model_validate(a_comparison(("joy", "sadness", "anger"))),
        command="rir-mlx export emotion --to hf",
        versions={"rir-mlx": "0.1.0", "python": "3.11.7"},
    )
    return replace(facts, **more)


def test_the_hub_reads_the_cards_metadata() -> None:
    card = ModelCard(model_card(facts_of()))
    assert isinstance(card.data, ModelCardData)
    assert card.data.to_dict() == {
        "license": "llama3.2",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "org/Base-1B",
        "base_model_relation": "finetune",
        "datasets": ["dair-ai/emotion"],
        "tags": ["text-classification", "reasoning", "rir-mlx", "qar"],
    }
    assert card.text.lstrip().startswith("# emotion-qar")


@pytest.mark.parametrize(
    ("licence", "expected", "said"),
    [
        ("apache-2.0", {"license": "apache-2.0"}, "base model: apache-2.0."),
        (
            "Qwen RESEARCH: v1",
            {"license": "other", "license_name": "qwen-research-v1"},
            "base model: Qwen RESEARCH: v1.",
        ),
        (None, {"license": "unknown"}, "base model: not stated; see the base model's page."),
    ],
)
def test_a_licence_is_one_that_the_hub_knows_or_other_with_its_name(
    licence: str | None, expected: dict[str, str], said: str
) -> None:
    card = ModelCard(model_card(facts_of(base_licence=licence)))
    found = card.data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected
    assert said in card.text


@pytest.mark.parametrize("base", ["builtin:tiny-llama", "/home/me/model", "model"])
def test_a_base_that_is_no_model_of_the_hub_is_not_named_as_one(base: str) -> None:
    card = ModelCard(model_card(facts_of(base=base)))
    assert "base_model" not in card.data.to_dict()
    assert base in card.text


def test_the_program_on_the_card_is_the_one_that_was_run(codec: Codec) -> None:
    code = example_code("qra", replace(TASK, instruction="````\n```"), codec, text=NASTY)
    facts = facts_of(example=CardExample("`````\nprompt", code, "Label: joy\n"))
    card = model_card(facts)
    found = re.search(r"^(`{3,})python\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)
    assert found
    assert found[2] == code
    assert "printed:\n\n```text\nLabel: joy\n```" in card
    assert "``````text\n`````\nprompt\n``````" in card
    unrun = model_card(replace(facts, example=replace(facts.example, output=None)))
    assert "was not executed" in unrun
    assert "printed:" not in unrun


@pytest.mark.parametrize(
    ("form", "library", "relation", "says"),
    [
        ("mlx", "mlx", "finetune", "```python\nprint(1)\n```\n"),
        (
            "mlx-quantised",
            "mlx",
            "quantized",
            'import generate, load\n\nmodel, tokenizer = load(".")',
        ),
        ("gguf", None, "quantized", "```sh\nollama create emotion-qar -f Modelfile\nollama run"),
        (
            "adapter",
            "peft",
            "adapter",
            'revision="8d3f0c5a")\nmodel = PeftModel.from_pretrained(base, ".")\n```\n',
        ),
    ],
)
def test_every_form_says_what_opens_it(form: CardForm, library: str | None, relation: str, says: str) -> None:
    facts = facts_of(form=form)
    if form != "mlx":
        facts = replace(facts, example=CardExample("<|begin|>Which?"))
    card = ModelCard(model_card(facts))
    assert card.data.to_dict().get("library_name") == library
    assert card.data.to_dict()["base_model_relation"] == relation
    assert says in card.text
    assert "<|begin|>Which?" in card.text
    assert ("This program was" in card.text) is (form == "mlx")
    assert not re.search(r"```\n(?!\n)", re.sub(r"```\w+\n.*?(?=```\n)", "", card.text, flags=re.DOTALL))
    for block in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize("base", ["builtin:tiny-llama", "~/models/x"])
def test_an_adapter_names_its_base_as_code_only_where_the_hub_has_it(base: str) -> None:
    card = model_card(facts_of(form="adapter", base=base, example=CardExample("x")))
    assert 'from_pretrained("BASE")' in card
    assert 'load("BASE", adapter_path=".")' in card
    assert "`BASE` is the folder" in card
    card = model_card(facts_of(form="adapter", example=CardExample("x")))
    assert 'load("org/Base-1B", adapter_path=".", revision="8d3f0c5a")' in card
    assert "`BASE` is" not in card


def test_a_file_of_which_only_the_tensors_were_read_says_so() -> None:
    engines = {"gguf tensors": compared(None, mean=2.1e-4)}
    card = model_card(facts_of(form="gguf", example=CardExample("x"), verification={"engines": engines}))
    assert "its tensors were read back, and differ by 0.00021 of their size" in card
    assert "| read by |" not in card


def test_each_engine_is_called_what_it_ran_and_one_that_could_not_is_named() -> None:
    engines = VERIFICATION["engines"] | {
        "mlx-lm": compared(None, not_compared="mlx-lm has no code for models of this type")
    }
    card = model_card(facts_of(verification={"engines": engines}))
    assert "| AutoModelForCausalLM's own forward pass | 1,043 |" in card
    assert "| mlx-lm" not in card
    assert "\nNot compared with mlx-lm: mlx-lm has no code for models of this type.\n" in card


def test_metrics_stand_with_their_intervals_beside_label_only_and_baselines() -> None:
    card = model_card(facts_of())
    assert "| | qar: label, then reasoning | qa: label only | majority:" in card
    assert "| accuracy | 92.5\u00a0% (91.5 to 93.5) | 91.0\u00a0% (90.0 to 92.0) | 35.0\u00a0% (34.0 to 36.0) |" in card
    assert "| log-loss (less is better) | 0.100 (0.090 to 0.110) |" in card
    assert (
        "**Reasoning helped: qar is 1.5 points better than qa.** Reasoning raised accuracy by 1.5 points. Use qar."
        in card
    )
    assert "Measured on 2,000 test rows, over 3 trainings" in card
    assert "- 66 test rows are near copies." in card
    assert "rows are few" not in card
    few = a_comparison()
    few["rows"]["test"] = 600
    assert "600 test rows are few" in model_card(facts_of(comparison=Comparison.model_validate(few)))


def test_unknown_facts_are_named() -> None:
    card = model_card(facts_of(comparison=None, calibration=Calibration()))
    assert "It has not been evaluated" in card
    assert "No temperature was fitted" in card
    assert "Reasoning helped" not in card
    unmeasured = a_comparison()
    unmeasured["entries"] = [entry for entry in unmeasured["entries"] if entry["name"] != "qar"]
    assert "It has not been evaluated" in model_card(facts_of(comparison=Comparison.model_validate(unmeasured)))


def test_verification_calibration_and_sources_stand_on_the_card() -> None:
    card = model_card(facts_of())
    assert "| AutoModelForCausalLM's own forward pass | 1,043 | 2.1e-06 | 100.0\u00a0% | 100.0\u00a0% |" in card
    assert "| mlx-lm's own model(tokens) | 1,043 | – | 99.8\u00a0% | – |" in card
    assert "a temperature of 1.31 that was fitted on 500 validation rows" in card
    assert "| train | dair-ai/emotion | cab853a1 | other |" in card
    assert "| test | mine/rows.csv | 9f86d081 | not stated; see the source |" in card
    assert "```yaml\nname: emotion\n```" in card
    assert "It neither proves the label" in card
    assert "not a proof" not in model_card(facts_of(arm="qa"))
    assert "trained as a control, not to be used" in model_card(facts_of(arm="qra-words"))


def test_texts_of_a_user_break_neither_tables_nor_the_page() -> None:
    labels = {name: name for name in (*EVIL, "a|b", "two\nlines", "[x](javascript:1)")}
    facts = facts_of(task=replace(TASK, labels=labels, instruction="<b>`which`</b>\n---\nlicense: mit"))
    text = ModelCard(model_card(facts)).text
    assert "<script" not in text.replace("\\<script", "")
    lines = text.splitlines()
    table = lines[lines.index("| label | what it means |") :][2 : 2 + len(labels)]
    for line in table:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert "\\[x\\](javascript:1)" in text
    assert "question: \\<b\\>\\`which\\`\\</b\\> --- license: mit" in text


def test_the_home_folder_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    card = model_card(facts_of(command="rir-mlx export --output /home/jane/out", recipe="model: /home/jane/base\n"))
    assert "jane" not in card
    assert "--output ~/out" in card


def test_a_name_that_begins_like_the_home_folder_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    card = model_card(facts_of(command="rir-mlx export --output /rootfs/out /root"))
    assert "/rootfs/out ~" in card


def test_no_folder_of_the_machine_is_published() -> None:
    recipe = Recipe.model_validate(
        {
            "model": "/mnt/secret place/base",
            "data": {"train": {"path": "/mnt/secret/rows.csv"}, "labels": {"joy": "/up/high"}},
            "augment": {"engine": "openai", "base_url": "http://secret.example/v1"},
        }
    )
    text = public_recipe(recipe)
    assert "secret" not in text
    assert ("model: base\n" in text, "path: rows.csv" in text, "joy: /up/high" in text) == (True, True, True)
    command = (
        "rir-mlx export '/mnt/secret place/my recipe.yaml' -s data.train=/mnt/secret/rows.csv --output=~/secret/out"
    )
    expected = "rir-mlx export 'my recipe.yaml' -s data.train=rows.csv --output=out"
    assert public_command(command) == expected
    assert [public_name(name) for name in ("me/model", "C:\\secret\\base", "./here/base")] == [
        "me/model",
        "base",
        "./here/base",
    ]


@pytest.mark.parametrize(
    ("readme", "licence", "expected"),
    [
        ("---\nlicense: llama3.2\n---\n# x\n", None, "llama3.2"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", None, "qwen-research"),
        ("---\nlicense: other\n---\n", None, "other"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None, "mit, apache-2.0"),
        ("---\r\nlicense: mit\r\n---\r\n", None, "mit"),
        ("---\ntags: [a]\n---\n", "\n  Apache License  \nVersion 2.0\n", "Apache License"),
        ("# license: mit\n", "MIT License\n", "MIT License"),
        ("---\nlicense: [\n---\n", None, None),
        ("---\n- mit\n---\n", None, None),
        (None, "", None),
        (None, None, None),
    ],
)
def test_the_bases_licence_is_its_cards_else_its_files_else_unknown(
    tmp_path: Path, readme: str | None, licence: str | None, expected: str | None
) -> None:
    for name, text in (("README.md", readme), ("LICENSE.txt", licence)):
        if text is not None:
            (tmp_path / name).write_bytes(text.encode())
    assert base_licence(tmp_path) == expected


def test_metadata_is_yaml_whatever_the_licence_says() -> None:
    card = model_card(facts_of(base_licence="META: \"LLAMA\" 3 # 'x'\n---\n"))
    values = yaml.safe_load(card.split("---\n")[1])
    assert values["license"] == "other"
    assert values["license_name"] == "meta-llama-3-x"
    assert np.unique(values["tags"]).size == len(values["tags"])
