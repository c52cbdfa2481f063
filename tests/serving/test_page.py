"""The page, in a real browser, on a run with 77 labels and 20,000 rows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from browsers import Page, assert_count, assert_says, assert_value, chromium
from conftest import MANY, MARKUP
from review_runs import lines_of, make_run, write_results
from served_models import CALIBRATION, TASK, TEXTS, fake_classifier, served_run, serving, several_labels
from test_worker import Waiting

from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.files import ClassifyFileOptions, classify_file
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.data.loading import load_labelled
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.serving.guard import Policy
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import Arm

KEY = "0123456789abcdef0123"
pytestmark = pytest.mark.slow
Run = tuple[RunDir, Recipe]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def wide(codec: Codec) -> Classifier:
    """A classifier with 77 labels."""
    task = replace(TASK, labels=dict.fromkeys(MANY, ""), max_seq_length=2000)
    return Classifier(FakeModel(400), codec, task, "qra", CALIBRATION)


@pytest.fixture(scope="module")
def served(wide: Classifier, large_run: Run) -> Iterator[tuple[str, list[Arm]]]:
    """The address of a server with that run, and the arms that it has loaded beside the first."""
    loaded = list[Arm]()

    def load(arm: Arm) -> Classifier:
        loaded.append(arm)
        return Classifier(FakeModel(400), wide.codec, wide.task, arm, CALIBRATION)

    with serving(wide, source=served_run(*large_run, wide, load)) as (address, _):
        yield address, loaded


@pytest.fixture
def review(large_run: Run) -> Iterator[Path]:
    """Where decisions go; there are none."""
    large_run[0].review.unlink(missing_ok=True)
    yield large_run[0].review
    large_run[0].review.unlink(missing_ok=True)


def classify(page: Any, text: str) -> None:
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Classify Ctrl Enter").click()


def open_review(page: Any) -> None:
    page.get_by_role("link", name="Review").click()
    page.locator("#row form").wait_for()


def settled(page: Any) -> None:
    """Wait until what was pressed is done: what is pressed meanwhile is ignored."""
    page.locator("#row:not([aria-busy='true'])").wait_for()


def choose(page: Any, button: str) -> None:
    """Choose rows by a filter, and wait for them."""
    before = page.locator("#shown").inner_text()
    page.get_by_role("button", name=button).click()
    page.locator("#shown").filter(has_not_text=before).wait_for()
    page.locator("#row form").wait_for()


def test_the_reasoning_appears_while_it_is_written_and_then_every_label(browser: Any, codec: Codec) -> None:
    model = Waiting()
    with serving(fake_classifier(codec, model=model)) as (address, _):
        opened = Page(browser, address)
        with opened as page:
            classify(page, TEXTS[0])
            model.go.release(2)
            page.locator(".reasoning.open:not(:empty)").wait_for()
            shown = page.locator(".reasoning").inner_text()
            assert page.locator(".verdict").inner_text() == ""
            model.go.release(200)
            page.locator(".verdict:not(:empty)").wait_for()
            whole = page.locator(".reasoning").inner_text()
            assert whole.startswith(shown)
            assert len(shown) < len(whole)
            answer = httpx2.post(f"{address}/classify", json={"texts": TEXTS[:1]}).json()["predictions"][0]
            assert whole == answer["reasoning"].strip()
            assert_count(page.locator("#results progress"), 3)
            assert not page.get_by_role("link", name="Review").is_visible()  # there is no run behind this classifier
            assert [fault for fault in opened.faults if "404" not in fault] == []
            opened.faults.clear()


def test_two_arms_stand_side_by_side_and_the_second_is_loaded_when_it_is_asked(
    browser: Any, served: tuple[str, list[Arm]]
) -> None:
    address, loaded = served
    with Page(browser, address) as page:
        page.get_by_label("qra", exact=True).wait_for()
        page.get_by_label("One text per line").check()
        classify(page, f"{MARKUP}\nanother text")
        page.locator(".verdict:not(:empty)").nth(1).wait_for()
        assert loaded == []
        page.get_by_label("qa", exact=True).check()
        classify(page, f"{MARKUP}\nanother text")
        page.locator(".verdict:not(:empty)").nth(3).wait_for()
        assert loaded == ["qa"]
        assert page.locator("article").first.locator("h2").all_inner_texts() == ["qra", "qa"]
        assert_says(page.locator(".given").first, MARKUP, exactly=True)
        page.get_by_text("71 more labels").first.click()
        shown = page.locator(".answer").first.locator(".bars th").all_inner_texts()
        assert sorted(shown) == sorted(MANY)
        assert page.locator("#results img, #results script").count() == 0


def test_the_threshold_says_how_many_test_rows_abstain_and_how_right_the_rest_are(
    browser: Any, served: tuple[str, list[Arm]], large_run: Run
) -> None:
    with Page(browser, served[0]) as page:
        classify(page, "some text")
        page.locator(".verdict:not(:empty)").wait_for()
        slider = page.locator("#threshold")
        slider.fill("0")
        assert "No label" not in page.locator(".verdict").inner_text()
        slider.fill("100")
        assert_says(page.locator(".verdict"), "No label")
        rows = lines_of(large_run[0].predictions("qra"))
        kept = [row for row in rows if max(row["probabilities"].values()) >= 0.5]
        right = sum(row["predicted"] == row["label"] for row in kept)
        assert 0 < right < len(kept) < len(rows)
        of_all = f"Of {len(rows)} test rows that qra answered, with a reasoning, {len(rows) - len(kept)} ("
        others = f"Of the other {len(kept)}, {right} are right ({100 * right / len(kept):.1f} %"
        assert_says(page.locator("#curve"), of_all, others)


def test_a_table_comes_out_as_the_command_writes_it(
    browser: Any, served: tuple[str, list[Arm]], wide: Classifier, tmp_path: Path
) -> None:
    table = tmp_path / "my table.csv"
    table.write_text('id,text\n7,"first,\u2028with a comma"\n8,\n9,=cmd()\n' + "1,x\n" * 60, encoding="utf-8")
    with Page(browser, served[0]) as page:
        page.get_by_role("link", name="Review").wait_for()
        page.locator("#threshold").fill("0")
        page.set_input_files("#file", table)
        page.get_by_role("button", name="Classify the table").click()
        page.get_by_text("Save my_table-classified.csv").wait_for()
        with page.expect_download() as download:
            page.get_by_text("Save my_table-classified.csv").click()
        assert_says(page.locator("#table-said"), "1 of 63 rows have no label: the text is empty")
        assert_count(page.locator("#table-rows tbody tr"), 50)
        expected = tmp_path / "expected.csv"
        options = ClassifyFileOptions(threshold=0, chunk=32)
        classify_file(table, expected, lambda texts: wide.predict(texts, PredictOptions("always")), options)
        assert Path(download.value.path()).read_bytes() == expected.read_bytes()
        table.write_text("id,text\n1,a,b\n2,c\n3,d,e,f\n", encoding="utf-8")
        page.set_input_files("#file", table)
        page.get_by_role("button", name="Classify the table").click()
        page.get_by_text("row 4").wait_for()
        assert_says(page.locator("#table-said"), "2 of 3 rows cannot be used", "row 2")
        assert "/tmp" not in page.locator("#table-said").inner_text()


def test_of_several_labels_each_that_is_given_is_shown(browser: Any, codec: Codec, small: Run, tmp_path: Path) -> None:
    """The page showed the likeliest single label, and compared its probability with the threshold."""
    classifier = several_labels(codec)
    expected = classifier.predict(TEXTS, PredictOptions("always"))
    given = [", ".join(found.labels) for found in expected]
    assert any("," in labels for labels in given)
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(TEXTS) + "\n", encoding="utf-8")
    with (
        serving(classifier, source=served_run(*small, classifier)) as (address, _),
        Page(browser, address) as page,
    ):
        page.locator("#abstain").wait_for()
        page.get_by_label("One text per line").check()
        for limit in (0.35, 0):
            if not limit:
                page.locator("#threshold").fill("0")
            classify(page, "\n".join(TEXTS))
            assert_count(page.locator(".verdict:not(:empty)"), len(TEXTS))
            for shown, found, labels in zip(page.locator(".answer").all(), expected, given, strict=True):
                answered = found.probability >= limit
                assert_says(shown.locator(".verdict"), labels if answered else "No label: ")
                if answered:
                    assert_says(shown.locator(".notes"), f"Likeliest together: {found.label}, ")
        page.set_input_files("#file", tmp_path / "texts.csv")
        page.get_by_role("button", name="Classify the table").click()
        page.get_by_text("Save texts-classified.csv").wait_for()
        assert page.locator("#table-rows tbody td:nth-child(2)").all_inner_texts() == given


def test_rows_are_reviewed_saved_at_once_taken_back_and_there_after_a_reload(
    browser: Any, served: tuple[str, list[Arm]], review: Path
) -> None:
    with Page(browser, served[0]) as page:
        page.get_by_role("link", name="Review").wait_for()
        begun, sizes = time.monotonic(), list[int]()
        page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
        open_review(page)
        assert time.monotonic() - begun < 60  # 0.5 to 4 s on two busy cores
        choose(page, "All (20,000)")
        assert_count(page.locator("#rows li"), 50)
        assert_says(page.locator("#shown"), "1–50 of 20,000 rows", exactly=True)
        assert max(sizes) < 50_000
        choose(page, "Model disagrees")
        all_ = int(page.locator("#shown").inner_text().split(" of ")[1].split()[0])
        assert all_ > 50
        page.keyboard.press("s")
        page.locator("#said").get_by_text("Skipped").wait_for()
        page.get_by_role("button", name="Next").click()  # the 51st row is the 50th of those that are not decided
        page.locator("#shown").get_by_text(f"50–{all_ - 1} of {all_ - 1} rows").wait_for()
        choose(page, "Conflicting labels (2)")
        place = page.locator("#row .where").inner_text()
        page.locator("#new-label").select_option("label 40")
        page.locator("#new-reasoning").fill(MARKUP)
        page.keyboard.press("Control+Enter")
        page.locator("#said").get_by_text("Changed: label 40. Saved.").wait_for()
        page.locator("#row .where").filter(has_not_text=place).wait_for()
        page.keyboard.press("s")
        page.locator("#said").get_by_text("Skipped").wait_for()
        _, edited, skipped = lines_of(review)
        assert (edited["action"], edited["label"], edited["reasoning"]) == ("edit", "label 40", MARKUP)
        assert skipped["action"] == "skip"
        page.reload()
        page.locator("#row form").wait_for()
        page.get_by_label("Decided").select_option("done")
        choose(page, "Conflicting labels (2)")
        assert_count(page.locator("#rows li"), 2)
        page.locator(f"#rows li[data-id='{edited['row']}'] button").click()
        page.locator("#row .decided").get_by_text("Changed. Saved.").wait_for()
        assert_value(page.locator("#new-reasoning"), MARKUP)
        page.keyboard.press("u")
        page.locator("#said").get_by_text("Taken back.").wait_for()
        assert_value(page.locator("#new-label"), edited["was"])
        assert lines_of(review)[-1]["action"] == "undo"
        assert page.locator("#review img, #review script").count() == 0


def test_two_tabs_do_not_lose_each_other_s_edits(browser: Any, served: tuple[str, list[Arm]], review: Path) -> None:
    one, other = Page(browser, f"{served[0]}"), Page(browser, f"{served[0]}")
    with one as first, other as second:
        for page in (first, second):
            open_review(page)
            choose(page, "Rejected reasonings (1)")
        first.locator("#new-reasoning").fill("from the first tab")
        first.get_by_role("button", name="Save").click()
        first.locator("#said").get_by_text("Saved").wait_for()
        second.locator("#new-reasoning").fill("from the second tab")
        second.get_by_role("button", name="Save").click()
        second.get_by_role("alert").get_by_text("Somebody else decided this row meanwhile").wait_for()
        assert [line["reasoning"] for line in lines_of(review)] == ["from the first tab"]
        settled(second)
        second.locator("#row .decided").get_by_text("Not saved yet.").wait_for()
        assert_value(second.locator("#new-reasoning"), "from the second tab")
        second.get_by_role("button", name="Save").click()
        second.locator("#said").get_by_text("Saved").wait_for()
        settled(first)
        first.keyboard.press("Escape")
        first.keyboard.press("u")  # it would take back what the second tab decided
        first.get_by_role("alert").get_by_text("Somebody else decided this row meanwhile").wait_for()
        assert [line["reasoning"] for line in lines_of(review)] == ["from the first tab", "from the second tab"]
        settled(first)
        assert_value(first.locator("#new-reasoning"), "from the second tab")
        first.get_by_role("button", name="Undo").click()  # now it has seen it
        first.locator("#said").get_by_text("Taken back.").wait_for()
        assert_value(first.locator("#new-reasoning"), "from the first tab")
        assert [["409" in fault for fault in tab.faults] for tab in (one, other)] == [[True], [True]]
        one.faults.clear()
        other.faults.clear()


def test_what_is_typed_is_kept_while_other_rows_are_looked_at(
    browser: Any, served: tuple[str, list[Arm]], review: Path
) -> None:
    with Page(browser, served[0]) as page:
        open_review(page)
        choose(page, "Duplicates (4)")
        page.locator("#row .where").get_by_text("train").wait_for()
        place = page.locator("#row .where").inner_text()
        page.locator("#new-reasoning").fill("half a thou")
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.locator("#row .where").filter(has_not_text=place).wait_for()
        assert page.locator("#new-reasoning").input_value() != "half a thou"
        page.keyboard.press("k")
        page.locator("#row .where").get_by_text(place).wait_for()
        assert_value(page.locator("#new-reasoning"), "half a thou")
        assert_says(page.locator("#row .decided"), "Not saved yet.", exactly=True)
        reasoning = page.locator("#new-reasoning")
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.locator("#row .where").filter(has_not_text=place).wait_for()
        before, label = reasoning.input_value(), page.locator("#new-label").input_value()
        page.locator("#new-label").select_option("label 40")  # R-Gen's reasoning argues for another label
        assert before != ""
        assert_value(reasoning, "")
        assert_says(page.locator("#row .unfit"), f"was written for {label}")
        page.locator("#new-label").select_option(label)
        assert_value(reasoning, before)
        assert not review.exists()


def test_a_held_key_decides_one_row_and_a_draft_of_another_run_is_not_shown(
    browser: Any, served: tuple[str, list[Arm]], review: Path
) -> None:
    with Page(browser, served[0]) as page:
        open_review(page)
        choose(page, "Duplicates (4)")
        page.keyboard.down("s")
        page.locator("#said").get_by_text("Skipped").wait_for()
        settled(page)
        for _ in range(3):  # pressed already: the browser says that it repeats
            page.keyboard.down("s")
        page.keyboard.up("s")
        place = page.locator("#row .where").inner_text()
        page.keyboard.down("j")
        page.locator("#row .where").filter(has_not_text=place).wait_for()
        page.keyboard.up("j")
        assert [line["action"] for line in lines_of(review)] == ["skip"]
        saved = page.locator("#new-reasoning").input_value()
        page.locator("#new-reasoning").fill("half a thou")
        assert_says(page.locator("#row .decided"), "Not saved yet.", exactly=True)
        row = page.locator("#row .where").inner_text()
        page.evaluate(
            """() => {
              const drafts = JSON.parse(sessionStorage.getItem("drafts"));
              sessionStorage.setItem("drafts", JSON.stringify(drafts.map(([key, draft]) => [`another-${key}`, draft])));
            }"""
        )
        page.reload()
        page.locator("#row form").wait_for()
        choose(page, "Duplicates (4)")
        while page.locator("#row .where").inner_text() != row:
            before = page.locator("#row .where").inner_text()
            page.keyboard.press("j")
            page.locator("#row .where").filter(has_not_text=before).wait_for()
        assert_value(page.locator("#new-reasoning"), saved)
        assert page.locator("#row .decided").inner_text() == ""


def test_a_server_with_a_key_is_asked_with_it_and_its_report_is_shown(
    browser: Any, codec: Codec, large_run: Run, tmp_path: Path
) -> None:
    run, recipe = make_run(tmp_path)
    write_results(run, load_labelled(recipe.data, recipe.seed), {})
    shutil.copy(large_run[0].report, run.report)
    classifier = fake_classifier(codec)
    source = served_run(run, recipe, classifier)
    with serving(classifier, Policy(key=KEY), source=source) as (address, _):
        opened = Page(browser, address, viewport={"width": 390, "height": 800}, color_scheme="dark")
        with opened as page:
            page.get_by_label("API key").fill(KEY)
            page.get_by_label("API key").press("Enter")
            classify(page, "some text")
            page.locator(".verdict:not(:empty)").wait_for()
            page.get_by_role("link", name="Report").click()
            page.frame_locator("iframe").get_by_text("did reasoning help?").wait_for()
            for view in ("try", "review", "report"):
                page.locator(f"#views a[href='#{view}']").click()
                page.locator(f"#views a[href='#{view}'][aria-current]").wait_for()
                assert page.evaluate("document.documentElement.scrollWidth") == 390, view
            frame = page.frames[1]
            assert frame.evaluate("fetch('/run').then(() => 'reached', () => 'refused')") == "refused"
            assert frame.evaluate("window.origin") == "null"
            assert all("401" in fault or "Content Security Policy" in fault for fault in opened.faults), opened.faults
            opened.faults.clear()


def test_every_field_and_button_has_a_name(browser: Any, served: tuple[str, list[Arm]]) -> None:
    with Page(browser, served[0]) as page:
        open_review(page)
        page.get_by_role("link", name="Try").click()
        nameless = page.evaluate(
            """[...document.querySelectorAll("input, select, textarea, button, iframe, progress")].filter((element) =>
               !(element.labels?.length || element.textContent.trim() || element.title || element.ariaLabel))
               .map((element) => element.outerHTML)"""
        )
        assert nameless == []
