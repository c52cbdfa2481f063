from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import write_csv

from rir_mlx.backends import open_backend
from rir_mlx.data.audit.checks import RARE, audit
from rir_mlx.data.audit.findings import Audit, Finding, Material, Refused, Ruler
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.loading import load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.errors import DataError
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.room import text_room
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import DataSection
from rir_mlx.stages import Context, check, warn_about_data
from rir_mlx.stages.checking import audit_used_rows
from rir_mlx.storage.layout import RunDir
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import Arm

SHARED = Path(__file__).parents[3] / "shared" / "data"


def rows(*pairs: tuple[str, str], file: str = "a.csv") -> list[Row]:
    return [Row(text, label, None, file, number) for number, (text, label) in enumerate(pairs, 2)]


def many(count: int, labels: Sequence[str] = ("joy", "fear"), what: str = "text") -> list[tuple[str, str]]:
    return [(f"{what} number {n}", labels[n % len(labels)]) for n in range(count)]


def look(
    train: Sequence[Row], validation: Sequence[Row] = (), test: Sequence[Row] = (), named: Sequence[str] = ()
) -> Audit:
    return audit(Material({"train": train, "validation": validation, "test": test}, named))


def the(found: Audit, name: str) -> Finding:
    [finding] = [finding for finding in found.findings if finding.name == name]
    return finding


def names(found: Audit) -> set[str]:
    return {finding.name for finding in found.findings}


def test_clean_rows_have_no_findings() -> None:
    found = look(rows(*many(40)), rows(*many(10, what="held")), rows(*many(10, what="kept")))
    assert found.findings == ()
    assert found.rows == {"train": 40, "validation": 10, "test": 10}
    assert found.labels["joy"] == {"train": 20, "validation": 5, "test": 5}


def test_copies_are_counted_exactly_and_as_a_reader_sees_them() -> None:
    found = look(
        rows(
            *many(30),
            ("Same  text", "joy"),
            ("same text", "joy"),
            ("same text", "joy"),
            ("ﬁne", "joy"),
            ("fine", "joy"),
        )
    )
    finding = the(found, "duplicates in train")
    assert (finding.count, finding.metrics["exact"], finding.severity) == (3, 1, "note")
    assert [place.row for place in finding.examples[0].places] == [32, 33, 34]


def test_a_leak_is_a_share_of_the_test_rows_with_the_places_on_both_sides() -> None:
    train = rows(*many(40), ("a leak", "joy"))
    test = rows(*many(8, what="kept"), ("A  leak", "joy"), ("a leak", "fear"), file="b.csv")
    finding = the(look(train, test=test), "test texts in train")
    assert (finding.count, finding.severity) == (2, "warning")
    assert finding.metrics == {"exact": 1, "share": 0.2, "other_label": 1, "texts": 1}
    assert {(place.part, place.file, place.row) for place in finding.examples[0].places} == {
        ("train", "a.csv", 42),
        ("test", "b.csv", 10),
        ("test", "b.csv", 11),
    }


def test_each_pair_of_parts_has_its_own_leak() -> None:
    shared = [("a leak", "joy")]
    found = look(rows(*many(30), *shared), rows(*many(5, what="held"), *shared), rows(*many(5, what="kept"), *shared))
    assert {"test texts in train", "validation texts in train", "test texts in validation"} <= names(found)


def test_places_of_a_leak_are_shown_in_each_part_however_often_a_text_is_repeated() -> None:
    found = look(rows(*many(30), *[("again", "joy")] * 20), test=rows(*many(5, what="kept"), ("again", "joy")))
    [example] = the(found, "test texts in train").examples
    assert {place.part for place in example.places} == {"train", "test"}


def test_a_contradiction_is_counted_in_its_part_or_else_across_parts() -> None:
    train = rows(*many(30), ("torn", "joy"), ("Torn", "fear"), ("apart", "joy"))
    test = rows(*many(5, what="kept"), ("torn", "joy"), ("apart", "fear"))
    found = look(train, test=test)
    inside, across = the(found, "contradictions in train"), the(found, "contradictions across parts")
    assert (inside.count, inside.metrics["rows"], inside.severity) == (1, 2, "warning")
    assert (across.count, across.examples[0].text) == (1, "apart")


def test_a_label_that_is_probably_a_slip_of_another_is_told_unless_it_is_named() -> None:
    """`init` asked about it, and `check` listed it among the rare ones alone."""
    rows = [Row(f"text {n}", "appointment") for n in range(30)] + [
        Row("text x", "apointment"),
        Row("text y", "billing"),
    ]
    finding = the(audit(Material({"train": rows})), "labels that may be misspelt")
    assert finding.what == "rows whose label may be a slip of another: 'apointment' (1) for 'appointment'"
    assert finding.severity == "note"
    named = audit(Material({"train": rows}, ("appointment", "apointment", "billing")))
    assert "labels that may be misspelt" not in [each.name for each in named.findings]


def test_labels_that_train_does_not_teach_are_an_error_with_the_nearest_name() -> None:
    finding = the(
        look(rows(*many(40)), test=rows(*many(5, what="kept"), ("new", "jay"))), "test labels unseen in train"
    )
    assert (finding.count, finding.severity) == (1, "error")
    assert "'jay' (1). Did you mean 'joy'?" in finding.what


def test_a_label_that_the_recipe_names_may_be_unseen_but_another_is_refused() -> None:
    test = rows(*many(5, what="kept"), ("new", "anger"), ("odd", "jay"))
    found = look(rows(*many(40)), test=test, named=("joy", "fear", "anger"))
    assert the(found, "unknown labels").severity == "error"
    assert the(found, "unknown labels").examples[0].text == "odd"
    assert the(found, "test labels unseen in train").severity == "warning"
    assert the(found, "test labels unseen in train").count == 1


@pytest.mark.parametrize(("count", "rare"), [(RARE - 1, True), (RARE, False)])
def test_a_label_is_rare_below_ten_training_rows(count: int, rare: bool) -> None:
    found = look(rows(*many(40), *many(count, ["anger"], "angry")))
    assert ("rare labels" in names(found)) is rare


def test_uneven_labels_are_measured_and_noted_from_ten_times_on() -> None:
    found = look(rows(*many(300, ["joy"]), *many(30, ["fear"], "dark")))
    assert found.balance is not None
    assert (found.balance.largest, found.balance.ratio) == ("joy", 10.0)
    assert found.balance.majority == pytest.approx(300 / 330)
    assert found.balance.entropy == pytest.approx(0.4395, abs=1e-4)  # of 10 to 1, in bits
    assert the(found, "uneven labels").severity == "note"
    assert "uneven labels" not in names(look(rows(*many(290, ["joy"]), *many(30, ["fear"], "dark"))))


def test_odd_characters_are_reported_by_kind_and_row() -> None:
    odd = [("stop <|eot_id|>", "joy"), ("zero\u200bwidth", "joy"), ("caf\u00c3\u00a9", "joy"), ("lost \ufffd", "joy")]
    found = look(rows(*many(30), *odd, ("café, naïve 👩‍🚀\tok\n", "joy")))
    assert the(found, "control tokens").examples[0].places[0].row == 32
    assert the(found, "invisible characters").what == "texts with control or invisible characters: 1 (U+200B)"
    assert the(found, "broken characters").count == 2


def test_the_models_own_control_tokens_are_looked_for() -> None:
    ruler = Ruler(lambda texts: [1] * len(texts), {"qa": 9}, ("<turn>",))
    found = audit(Material({"train": rows(*many(30), ("a <turn> b", "joy"), ("a <|eot_id|>", "joy"))}), ruler)
    assert the(found, "control tokens").examples[0].text == "a <turn> b"


def test_lengths_and_trimmed_texts_are_counted_for_each_arm() -> None:
    texts = rows(*[(" ".join(["word"] * n) + f" {n}", ("joy", "fear")[n % 2]) for n in range(100)])
    ruler = Ruler(lambda given: [len(text.split()) for text in given], {"qa": 99, "qra": 60})
    found = audit(Material({"train": texts}), ruler)
    assert found.lengths is not None
    assert (found.lengths.p50, found.lengths.max, found.lengths.trimmed) == (50.5, 100, {"qa": 1, "qra": 40})
    assert the(found, "trimmed texts in qra").metrics["share"] == 0.4
    assert the(found, "trimmed texts in qra").severity == "warning"


def test_few_trimmed_texts_are_a_note_and_no_room_is_an_error() -> None:
    texts = Material({"train": rows(*many(200), ("a b c d e f", "joy"))})
    found = audit(texts, Ruler(lambda given: [len(text.split()) for text in given], {"qa": 5}))
    assert the(found, "trimmed texts in qa").severity == "note"
    found = audit(texts, Ruler(lambda given: [1] * 199 + [700, 1], {"qa": 5, "qra": -3}, limit=512))
    assert the(found, "no room for a text").severity == "error"
    # 515 tokens stand beside the text, and the longest one has 700
    assert the(found, "no room for a text").hint.startswith("Set max_seq_length to 1216: that holds the longest text")
    assert the(found, "trimmed texts in qa").hint == "Their end is cut off. max_seq_length: 1216 holds the longest."
    assert found.lengths is None


def test_refused_rows_are_counted_by_kind_and_come_first() -> None:
    faults = [Refused("train", "a.csv", n, f"{n} fields where the header has 2") for n in (3, 4)]
    found = audit(Material({"train": rows(*many(4))}, refused=[*faults, Refused("test", "b.csv", 7, "no label")]))
    assert [finding.severity for finding in found.findings] == ["error", "warning"]
    assert "3 (… fields where the header has … (2), no label (1))" in the(found, "refused rows").what


def scan(path: Path, seed: int = 0, **keys: object) -> Material:
    return scan_sources(DataSection.model_validate({"train": str(path)} | keys), seed)


def test_a_scan_collects_what_loading_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, [*many(40), ("", "joy"), ("no label", ""), ("a,b", "joy")])
    keys = {"val_size": 5, "test_size": 10}
    with pytest.raises(DataError, match="3 of 43 rows"):
        load_labelled(DataSection.model_validate({"train": str(path)} | keys), 0)
    found = scan(path, **keys)
    assert [(fault.number, fault.what) for fault in found.refused] == [
        (42, "the text is empty"),
        (43, "the label is empty"),
        (44, "3 fields where the header has 2"),
    ]
    assert {part: len(own) for part, own in found.parts.items()} == {"train": 25, "validation": 5, "test": 10}


def test_a_scan_holds_the_parts_of_a_run_and_the_rows_that_it_does_not_draw(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, many(200))
    section = DataSection.model_validate({"train": str(path), "val_size": 20, "test_size": 0.2, "max_samples": 50})
    used, found = load_labelled(section, 3), scan_sources(section, 3)
    assert (list(used.test), list(used.validation)) == (found.parts["test"], found.parts["validation"])
    assert len(found.parts["train"]) == 140
    assert set(used.train) < set(found.parts["train"])
    assert [row.number for row in found.parts["train"]] == sorted(row.number for row in found.parts["train"])


def test_labels_that_max_samples_makes_rare_are_found_as_a_training_finds_them(tmp_path: Path) -> None:
    """The check counted all rows, and only the training said that few were left of a label."""
    write_csv(tmp_path / "a.csv", [(f"text {n}", "joy" if n % 4 else "fear") for n in range(100)])
    keys = {"val_size": 0, "test_size": 0, "max_samples": 20}
    rare = the(audit(scan(tmp_path / "a.csv", **keys)), "rare labels")
    used = load_labelled(DataSection.model_validate({"train": str(tmp_path / "a.csv")} | keys), 0).train
    left = sum(row.label == "fear" for row in used)
    assert left < 10
    assert rare.what == f"labels with fewer than 10 training rows of the 20 that data.max_samples leaves: fear ({left})"
    assert rare.hint.startswith("They will hardly be learned: raise data.max_samples, ")
    refused = audit(scan(tmp_path / "a.csv", **keys | {"max_samples": 1}))
    assert "cannot hold each of the 2 labels" in the(refused, "refused data").what


def test_a_size_that_does_not_fit_is_refused_where_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, many(100))
    assert not scan(path).refused
    [fault] = scan(path, test_size=90, val_size=0.1).refused
    assert "data.test_size: 90 rows would be more than half" in fault.what
    assert len(scan(path, test_size=90).parts["test"]) == 20


def test_findings_about_the_whole_data_are_reported_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, [*many(40, ["joy"]), ("text number 0", "joy")])
    found = audit(scan(path, val_size=0, test_size=0))
    assert "A classifier needs two labels" in the(found, "refused data").what
    assert the(found, "duplicates in train").count == 1


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def context_of(recipe: Path, *more: str) -> tuple[Context, Heard]:
    heard = Heard()
    loaded = load_recipe(recipe, more)
    model = RecipeModel(loaded, open_backend("fake"), resolve_model(loaded.model))
    return Context(RunDir(recipe.parent / "run"), model, heard), heard


@pytest.mark.parametrize(
    ("arms", "measured"),
    [
        (["qa", "qra", "qar"], {"qar", "qra", "R-Gen"}),
        (["qa", "qra", "qarqa"], {"qa", "qarqa", "R-Gen"}),
        (["qa"], {"qa"}),
    ],
)
def test_room_is_what_a_classifier_leaves_for_a_text(
    recipe: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch, arms: list[Arm], measured: set[Arm | str]
) -> None:
    """The longest text that fits by the audit is not trimmed in the prompt of a prediction; a token more is. Of the
    arms that are trained those with the least room count: `qarqa` needs more than `qra`, and was passed over."""
    from rir_mlx.classification.classifier import Classifier
    from rir_mlx.prompting.prompts import answer_format, classifier_prompt

    monkeypatch.chdir(recipe.parent)
    context, _ = context_of(recipe, f"classifier.arms={json.dumps(arms)}")
    lengths = check(context.recipe).lengths
    assert lengths is not None
    assert set(lengths.room) == measured
    for arm in arms:
        assert min(lengths.room.values()) <= text_room(context.model.codec, context.task, arm)
    for arm in set(arms) & measured:
        classifier = Classifier(context.model.load(), context.model.codec, context.task, arm)
        for more, trimmed in ((0, 0), (1, 1)):
            text = codec.decode(codec.given("a") * (lengths.room[arm] + more))
            assert len(codec.given(text)) == lengths.room[arm] + more
            prompt = classifier_prompt(
                text, context.task.labels, context.task.instruction, answer_format(classifier.arm)
            )
            assert codec.encode(prompt, classifier.room).trimmed == trimmed


def test_a_training_warns_once_and_counts_token_lengths(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    write_csv(Path("test.csv"), [("i feel happy today 3", "joy"), ("i feel happy today 4", "sadness")])
    context, heard = context_of(recipe, "data.test=test.csv", "data.val_size=0")
    warn_about_data(context)
    warn_about_data(context)
    assert heard.warnings == [
        "test rows whose text stands in train: 2 of 2, 100.0% (letter by letter: 2, with another label there: 1)",
        "texts across parts with more than one label: 1 (2 rows)",
        "`rir-mlx check` shows the rows and what helps.",
    ]
    assert audit_used_rows(context).lengths is not None


def test_clean_rows_are_trained_on_without_a_word(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    context, heard = context_of(recipe)
    warn_about_data(context)
    assert heard.warnings == []


@pytest.mark.skipif(not (SHARED / "emotion").is_dir(), reason="the real data are not here")
def test_the_contradictions_and_shared_texts_of_emotion_are_found() -> None:
    files = {part: str(SHARED / "emotion" / f"{part}.csv") for part in ("train", "validation")}
    found = audit(scan_sources(DataSection.model_validate(files | {"test_size": 0}), 0))
    assert the(found, "contradictions in train").count == 30
    assert the(found, "validation texts in train").metrics["other_label"] == 5


@pytest.mark.parametrize("separator", [";", "|", ", ", "/"])
def test_labels_that_combine_others_are_told(separator: str) -> None:
    """A table with several labels a text was trained on each combination as a label of its own, in silence."""
    labels = ["bug", "refund", separator.join(["bug", "refund"]), separator.join(["bug", "praise"])] * 3
    [found] = _several([*labels, separator.join(["praise", "refund"])])
    assert (found.severity, found.count) == ("warning", 7)
    assert f"'bug{separator}refund' (3)" in found.what
    assert f"set data.label_separator to `{separator.strip()}`" in found.hint


@pytest.mark.parametrize(
    "labels",
    [
        ("Sports/Tennis", "Sports/Soccer", "Politics"),
        ("R&D", "sales", "C++"),
        ("yes", "no", "yes, but late"),
        ("and/or", "not"),
        ("[sic]", "{}{", "plain"),
        ("1/5", "2/5", "3/5", "4/5", "5/5"),
        ("1,0", "1,5", "2,0", "2,5"),
        ("2020/01", "2020/02", "2021/01", "2021/02"),
        ("R&D", "R", "Q&A", "D&O"),
        ("[" * 20_000, "plain"),
    ],
)
def test_labels_whose_parts_are_no_labels_are_plain_ones(labels: tuple[str, ...]) -> None:
    assert _several(list(labels) * 3) == []


@pytest.mark.parametrize("label", ['["bug", "refund"]', "['bug', 'refund']", '{"bug": 0.5, "refund": 0.5}'])
def test_lists_and_distributions_in_cells_are_told(label: str) -> None:
    [found] = _several(["bug", label])
    assert found.name == "labels in JSON"


def _several(labels: list[str]) -> list[Finding]:
    found = look(rows(*((f"text {number}", label) for number, label in enumerate(labels))))
    return [finding for finding in found.findings if finding.name in ("combined labels", "labels in JSON")]
