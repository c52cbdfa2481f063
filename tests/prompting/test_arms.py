"""What each arm of the classifier learns, from the tokens of a row to the weights that are kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Backend, Tokens
from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.loading import RecipeModel
from rir_mlx.errors import UserError
from rir_mlx.progress import Silent
from rir_mlx.prompting.arms import ClassificationTask, training_examples
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.prompting.prompts import (
    answer_format,
    classifier_prompt,
    reasons_first,
    rgen_row_prompt,
)
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.stages import augment_rows, train_classifier, train_rgen
from rir_mlx.stages.context import Context
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.training import loop
from rir_mlx.training.checkpoints import Checkpoints
from rir_mlx.training.job import TrainingJob, TrainingOutcome
from rir_mlx.types import CONTROLS, Arm

LABELS = {"joy": "feels good", "sadness": "", "anger": ""}
TASK = ClassificationTask(LABELS, "Which label fits the text?", 320, 16)
ARMS: tuple[Arm, ...] = get_args(Arm)
ROW = ("i feel happy today", "joy", "because my friend came home")
LONG = "because " * 300
"""A reasoning that fits beside no text."""


def learned(
    codec: Codec, arm: Arm, *rows: tuple[str, str, str | None], task: ClassificationTask = TASK
) -> TrainingExamples:
    return training_examples(codec, task, rows, arm)


def classifier_of(codec: Codec, arm: Arm) -> Classifier:
    return Classifier(FakeModel(400), codec, TASK, arm)


# the tokens


def test_each_arm_learns_just_the_tokens_of_its_completion(codec: Codec) -> None:
    between = codec.constant("\nReasoning:")
    delimiter, end = codec.constant("\nLabel:"), codec.terminator
    label, own, after = codec.given(" joy"), codec.given(ROW[2]), codec.given(f" {ROW[2]}")
    first = (*own, *delimiter, *label, end)
    expected: dict[Arm, Tokens] = {"qa": (*label, end), "qar": (*label, *between, *after, end), "qra": first}
    expected |= dict.fromkeys(CONTROLS, first)
    for arm, tokens in expected.items():
        (example,) = learned(codec, arm, ROW).rows
        assert example.learned == tokens, arm
    both = learned(codec, "multitask", ROW)
    assert both.second is not None
    assert [one.rows[0].learned for one in (both, both.second)] == [(*label, end), (*own, end)]


@pytest.mark.parametrize("arm", ARMS)
def test_a_row_is_learned_behind_the_prompt_that_it_is_asked_by(codec: Codec, arm: Arm) -> None:
    examples = learned(codec, arm, ROW)
    whole = codec.decode(examples.prefix + examples.rows[0].prompt)
    prompt = classifier_prompt(ROW[0], LABELS, TASK.instruction, answer_format(arm))
    assert prompt.message in whole
    assert whole.endswith("Label:") == (not reasons_first(arm))
    if examples.second is not None:
        whole = codec.decode(examples.second.prefix + examples.second.rows[0].prompt)
        assert classifier_prompt(ROW[0], LABELS, TASK.instruction, "reasoning").message in whole
        assert not whole.endswith("Label:")


@pytest.mark.parametrize("arm", ARMS)
def test_what_scoring_scores_is_what_training_learned_there(codec: Codec, arm: Arm) -> None:
    """Else the label's probability would be that of tokens which the model was never taught."""
    reader = classifier_of(codec, arm)
    (example,) = learned(codec, arm, ROW).rows
    start = len(example.reasoning) if reasons_first(arm) else 0
    option = reader.options[reader.task.names.index("joy")]
    assert example.learned[start : start + len(option)] == option == example.answer
    if reasons_first(arm):
        assert example.reasoning[-len(reader.delimiter) :] == reader.delimiter


def test_an_arm_without_a_reasoning_for_a_row_still_learns_its_label(codec: Codec) -> None:
    rows = [ROW, ("i was sad", "sadness", None), ("now i am angry", "anger", "")]
    alone = codec.given(" sadness")
    for arm in ("qa", "multitask"):
        examples = learned(codec, arm, *rows)
        assert [len(one.reasoning) for one in examples.rows] == [0, 0, 0]
        assert examples.rows[1].learned == (*alone, codec.terminator)
    both = learned(codec, "multitask", *rows)
    assert both.second is not None
    assert [bool(one.learned) for one in both.second.rows] == [True, False, False]
    first = learned(codec, "qar", *rows)
    assert first.rows[1].learned == (*alone, codec.constant("\nReasoning:")[0])
    assert [bool(one.reasoning) for one in first.rows] == [True, False, False]


@pytest.mark.parametrize("arm", ["qra", *CONTROLS])
def test_an_arm_that_reasons_first_leaves_out_rows_without_a_reasoning(codec: Codec, arm: Arm) -> None:
    examples = learned(codec, arm, ("i was sad", "sadness", None), ROW)
    assert len(examples.rows) == 1
    assert examples.rows[0].learned == learned(codec, arm, ROW).rows[0].learned


def test_a_row_that_fits_one_of_two_tasks_is_left_out_of_both_and_counted(codec: Codec) -> None:
    other = ("i was sad", "sadness", "now it rained")
    both = learned(codec, "multitask", ROW, (ROW[0], "joy", LONG), other)
    assert both.second is not None
    assert (len(both.rows), len(both.second.rows), both.dropped) == (2, 2, 1)
    assert both.origins == both.second.origins == (0, 2)
    assert both.second.rows[1].reasoning == (*codec.given(other[2]), codec.terminator)
    assert both.rows[1].answer == (*codec.given(" sadness"), codec.terminator)
    assert len(learned(codec, "qa", ROW, (ROW[0], "joy", LONG), other).rows) == 3


def test_rows_are_taken_of_both_tasks_alike(codec: Codec) -> None:
    """The second task stayed whole, and its rows stood beside those of other texts."""
    rows = [(f"text {number}", "joy", f"reason {number}") for number in range(4)]
    both = learned(codec, "multitask", *rows)
    some = both.at([3, 1])
    assert some.second is not None
    assert some.origins == some.second.origins == (3, 1)
    assert some.second.rows == learned(codec, "multitask", rows[3], rows[1]).second.rows  # type: ignore[union-attr]


# the stage


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


COUNTS = {"joy": 16, "sadness": 10, "anger": 6}


def rows_of_the_run() -> Iterator[tuple[str, str, str]]:
    """Text, label and reasoning. Every fourth reasoning only restates the label, which a filter rejects."""
    for label, count in COUNTS.items():
        for number in range(count):
            told = f"{number} friends came home on day {number}"
            yield f"{label[0]} text {number}", label, label if number % 4 == 3 else f"it says that {told}"


@pytest.fixture
def folder(tmp_path: Path, tiny: Path) -> Path:
    return make_recipe(tmp_path, tiny)


def make_recipe(tmp_path: Path, tiny: Path) -> Path:
    """A recipe whose rows have reasonings of their own, so that augmentation needs no model."""
    lines = [",".join(row) + "\n" for row in rows_of_the_run()]
    (tmp_path / "rows.csv").write_text("text,label,why\n" + "".join(lines), encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        f"model: {tiny}\nbackend: fake\nmax_seq_length: 320\n"
        f"data: {{train: {tmp_path / 'rows.csv'}, val_size: 6, test_size: 3, reasoning_column: why}}\n"
        "reasoning: {source: null}\nrgen: {iters: 1}\nclassifier: {iters: 1, learning_rate: 1e-2}\n"
        "evaluate: {max_reasoning_tokens: 8}\n",
        encoding="utf-8",
    )
    return tmp_path


def context_of(folder: Path, codec: Codec, *changes: str) -> Context:
    recipe = load_recipe(folder / "own.yaml", changes)
    model = RecipeModel(recipe, open_backend("fake"))
    model.codec = codec
    return Context(RunDir(folder / "run"), model, Heard())


def heard(context: Context) -> Heard:
    assert isinstance(context.progress, Heard)
    return context.progress


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """The jobs that a stage hands to the training loop."""
    found: list[TrainingJob] = []
    real = loop.train

    def spy(model: Any, job: TrainingJob, *rest: Any, **more: Any) -> TrainingOutcome:
        found.append(job)
        return real(model, job, *rest, **more)

    monkeypatch.setattr("rir_mlx.stages.training.run_training", spy)
    return found


def reasonings_of(codec: Codec, examples: TrainingExamples) -> list[str]:
    size = len(codec.constant("\nLabel:"))
    return [codec.decode(row.reasoning[:-size]) for row in examples.rows]


def test_arms_are_matched_by_steps_though_they_learn_of_different_rows(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    context = context_of(folder, codec, "classifier.iters=null", "classifier.epochs=1.5", "classifier.batch_size=4")
    augment_rows(context)
    for arm in ARMS:
        train_classifier(context, arm)
    sizes = dict(zip(ARMS, (len(job.train.rows) for job in jobs), strict=True))
    whole = len(context.data.train)
    assert {sizes[arm] for arm in ("qa", "qar", "multitask")} == {whole}
    assert {sizes[arm] for arm in ("qra", *CONTROLS)} == {len(list(context.run.augmented_rows("train").open()))}
    assert sizes["qra"] < 0.9 * whole
    assert len({job.steps for job in jobs}) == 1
    done = [context.trained(arm, 0).done() for arm in ARMS]
    assert {one["results"]["steps"] for one in done if one} == {jobs[0].steps}
    assert jobs[0].steps == round(1.5 * -(-whole // 8))


def test_a_control_learns_other_reasonings_and_the_same_labels(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    context = context_of(folder, codec)
    augment_rows(context)
    for arm in ("qra", *CONTROLS):
        train_classifier(context, arm)
    for part in ("train", "validation"):
        own, scrambled, words = (reasonings_of(codec, getattr(job, part)) for job in jobs)
        assert Counter(scrambled) == Counter(own)
        assert all(a != b for a, b in zip(scrambled, own, strict=True))
        assert [sorted(one.split()) for one in words] == [sorted(one.split()) for one in own]
        assert all(a != b for a, b in zip(words, own, strict=True))
        plain, *others = ([(row.prompt, row.answer) for row in getattr(job, part).rows] for job in jobs)
        assert others == [plain, plain]


def test_a_row_learns_the_reasoning_that_was_kept_for_it(folder: Path, codec: Codec, jobs: list[TrainingJob]) -> None:
    """Where the one before it has none, the rest must not move up."""
    context = context_of(folder, codec)
    augment_rows(context)
    train_classifier(context, "qar")
    kept = {text: (label, reasoning) for text, label, reasoning in rows_of_the_run()}
    for row, example in zip(context.data.train, jobs[0].train.rows, strict=True):
        label, reasoning = kept[row.text]
        own = "" if reasoning == label else f"Reasoning: {reasoning}"
        assert codec.decode(example.learned).replace("<|eot_id|>", "").strip() == f"{label}\n{own}".strip()


def test_multitask_weighs_its_tasks_by_alpha(folder: Path, codec: Codec, jobs: list[TrainingJob]) -> None:
    context = context_of(folder, codec, "classifier.multitask_alpha=0.3", "classifier.reasoning_weight=0.9")
    augment_rows(context)
    train_classifier(context, "multitask")
    (job,) = jobs
    labels, reasonings = job.batches(job.train, [range(len(job.train.rows))])
    assert float(labels.weights.sum()) == pytest.approx(0.3, rel=1e-5)
    assert float(reasonings.weights.sum()) == pytest.approx(0.7, rel=1e-5)
    assert len(reasonings.tokens) < len(labels.tokens)


def test_balanced_labels_weigh_alike_in_all(folder: Path, codec: Codec, jobs: list[TrainingJob]) -> None:
    """rows / (labels · rows of the label), as scikit-learn has it, of all training rows."""
    from sklearn.utils.class_weight import compute_class_weight

    context = context_of(folder, codec, "classifier.class_weight=balanced")
    augment_rows(context)
    labels = [row.label for row in context.data.train]
    names = sorted(set(labels))
    weights = dict(zip(names, compute_class_weight("balanced", classes=np.array(names), y=labels), strict=True))
    assert len(set(weights.values())) == 3
    for arm in ("qa", "qra", "multitask"):
        train_classifier(context, arm)
    for job in jobs:
        for examples in (job.train, job.validation):
            for row in examples.rows:
                label = next(name for name in names if row.answer[:-1] == codec.given(f" {name}"))
                assert row.weight == pytest.approx(weights[label])
    rows = list(zip(labels, jobs[0].train.rows, strict=True))
    for name in names:
        assert sum(row.weight for label, row in rows if label == name) == pytest.approx(len(labels) / 3)


def test_labels_that_are_not_weighted_all_count_one(folder: Path, codec: Codec, jobs: list[TrainingJob]) -> None:
    context = context_of(folder, codec)
    train_classifier(context, "qa")
    assert {row.weight for row in jobs[0].train.rows} == {1.0}


def test_each_seed_has_a_folder_and_initial_weights_but_the_same_rows(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    context = context_of(folder, codec, "classifier.seeds=[5,0,17]")
    augment_rows(context)
    for arm in ("qa", "qra"):
        train_classifier(context, arm)
    run = context.run
    assert sorted(path.name for path in run.folder.glob("classifier-*")) == [
        *("classifier-qa", "classifier-qa-seed0", "classifier-qa-seed17"),
        *("classifier-qra", "classifier-qra-seed0", "classifier-qra-seed17"),
    ]
    assert run.trained_arms() == ["qa", "qra"]
    assert [job.seed for job in jobs] == [5, 0, 17] * 2
    assert jobs[0].train == jobs[1].train == jobs[2].train
    assert jobs[0].validation == jobs[2].validation
    weights = {(context.trained("qa", seed).adapter / "adapters.safetensors").read_bytes() for seed in (5, 0, 17)}
    assert len(weights) == 3
    about = [context.trained("qra", seed).done() for seed in (5, 0, 17)]
    assert [one["inputs"]["seed"] for one in about if one] == [5, 0, 17]


WHICH: dict[str, set[str]] = {
    "classifier.multitask_alpha=0.25": {"multitask"},
    "classifier.reasoning_weight=0.75": {"qra", "qar", "qra-scrambled", "qra-words"},
    "classifier.class_weight=balanced": set(ARMS),
    "classifier.seeds=[3]": set(ARMS),
    "classifier.seeds=[0,3]": {f"{arm}-seed3" for arm in ARMS},
    "classifier.arms=[qa]": set(),
    "classifier.save_every=7": set(),
    "evaluate.samples=3": set(),
    "evaluate.max_reasoning_tokens=4": {"qra", "qra-scrambled", "qra-words"},
    "rgen.learning_rate=0.5": set(),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Path, codec: Codec) -> Path:
    """A run in which every arm is trained."""
    folder = make_recipe(tmp_path_factory.mktemp("trained"), tiny)
    context = context_of(folder, codec)
    augment_rows(context)
    for arm in ARMS:
        train_classifier(context, arm)
    return folder


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be trained again. It is not, so that a run serves many tests."""
    found: list[str] = []

    def instead(context: Context, stage: Stage, inputs: Any, job: TrainingJob, about: dict[str, Any]) -> None:
        found.append(stage.folder.name.removeprefix("classifier-"))

    monkeypatch.setattr("rir_mlx.stages.training._train", instead)
    return found


@pytest.mark.parametrize("change", WHICH)
def test_a_changed_key_trains_again_just_the_arms_that_it_touches(
    trained: Path, codec: Codec, begun: list[str], change: str
) -> None:
    context = context_of(trained, codec, change)
    for arm in ARMS:
        train_classifier(context, arm)
    assert set(begun) == WHICH[change]


def test_a_control_is_trained_again_where_its_reasonings_are_shuffled_otherwise(folder: Path, codec: Codec) -> None:
    """The recipe's seed shuffles them, and was no longer among what decides the weights once arms had seeds of their
    own: where it drew no rows, a control kept what it had learned from another order."""
    rows = (folder / "rows.csv").read_text().splitlines(keepends=True)
    for part in ("validation", "test"):
        (folder / f"{part}.csv").write_text("".join([rows[0], *rows[1::8]]))
    files = [f"data.{part}={folder / part}.csv" for part in ("validation", "test")] + [
        "data.val_size=99",
        "data.test_size=99",
    ]
    context = context_of(folder, codec, *files)
    augment_rows(context)
    train_classifier(context, "qra-words")
    train_classifier(context, "qra")
    again = context_of(folder, codec, *files, "seed=1")
    assert again.data.digest == context.data.digest
    augment_rows(again)
    train_classifier(again, "qra-words")
    train_classifier(again, "qra")
    said = [line for line in heard(again).said if line.startswith("classifier")]
    assert any(line.startswith("classifier qra-words: runs") for line in said)
    assert any(line.startswith("classifier qra: already done") for line in said)


def test_a_changed_validation_reasoning_trains_again(folder: Path, codec: Codec) -> None:
    """The loss on it decides between weights that are right equally often."""
    context = context_of(folder, codec)
    augment_rows(context)
    train_classifier(context, "qar")
    path = context.run.augmented_rows("validation")
    path.write_text(path.read_text().replace("it says that", "it tells us that"))
    again = context_of(folder, codec)
    train_classifier(again, "qar")
    assert any("classifier qar: runs" in line for line in heard(again).said)


def test_an_arm_is_measured_on_rows_of_all_labels_while_it_trains(
    folder: Path, codec: Codec, jobs: list[TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows stand in the order of their file, often by label: of the first so many, two labels in seventy may be all."""
    monkeypatch.setattr("rir_mlx.stages.training._MEASURED", 8)
    rows = [f"text {n} {label},{label},because of the {n} friends\n" for label in LABELS for n in range(12)]
    (folder / "validation.csv").write_text("text,label,why\n" + "".join(rows))
    context = context_of(folder, codec, f"data.validation={folder / 'validation.csv'}", "data.val_size=500")
    augment_rows(context)
    train_classifier(context, "qra")
    accuracy, asked = jobs[0].accuracy, []
    assert accuracy is not None

    class Asked(FakeModel):
        def generate(self, requests: Any, *rest: Any, **more: Any) -> Any:
            requests = list(requests)
            asked.extend(codec.decode(one.tokens) for one in requests)
            return super().generate(requests, *rest, **more)

    accuracy(Asked(400))
    found = Counter(label for text in asked for label in LABELS if f" {label}<" in text)
    assert set(found) == set(LABELS)
    assert sum(found.values()) == 8
    assert max(found.values()) <= 3


@pytest.mark.parametrize("arm", ["qra", "qar", "multitask"])
def test_a_reasoning_that_leaves_a_text_no_room_is_refused_before_training(
    folder: Path, codec: Codec, jobs: list[TrainingJob], arm: Arm
) -> None:
    """It came up at the first measurement, after a hundred steps."""
    context = context_of(folder, codec, "evaluate.max_reasoning_tokens=300")
    augment_rows(context)
    with pytest.raises(UserError) as refused:
        train_classifier(context, arm)
    assert "max_seq_length" in refused.value.hint
    assert jobs == []
    assert not context.trained(arm, 0).checkpoints.exists()


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "qa"])
def test_without_a_single_reasoning_an_arm_that_learns_from_them_is_refused(
    folder: Path, codec: Codec, arm: Arm
) -> None:
    """`qar` and `multitask` would be trained on labels alone, and be measured as if they had reasoned."""
    table = "".join(f"{text},{label},{label}\n" for text, label, _ in rows_of_the_run())
    (folder / "rows.csv").write_text("text,label,why\n" + table)
    context = context_of(folder, codec)
    augment_rows(context)
    with pytest.raises(UserError, match="No reasoning of this run passed the filters"):
        train_classifier(context, arm)


# R-Gen on reasonings of one's own


def test_rgen_learns_from_own_reasonings_behind_the_prompt_that_it_will_get(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    context = context_of(folder, codec)
    train_rgen(context)
    (job,) = jobs
    labels, instruction = list(context.data.labels), context.recipe.data.instruction
    for part, examples in (("train", job.train), ("validation", job.validation)):
        rows = getattr(context.data, part)
        assert len(examples.rows) == len(rows) > 0
        for row, example in zip(rows, examples.rows, strict=True):
            prompt = codec.encode(rgen_row_prompt(row.text, row.label, labels, instruction), 256)
            assert examples.prefix + example.prompt == prompt.prefix + prompt.row
            assert example.learned == (*codec.given(row.reasoning), codec.terminator)


def test_triples_and_own_reasonings_are_learned_together_and_named_rightly(
    folder: Path, codec: Codec, jobs: list[TrainingJob]
) -> None:
    triples = [{"question": f"how is {n}?", "answer": "so", "reasoning": f"because {n}"} for n in range(7)]
    (folder / "triples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in triples))
    source = f"reasoning.source={folder / 'triples.jsonl'}"
    context = context_of(folder, codec, source, "reasoning.val_size=2")
    train_rgen(context)
    (job,) = jobs
    assert len(job.train.rows) == 5 + len(context.data.train)
    assert len(job.validation.rows) == 2 + len(context.data.validation)
    for origin, row in zip(job.train.origins, job.train.rows, strict=True):
        assert job.texts[origin] in codec.decode(job.train.prefix + row.prompt)


def test_rgen_without_anything_to_learn_from_is_refused(folder: Path, codec: Codec) -> None:
    context = context_of(folder, codec, "data.reasoning_column=null")
    with pytest.raises(UserError, match="nothing to learn from") as refused:
        train_rgen(context)
    assert "reasoning.source" in refused.value.hint
    assert "data.reasoning_column" in refused.value.hint


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_changed_reasoning_of_ones_own_trains_rgen_again(folder: Path, codec: Codec, part: str) -> None:
    context = context_of(folder, codec)
    train_rgen(context)
    text = getattr(context.data, part)[0].text
    lines = (folder / "rows.csv").read_text().splitlines()
    changed = [line + " and more" if line.startswith(f"{text},") else line for line in lines]
    (folder / "rows.csv").write_text("\n".join(changed) + "\n")
    assert changed != lines
    again = context_of(folder, codec)
    train_rgen(again)
    assert any(line.startswith("R-Gen: runs") for line in heard(again).said)
    once_more = context_of(folder, codec)
    train_rgen(once_more)
    assert any(line.startswith("R-Gen: already done") for line in heard(once_more).said)


# stopped, and gone on with


class Killed(BaseException):
    pass


@pytest.mark.parametrize("arm", ["qar", "multitask"])
def test_an_arm_that_is_killed_ends_with_the_same_bytes(
    folder: Path, codec: Codec, framework: Backend, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, weighted labels, and measurements in between that write and score."""
    section = "{iters: 8, batch_size: 3, learning_rate: 1e-3, steps_per_eval: 2, save_every: 3, class_weight: balanced}"
    more = [f"classifier={section}", "lora_parameters={rank: 2, dropout: 0.2}", "dtype=float32"]

    def go(name: str, kill_at: int | None = None) -> dict[str, Any]:
        context = replace(context_of(folder, codec, *more), run=RunDir(folder / name))
        context.model.backend = framework
        augment_rows(context)
        if kill_at is not None:
            real, steps = loop.learning_rate_at, []

            def killing(*given: Any) -> float:
                steps.append(given)
                if len(steps) == kill_at:
                    raise Killed
                return real(*given)

            with monkeypatch.context() as patched:
                patched.setattr(loop, "learning_rate_at", killing)
                with pytest.raises(Killed):
                    train_classifier(context, arm)
            return {}
        train_classifier(context, arm)
        stage = context.trained(arm, 0)
        results = (stage.done() or {})["results"]
        files = {path.name: path.read_bytes() for path in stage.adapter.glob("*.safetensors")}
        return files | {key: value for key, value in results.items() if key != "seconds"}

    whole = go("whole")
    go("killed", kill_at=5)
    assert Checkpoints(folder / "killed" / f"classifier-{arm}" / "checkpoints", {}).step() >= 2
    assert go("killed") == whole
    assert whole["steps"] == 8
    assert whole["validation_accuracy"] is not None
