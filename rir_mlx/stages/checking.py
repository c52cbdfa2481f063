"""The audit of a recipe's data: in full before anything else, or in a few lines as a training begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rir_mlx.backends.processes import is_main
from rir_mlx.data.audit.bad_rows import Sorted, sort_rows
from rir_mlx.data.audit.checks import audit
from rir_mlx.data.audit.findings import Audit, Finding, Material, Ruler
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.labels.combinations import combinations_of
from rir_mlx.data.loading import NO_TEST_ROWS, columns_of, draw_held_out, format_of, named_as_test
from rir_mlx.data.rows import Row, labels_of
from rir_mlx.data.tables.sources import place_of
from rir_mlx.data.tables.table import Wanted
from rir_mlx.errors import RirError, UserError
from rir_mlx.evaluation.cleaning import row_faults
from rir_mlx.models.adapters import MLX_WEIGHTS
from rir_mlx.models.hub import local_tokenizer
from rir_mlx.progress import Progress, Silent, counted
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import reasons_first
from rir_mlx.prompting.room import learning_room, rgen_room, rgen_text_room, text_room
from rir_mlx.recipe.schema import DataSection, Recipe
from rir_mlx.stages.context import Context, label_question
from rir_mlx.stages.reasoning_model import outdated_rgen
from rir_mlx.statistics.paired_tests import FEWEST_TO_TELL_APART, MIN_SEEDS, detectable_difference
from rir_mlx.storage.atomic import write_text
from rir_mlx.storage.digests import changes, digest_of_file
from rir_mlx.types import CONTROLS, Arm

_BATCH = 2000
_SHOWN = 4
_SILENT = Silent()


def check(recipe: Recipe, progress: Progress = _SILENT) -> Audit:
    """Audit every row of the recipe's data, including those that `max_samples` leaves out of a training.

    Fetches no model: if its tokenizer is not on this machine, the audit says that lengths were not counted, and why.
    Raises DataError if a file is missing or cannot be read at all."""
    material = scan_sources(recipe.data, recipe.seed)
    found_labels = {label for row in material.parts["train"] for label in material.labels_of(row)}
    labels = dict(recipe.data.labels) or dict.fromkeys(sorted(found_labels), "")
    if not labels:
        return audit(material)
    together = combinations_of(labels_of(material.parts["train"]), labels) if material.combined else ()
    used = material.used() | ({} if material.drawn is None else {"train": material.drawn})
    try:
        codec = Codec(local_tokenizer(recipe.model, recipe.revision), recipe.date)
        ruler = _ruler(codec, recipe.max_seq_length, _rooms(recipe, codec, (labels, together), used), progress)
    except RirError as error:
        found = replace(audit(material), unmeasured=str(error))
    else:
        found = audit(material, ruler)
    parts = dict(used)
    draw_held_out(parts, recipe.data, recipe.seed, [])
    notes = (*found.notes, *power_note(recipe, len(parts["test"]), compared_rows(parts)))
    findings = [*found.findings, *_test_part(recipe.data)]
    order = ("error", "warning", "note")
    return replace(found, notes=notes, findings=tuple(sorted(findings, key=lambda it: order.index(it.severity))))


def _test_part(section: DataSection) -> Iterator[Finding]:
    """A warning of a part that is a test part by its name, for which no reasonings are made."""
    if what := named_as_test(section):
        yield Finding("test part", "warning", 1, what, NO_TEST_ROWS)


def compared_rows(parts: Mapping[str, Sequence[Row]]) -> int:
    """How many of the test rows an evaluation will compare arms on: those that are clean."""
    test, seen = parts["test"], (row.text for part in ("train", "validation") for row in parts[part])
    return int(row_faults(seen, [row.text for row in test], [row.label for row in test]).clean.sum())


def power_note(recipe: Recipe, test_rows: int, compared: int) -> list[str]:
    """What a comparison on so many of the test rows with the recipe's seeds can show at all. Empty without any, or
    without arms to compare."""
    options = recipe.classifier
    arms, seeds = sum(arm != "qa" for arm in options.arms if arm not in CONTROLS), len(options.seeds)
    if not compared or not arms or "qa" not in options.arms:
        return []
    rows = counted(compared, "test row" if compared == test_rows else "clean test row")
    if compared < FEWEST_TO_TELL_APART:
        return [f"{rows} can hardly tell two classifiers apart (data.test, data.test_size)."]
    enough = seeds >= MIN_SEEDS
    points = min(100.0, 100 * detectable_difference(compared, seeds if enough else 1, compared=arms))
    told_apart = f"differ by {points:.{0 if points >= 2 else 1}f} points are told apart in 80 % of runs."
    if enough:
        return [f"With {rows} and {counted(seeds, 'seed')}, two ways of training that {told_apart}"]
    return [
        f"With {rows}, two classifiers that {told_apart} {counted(seeds, 'seed')} cannot show a difference "
        f"between ways of training: that takes {MIN_SEEDS} or more (classifier.seeds=[0, 1, 2])."
    ]


def sort_out(recipe: Recipe, checked: Audit, clean: Path, rejects: Path | None, *, force: bool = False) -> Sorted:
    """Write the rows of the recipe's file that can be used to `clean`, and the others, with what is wrong with each, to
    `rejects`. The file itself is not touched. What a call left that was killed between the two is completed.

    Raises UserError if the rows are not one file, or if a file to write exists and `force` is False."""
    section, source = recipe.data, place_of(recipe.data.train.path)
    if section.validation is not None or section.test is not None or not source.is_file():
        raise UserError("--write takes one file apart.", hint="Name it: rir-mlx check FILE --write clean.csv")
    for target in (clean, rejects):
        if target is None:
            continue
        if target.is_dir():
            raise UserError(f"{target} is a folder.", hint="Name a file.")
        if target.exists() and target.samefile(source):
            raise UserError(f"{target} is the file to take apart.", hint="Name another file.")
        if target.suffix.lower() != source.suffix.lower():
            raise UserError(f"{target} is named after another format than {source}.", hint="Give it the same ending.")
    if rejects is not None and (rejects.resolve() == clean.resolve() or _same(rejects, clean)):
        raise UserError("--write and --rejects name the same file.")
    faults = {row.number: row.what for finding in checked.findings for row in finding.refused}
    wanted = Wanted(columns_of(section, "train"), str(source), format_of(section))
    found = sort_rows(source, wanted, faults)
    texts = {clean: (found.clean, "strict")}
    if rejects is not None:
        texts[rejects] = (found.rejects, "surrogateescape")  # bytes that are no UTF-8, as they were read
    if not force:
        _refuse_to_replace({target: text.encode("utf-8", errors) for target, (text, errors) in texts.items()})
    for target, (text, errors) in texts.items():
        write_text(target, text, errors)
    return found


def _refuse_to_replace(files: Mapping[Path, bytes]) -> None:
    """Raise UserError if one of the files to write exists: with other bytes, or all of them do."""
    there = [target for target in files if target.exists()]
    others = [target for target in there if target.read_bytes() != files[target]]
    if others or len(there) == len(files):
        raise UserError(f"{[*others, *there][0]} exists.", hint="Name another file, or add --force to replace it.")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def warn_about_data(context: Context) -> None:
    """Tell the user, once a run, which of its rows would spoil a training or its metrics."""
    data = context.data
    if not is_main(context.processes) or data.warned:
        return
    data.warned = True
    compared = compared_rows({"train": data.train, "validation": data.validation, "test": data.test})
    for note in power_note(context.recipe, len(data.test), compared):
        context.progress.say(f"note: {note}")
    findings = audit_used_rows(context).of("error", "warning")
    for finding in findings[:_SHOWN]:
        context.progress.warn(finding.what)
    if set(context.recipe.classifier.arms) - {"qa"}:
        for outdated in outdated_reasonings(context):
            context.progress.warn(outdated)
    if findings:
        more = f"{len(findings) - _SHOWN:,} more findings; " if len(findings) > _SHOWN else ""
        context.progress.warn(f"{more}`rir-mlx check` shows the rows and what helps.")


def outdated_reasonings(context: Context) -> list[str]:
    """What the run's reasonings, and their R-Gen, were made with that is another now, in a sentence each."""
    recipe, done = context.recipe, context.run.augmented.done()
    if done is None:
        return []
    before: dict[str, Any] = {"prompt": "steps", "augment": {}, "writer": {}, **done["inputs"]}
    augment = {key: value for key, value in recipe.augment.model_dump(mode="json").items() if key in before["augment"]}
    now = {
        "instruction": recipe.data.instruction,
        "date": recipe.date,
        "seed": recipe.seed,
        "max_seq_length": recipe.max_seq_length,
        "prompt": recipe.reasoning.prompt,
        "augment": augment,
    }
    weights = context.run.rgen.adapter / MLX_WEIGHTS
    said = list[str]()
    if "adapter" in before["writer"] and weights.is_file() and recipe.augment.engine != "openai":
        files = context.model.files
        base = {"revision": files.revision or files.fingerprint}
        now["writer"] = before["writer"] | base | {"adapter": digest_of_file(weights)}
        said += filter(None, [outdated_rgen(context)])
    if not (found := changes({key: before.get(key) for key in now}, now)):
        return said
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        *said,
        f"The reasonings were written before this changed: {found[0]}{more}. "
        "`rir-mlx augment` writes them as the recipe says now.",
    ]


def audit_used_rows(context: Context) -> Audit:
    """Audit the rows that a training uses."""
    data, recipe = context.data, context.recipe
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    labelled = data.labelled
    rooms = _rooms(recipe, context.model.codec, (labelled.labels, labelled.combinations), parts)
    ruler = _ruler(context.model.codec, recipe.max_seq_length, rooms, context.progress)
    combined, divided = recipe.data.several, recipe.data.soft_labels
    named = tuple(recipe.data.labels)
    return audit(Material(parts, named, spellings=labelled.spellings, combined=combined, divided=divided), ruler)


def _ruler(codec: Codec, limit: int, rooms: tuple[dict[str, int], dict[str, int]], progress: Progress) -> Ruler:
    """Counts tokens with a codec; knows how much room a text has (`_rooms`)."""

    def count(texts: Sequence[str]) -> list[int]:
        lengths: list[int] = []
        with progress.task("Counting tokens", len(texts)) as task:
            for start in range(0, len(texts), _BATCH):
                lengths += codec.lengths(texts[start : start + _BATCH])
                task.advance(min(_BATCH, len(texts) - start))
        return lengths

    return Ruler(count, rooms[0], codec.control_words(), limit, rooms[1])


def _rooms(
    recipe: Recipe, codec: Codec, labels: tuple[Mapping[str, str], tuple[str, ...]], parts: Mapping[str, Sequence[Row]]
) -> tuple[dict[str, int], dict[str, int]]:
    """How much room a text has when it is classified and when R-Gen writes about it, and in a training beside all that
    is learned. The labels come with their combinations, if a text may have several."""
    (described, together), arms, limit = labels, recipe.classifier.arms, recipe.max_seq_length
    task = ClassificationTask(
        dict(described), recipe.data.instruction, limit, recipe.evaluate.max_reasoning_tokens, together
    )
    room = _least_room(codec, task, arms)
    if not (learning := {arm: learning_room(codec, task, arm) for arm in arms if arm != "qa"}):
        return room, {}
    if any(row.reasoning is None for part in ("train", "validation") for row in parts[part]):
        with suppress(UserError):  # fewer rows have a reasoning than R-Gen is to be shown: its training says so
            question = label_question(recipe, parts["train"], list(described), together)
            room["R-Gen"] = rgen_text_room(codec, question, task.names, rgen_room(limit, recipe.augment.max_tokens))
    least = min(learning, key=learning.__getitem__)
    return room, {least: learning[least]}


def _least_room(codec: Codec, task: ClassificationTask, arms: Sequence[Arm]) -> dict[str, int]:
    """Tokens that a text may take in a prediction, by arm: of those that answer at once, and of those that must keep
    room for a reasoning, the one that leaves the least."""
    room = {arm: text_room(codec, task, arm) for arm in arms}
    kinds = ([arm for arm in arms if reasons_first(arm) is first] for first in (False, True))
    return {str(arm): room[arm] for arm in (min(kind, key=room.__getitem__) for kind in kinds if kind)}
