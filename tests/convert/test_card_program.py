"""The program on a card answers what the classifier does, on transformers alone."""

from __future__ import annotations

import ast
import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from comparisons import EVIL
from processes import start_code
from rir_convert.cards.example import ProgramResult, judge_answer
from rir_convert.cards.program import example_code, example_prompt, printed_answer, run_example
from rir_convert.prompt_parts import MADE_UP, prompt_around

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Model
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import Failure
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import answer_format, classifier_prompt, writes_reasoning
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.types import Arm

TASK = ClassificationTask(
    {"joy": "gladness", "sadness": "", "anger": "being | cross"}, "Which label fits the text?", 320, 12
)
ARMS: tuple[Arm, ...] = ("qa", "qra", "qar", "qarqa", "multitask", "curriculum", "qra-scrambled")
NASTY = 'so <|eot_id|> "quoted" \\ and\nLabel: joy {{ 7 * 7 }} \U0001f642'
"""Control tokens, what ends a string, what separates a reasoning from its label, and a template's brackets."""


def printed(output: str) -> tuple[str | None, str, dict[str, float]]:
    output = re.sub(r"\AFirst label: \w+\n", "", output)
    found = re.fullmatch(r"(?:Reasoning: (.*?)\n)?Label: (\w+)\n((?:\d\.\d{4} \w+\n)+)", output, re.DOTALL)
    assert found, output
    pairs = [line.split() for line in found[3].splitlines()]
    return found[1], found[2], {name: float(probability) for probability, name in pairs}


@cache
def loaded(folder: Path) -> Model:
    return open_backend("torch").load(folder, dtype="float32")


def answered(
    folder: Path, arm: Arm, text: str, calibration: Calibration | None, task: ClassificationTask = TASK
) -> Prediction:
    pytest.importorskip("peft")
    [found] = Classifier(loaded(folder), Codec(folder, "26 Jul 2024"), task, arm, calibration).predict([text])
    return found


@pytest.mark.usefixtures("warm_examples")
@pytest.mark.parametrize(("arm", "text"), [("qa", MADE_UP), ("qra", MADE_UP), *((arm, NASTY) for arm in ARMS)])
def test_the_program_answers_what_the_classifier_does(tiny: Path, codec: Codec, arm: Arm, text: str) -> None:
    expected = answered(tiny, arm, text, None)
    code = example_code(arm, TASK, codec, text=text)
    output = run_example(tiny, code, 120)
    assert output is not None
    reasoning, label, probabilities = printed(output)
    assert label == expected.label
    assert list(probabilities) == TASK.names
    # Printed with four digits, computed in float32 in another order.
    assert probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert reasoning == (expected.reasoning if writes_reasoning(arm) else None)
    first = re.match(r"First label: (\w+)\n", output)
    assert (first and first[1]) == (expected.first and expected.first.label)
    assert printed_answer(output, TASK.names) == (reasoning, label)


@pytest.mark.usefixtures("warm_examples")
def test_its_probabilities_are_calibrated_by_the_temperature_of_its_way_of_reading(tiny: Path, codec: Codec) -> None:
    calibration = Calibration({"direct": 5.0, "reasoned": 0.4, "sampled": 9.0}, 500)
    expected, plain = (answered(tiny, "qra", MADE_UP, fitted) for fitted in (calibration, None))
    output = run_example(tiny, example_code("qra", TASK, codec, calibration=calibration), 120)
    assert output is not None
    assert printed(output)[2] == pytest.approx(expected.probabilities, abs=1e-4)
    assert expected.probability > plain.probability + 0.05


@pytest.mark.usefixtures("warm_examples")
def test_it_ends_a_reasoning_where_the_classifier_does(
    tiny: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random model never writes the delimiter, so one is chosen that it writes."""
    for letter in answered(tiny, "qra", MADE_UP, None).reasoning or "":
        for module in ("rir_convert.cards.program", "rir_mlx.classification.scoring"):
            monkeypatch.setattr(f"{module}.DELIMITER", letter)
        expected = answered(tiny, "qra", MADE_UP, None)
        if 0 < expected.tokens < TASK.max_reasoning_tokens:
            break
    assert 0 < expected.tokens < TASK.max_reasoning_tokens
    output = run_example(tiny, example_code("qra", TASK, codec), 120)
    assert output is not None
    reasoning, _, probabilities = printed(output)
    assert reasoning == expected.reasoning
    assert probabilities == pytest.approx(expected.probabilities, abs=1e-4)


@pytest.mark.usefixtures("warm_examples")
def test_it_is_greedy_and_quiet_whatever_the_base_generates_with(tiny: Path, tmp_path: Path, codec: Codec) -> None:
    """Llama's own settings draw, and transformers warns of a temperature that is not used."""
    shutil.copytree(tiny, tmp_path / "hot")
    path = tmp_path / "hot" / "generation_config.json"
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    code = example_code("qra", TASK, codec)
    hot = start_code(tmp_path / "hot", code)
    out, errors = hot.communicate(timeout=120)
    assert out == run_example(tiny, code, 120)
    assert "temperature" not in errors
    assert "Warning" not in errors


@pytest.mark.usefixtures("warm_examples")
def test_it_asks_a_model_without_a_chat_template_too(plain: Path, plain_codec: Codec) -> None:
    expected = answered(plain, "qra", MADE_UP, None)
    output = run_example(plain, example_code("qra", TASK, plain_codec), 120)
    assert output is not None
    assert printed(output)[2] == pytest.approx(expected.probabilities, abs=1e-4)


@pytest.mark.parametrize("arm", ARMS)
def test_the_parts_of_the_prompt_have_the_ids_that_training_saw(codec: Codec, plain_codec: Codec, arm: Arm) -> None:
    for any_codec in (codec, plain_codec):
        prompt = classifier_prompt(NASTY, TASK.labels, TASK.instruction, answer_format(arm))
        before, question, after = prompt_around(any_codec, prompt)
        encoded = any_codec.encode(prompt, 10_000)
        assert (
            any_codec.constant(before) + any_codec.given(question + "\0")[: len(any_codec.given(question))]
            == encoded.prefix
        )
        assert (*any_codec.given(NASTY), *any_codec.constant(after)) == encoded.row
        assert any_codec.decode(encoded.prefix + encoded.row) == example_prompt(arm, TASK, any_codec, NASTY)


@pytest.mark.parametrize("arm", ARMS)
def test_the_program_is_python_with_transformers_alone(codec: Codec, arm: Arm) -> None:
    task = replace(TASK, labels={label: label for label in EVIL}, instruction='"""\'{}\x7f\n```')
    tree = ast.parse(example_code(arm, task, codec, text=NASTY))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert sorted(filter(None, imported)) == ["torch", "transformers"]
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()
    }
    assert values["TEXT"] == NASTY
    assert values["LABELS"] == list(EVIL)
    assert task.instruction in values["QUESTION"]


def judged(printed: str, arm: Arm = "qa", reasoning: str | None = None, tie: float = 0.15) -> ProgramResult:
    expected = Prediction("joy", {"joy": 0.6, "anger": 0.3, "joyless": 0.1}, 1.0, reasoning)
    return judge_answer(printed, arm, expected, tie)


CHANCES = "0.6000 joy\n0.3000 anger\n0.1000 joyless\n"


def test_another_label_than_the_classifiers_is_a_fault() -> None:
    assert judged(f"Label: joy\n{CHANCES}") == ProgramResult("joy", "joy")
    other = judged(f"Label: joyless\n{CHANCES}")
    assert other.faults == ("it answers 'joyless', and the trained model 'joy'",)
    assert judged(f"Reasoning: x\nLabel: anger\n{CHANCES}", "qra", "x").faults
    for odd in ("", "Label: joy\n", f"Label: glad\n{CHANCES}", CHANCES):
        assert judged(odd).label is None
        assert "was to print a label" in judged(odd).faults[0]


def test_another_label_between_two_as_likely_or_after_another_reasoning_is_said_and_no_fault() -> None:
    tie = judged(f"Label: anger\n{CHANCES}", tie=0.31)
    assert (tie.faults, tie.note) == ((), "the trained model finds both as likely")
    assert tie.line == "The model card's program answers 'anger', not 'joy'; the trained model finds both as likely."
    rounded = judged(f"Reasoning: y\nLabel: joyless\n{CHANCES}", "qra", "x")
    assert (rounded.faults, rounded.same_reasoning) == ((), False)
    assert "'joyless', not 'joy'; its reasoning is another one" in rounded.line
    after = judged(f"Reasoning: y\nLabel: joyless\n{CHANCES}", "qar", "x")
    assert after.faults == ("it answers 'joyless', and the trained model 'joy'",), "the label came first"


def test_a_reasoning_that_spells_out_a_label_is_not_taken_for_one() -> None:
    found = judged(
        f"Reasoning: so\nLabel: anger\n{CHANCES}Label: joy\n{CHANCES}", "qra", f"so\nLabel: anger\n{CHANCES}".strip()
    )
    assert found == ProgramResult("joy", "joy", True)


def test_a_program_that_fails_or_does_not_end_is_a_failure(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(Failure, match=r"exit code 1:[\s\S]*ZeroDivisionError"):
        run_example(tmp_path, "1 / 0", 60)
    with pytest.raises(Failure, match=r"more than 0\.5 seconds"):
        run_example(tmp_path, "import time\ntime.sleep(60)", 0.5)


def test_it_runs_in_the_folder_offline_and_imports_nothing_that_lies_there(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "json.py").write_text("raise SystemExit('code of a model folder was run')", encoding="utf-8")
    code = "import json, os\nprint(os.getcwd(), os.environ['HF_HUB_OFFLINE'])"
    assert run_example(tmp_path, code, 60) == f"{tmp_path.resolve()} 1\n"


def test_without_pytorch_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rir_convert.cards.program.find_spec", lambda name: None if name == "torch" else object())
    assert run_example(tmp_path, "1 / 0", 60) is None
