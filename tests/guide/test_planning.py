"""How long a whole run takes is said before its first stage."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import Finished, Run

from rir_mlx.augmentation.across.information import GROUP
from rir_mlx.backends.fake import FakeModel
from rir_mlx.errors import Failure, UserError
from rir_mlx.guide.draft import Draft
from rir_mlx.guide.planning import Sizes, StageTime, _Timing, fit_into, plan, plan_text, rough_seconds, seconds_of
from rir_mlx.progress import Pace
from rir_mlx.stages import OpenOptions, open_run


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(recipe: Path, *overrides: str) -> object:
    return open_run(str(recipe), OpenOptions(overrides=overrides, offline=True))


def test_the_total_names_every_stage_and_what_depends_on_a_server() -> None:
    stages = [StageTime("R-Gen", 100.0), StageTime("augmentation", None), StageTime("classifier qa", 500.0)]
    text = plan_text(stages, "a laptop")
    assert text.startswith("About 10 min for 3 stages on a laptop: R-Gen 2 min, classifier qa 8 min.")
    assert text.endswith("Beside that, augmentation: that depends on the server.")


def test_what_is_left_is_said_at_the_pace_of_the_finished_stages() -> None:
    """A run that was to take 3 minutes took 5 beside other work, and said nothing of it."""
    pace = Pace({"R-Gen": 10.0, "classifier qa": 20.0, "evaluation": 30.0})
    assert pace.left(["classifier qa"]) is None
    pace.took("augmentation", 500.0)
    assert pace.left(["classifier qa"]) is None, "a server's time says nothing about this machine"
    pace.took("R-Gen", 20.0)
    assert pace.left(["classifier qa", "evaluation"]) == 100.0
    pace.took("classifier qa", 10.0)
    assert pace.left(["evaluation"]) == 30.0


def test_every_stage_of_a_new_run_has_a_time(recipe: Path) -> None:
    context = opened(recipe)
    found = plan(context)  # type: ignore[arg-type]
    names = ["R-Gen", "augmentation", "classifier qa", "classifier qra", "classifier qar", "evaluation"]
    assert [stage.name for stage in found] == names
    assert all(stage.seconds is not None and stage.seconds > 0 for stage in found)
    kept = context.model._kept  # type: ignore[attr-defined]
    assert kept is not None
    assert context.model.load() is kept, "the first stage does not load it again"  # type: ignore[attr-defined]
    assert context.model.load() is not kept  # type: ignore[attr-defined]


def test_a_training_that_was_stopped_is_counted_by_the_steps_that_are_left(recipe: Path) -> None:
    """A classifier that resumed at step 400 of 430 was said to take seven minutes, and what followed a tenth of its
    time: the seconds were put down to a fast machine."""
    context = opened(recipe)
    timing = _Timing(context, context.model.load())  # type: ignore[arg-type, attr-defined]
    timing._counts["qa"] = 40
    stage = context.trained("qa", context.recipe.classifier.seeds[0])  # type: ignore[attr-defined]
    assert timing._arm_left("qa") == 1
    (stage.checkpoints / "step-00000030").mkdir(parents=True)
    assert timing._arm_left("qa") == 0.25
    stage.finish({})
    assert timing._arm_left("qa") == 0


def test_more_passes_take_more_time_and_more_seeds_too(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()
    monkeypatch.setattr("rir_mlx.training.cost.time.perf_counter", lambda: float(next(now)))  # a second each

    def classifier(*overrides: str) -> float:
        [stage] = [stage for stage in plan(opened(recipe, *overrides)) if stage.name == "classifier qa"]  # type: ignore[arg-type]
        assert stage.seconds is not None
        return stage.seconds

    once, often = classifier("classifier.epochs=1"), classifier("classifier.epochs=200", "classifier.seeds=[0, 1]")
    assert often == pytest.approx(400 * once, rel=0.1)


def test_what_reads_reasonings_takes_time_beside_writing_them(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot's estimate did not count measuring the mutual information of 120 reasonings with four texts each, nor a
    run's its filter, nor choosing among several reasonings."""
    now = itertools.count()
    monkeypatch.setattr("rir_mlx.training.cost.time.perf_counter", lambda: float(next(now)))  # a second each

    def augmentation(*overrides: str, informed: int = 0) -> float:
        context = replace(opened(recipe, *overrides), informed_rows=informed)  # type: ignore[type-var]
        [stage] = [stage for stage in plan(context) if stage.name == "augmentation"]  # type: ignore[arg-type]
        assert stage.seconds is not None
        return stage.seconds

    plain, rows = augmentation(), 45 + 6
    assert augmentation(informed=20) == pytest.approx(plain + 20 / GROUP)
    assert augmentation(informed=120) == pytest.approx(plain + rows / GROUP), "there are not so many"
    assert augmentation("augment.filters=[uninformative]", informed=20) == pytest.approx(plain + rows / GROUP)
    several = ("augment.n=2", "augment.temperature=1")
    first = augmentation(*several, "augment.choose=first")
    assert augmentation(*several, "augment.choose=likeliest") > first


def test_a_server_writes_in_its_own_time(recipe: Path) -> None:
    server = ("augment.engine=openai", "augment.base_url=http://127.0.0.1:9/v1")
    found = {stage.name: stage.seconds for stage in plan(opened(recipe, *server))}  # type: ignore[arg-type]
    assert found["augmentation"] is None
    assert "R-Gen" not in found


def test_a_run_says_its_total_once_and_a_finished_one_says_nothing(
    rir: Run, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = finished.result.err.splitlines()
    [total] = [number for number, line in enumerate(lines) if line.startswith("About ") and "6 stages" in line]
    assert total < lines.index("Stage 1 of 6: R-Gen")
    again = rir("run", "small.yaml")
    assert again.code == 0
    assert "About " not in again.err

    def stopped(*_: Any, **__: Any) -> None:
        raise Failure("It is said before the first step.")

    monkeypatch.setattr(FakeModel, "train_step", stopped)
    assert " for 6 stages on " in rir("run", "small.yaml", "--force").err


def test_a_fault_that_a_stage_finds_is_left_to_it(rir: Run, recipe: Path) -> None:
    result = rir("run", str(recipe), "-s", "max_seq_length=40")
    assert result.code == 2
    assert "About " not in result.err


@pytest.mark.parametrize("rows", ["text,label\na,b\n", "text,label\n,b\n"])
def test_faults_of_the_rows_come_before_a_model_is_loaded(rir: Run, recipe: Path, rows: str) -> None:
    Path("rows.csv").write_text(rows, encoding="utf-8")
    assert rir("run", str(recipe)).code == 2


LARGE = Sizes(train=4000, validation=500, test=1000, own=0, weights=1.24e9)


def test_a_recipe_is_made_smaller_until_it_fits_into_the_time_and_what_the_user_set_stays() -> None:
    def fitted(limit: float, *fixed: str) -> tuple[Draft, str]:
        draft = Draft()
        draft.set("classifier.arms", ["qa", "qra", "qar"])
        draft.set("classifier.epochs", 3)
        return draft, fit_into(draft, LARGE, limit, fixed, cores=2)

    whole, said = fitted(1e9)
    assert whole.values == {"classifier.arms": ["qa", "qra", "qar"], "classifier.epochs": 3}
    needed = rough_seconds(whole.recipe(), LARGE, 2)
    assert said.startswith("about ")
    assert "2 here; a GPU takes less" in said
    for share in (0.9, 0.5, 0.3):
        draft, said = fitted(share * needed)
        assert rough_seconds(draft.recipe(), LARGE, 2) <= share * needed
        assert draft.reasons["classifier.arms"].startswith("Reduced, so that all fits into")
        assert "`run` measures it" in said
    assert fitted(0.9 * needed, "classifier.arms")[0].values["classifier.arms"] == ["qa", "qra", "qar"]
    smallest, said = fitted(60)
    assert (smallest.values["data.max_samples"], smallest.values["reasoning.max_samples"]) == (500, 500)
    assert "more than 60 s" in said


def test_a_time_is_minutes_hours_or_days() -> None:
    assert [seconds_of(text) for text in ("30m", "90 min", "1.5h", "2d")] == [1800, 5400, 5400, 172800]
    for text in ("soon", "30", "0h", ""):
        with pytest.raises(UserError, match="is no time"):
            seconds_of(text)
