"""Training the arms: which rows each learns from, how they are weighted, and when one is trained again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm_runs import ARMS, context_of, heard, make_recipe, rows_of_the_run

from rir_mlx.backends.base import Backend
from rir_mlx.backends.fake import FakeModel
from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.stages import augment_rows, train_classifier
from rir_mlx.stages.context import Context
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.training import loop
from rir_mlx.training.checkpoints import Checkpoints
from rir_mlx.training.job import TrainingJob
from rir_mlx.types import CONTROLS, Arm

LABELS = {"joy": "feels good", "sadness": "", "anger": ""}


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
    assert {sizes[arm] for arm in ("qa", "qar", "qarqa", "multitask", "curriculum")} == {whole}
    assert {sizes[arm] for arm in ("qra", *CONTROLS)} == {len(list(context.run.augmented_rows("train").open()))}
    assert sizes["qra"] < 0.9 * whole
    assert len({job.steps for job in jobs}) == 1
    done = [context.trained(arm, 0).done() for arm in ARMS]
    assert {record["results"]["steps"] for record in done if record} == {jobs[0].steps}
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
        assert [sorted(reasoning.split()) for reasoning in words] == [sorted(reasoning.split()) for reasoning in own]
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
    assert [record["inputs"]["seed"] for record in about if record] == [5, 0, 17]


WHICH: dict[str, set[str]] = {
    "classifier.multitask_alpha=0.25": {"multitask"},
    "classifier.reasoning_weight=0.75": {"qra", "qar", "qarqa", "curriculum", "qra-scrambled", "qra-words"},
    "classifier.curriculum=[0.1, 0.7]": {"curriculum"},
    "classifier.wrong_first=0.25": {"qarqa"},
    "classifier.class_weight=balanced": set(ARMS),
    "classifier.seeds=[3]": set(ARMS),
    "classifier.seeds=[0,3]": {f"{arm}-seed3" for arm in ARMS},
    "classifier.arms=[qa]": set(),
    "classifier.save_every=7": set(),
    "evaluate.samples=3": set(),
    "evaluate.max_reasoning_tokens=4": {"qra", "qarqa", "qra-scrambled", "qra-words"},
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
            asked.extend(codec.decode(request.tokens) for request in requests)
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


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("backend_name", "arm"), [(name, arm) for name in ("torch", "mlx") for arm in ("multitask", "curriculum")]
)
def test_an_arm_that_is_killed_ends_with_the_same_bytes(
    folder: Path, codec: Codec, open_named: Any, backend_name: str, arm: Arm
) -> None:
    """With dropout, weighted labels, and measurements in between that write and score."""
    framework: Backend = open_named(backend_name)
    section = "{iters: 6, batch_size: 3, learning_rate: 1e-3, steps_per_eval: 2, save_every: 3, class_weight: balanced}"
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

            with pytest.MonkeyPatch.context() as patched:
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
    assert whole["steps"] == 6
    assert whole["validation_accuracy"] is not None
