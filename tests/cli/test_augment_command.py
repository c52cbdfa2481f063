"""`rir-mlx augment` as a user meets it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from commands import LABELS, WORDS, Run, command, copy_run, write_csv, write_recipe
from processes import Running, made_once, start_command
from server_stand_in import Reply, StandInServer, echo, text_of

from rir_mlx.augmentation.filters import LabelWords
from rir_mlx.errors import Failure
from rir_mlx.stages.opening import open_run
from rir_mlx.stages.reasoning_model import ReasoningModel
from rir_mlx.storage.journal import Journal


def rows_in(path: Path) -> list[dict[str, Any]]:
    # Not splitlines(): a model writes separators of lines and paragraphs too, which JSON leaves as they are.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="session")
def trained_once(tiny: Path) -> Path:
    def train(folder: Path) -> None:
        assert command(folder, "train-rgen", str(write_recipe(folder, tiny)), "-q").code == 0

    return made_once("trained R-Gen", train)


@pytest.fixture
def trained(rir: Run, recipe: Path, trained_once: Path) -> Run:
    """A run with an R-Gen, in the folder that `rir` runs in."""
    copy_run(trained_once, recipe.parent)
    return rir


def test_a_dry_run_prints_the_exact_prompts_and_writes_nothing(rir: Run, recipe: Path, tmp_path: Path) -> None:
    result = rir("augment", str(recipe), "--dry-run", "--limit", "2")
    assert result.code == 0, result.err
    assert result.out.count("<|begin_of_text|>") == result.out.count("assistant<|end_header_id|>\n\n") == 2
    assert "Answer: " in result.out
    assert not (tmp_path / "runs").exists()
    values = json.loads(rir("augment", str(recipe), "--dry-run", "--json").out)
    assert len(values) == 3
    assert all(entry["text"] in entry["prompt"] and entry["trimmed"] == 0 for entry in values)
    server = ["--base-url", "http://127.0.0.1:1/v1"]
    [message] = json.loads(rir("augment", str(recipe), *server, "--dry-run", "--limit", "1", "--json").out)
    assert message["prompt"].startswith("Explain")
    assert "<|" not in message["prompt"]


def test_a_limit_tries_it_out_and_the_rest_continues(trained: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small" / "augmented"
    result = trained("augment", "--limit", "10", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["train"]["rows"] == 10
    assert "run without --limit for the rest" in result.err
    assert not (folder / "done.json").exists()
    first = {entry["key"] for entry in rows_in(folder / "journal.jsonl")}
    assert len(first) >= 10
    stopped = trained("train-classifier", "--arm", "qra")
    assert (stopped.code, "rir-mlx augment" in stopped.err) == (2, True)
    whole = trained("augment")
    assert whole.code == 0
    assert "are already written" in whole.err
    assert "45 training rows have a reasoning" in whole.out
    assert "From the reasoning alone" in whole.out
    keys = [entry["key"] for entry in rows_in(folder / "journal.jsonl")]
    assert len(keys) == len(set(keys))
    assert first < set(keys)
    assert (folder / "done.json").exists()


def test_statistics_rows_and_rejected_rows_are_written_down(trained: Run, tmp_path: Path) -> None:
    assert trained("augment", "-s", "augment.filters=[restating]", "-s", "augment.max_tokens=6", "-q").code == 0
    folder = tmp_path / "runs" / "small" / "augmented"
    stats = json.loads((folder / "stats.json").read_text())
    kept, rejected = rows_in(folder / "train.jsonl"), rows_in(folder / "rejected.jsonl")
    assert stats["train"]["rows"] == 45
    assert stats["validation"]["rows"] == 6
    assert len(kept) == stats["train"]["kept"] > 0
    reasons = stats["train"]["rejected"]
    assert reasons["cut off"] > 0
    assert len([record for record in rejected if record["part"] == "train"]) == sum(reasons.values())
    assert {record["lost"] for record in rejected} == {True, False}
    assert stats["leakage"]["rows"] == len(kept)
    assert set(kept[0]["provenance"]) >= {"model", "revision", "adapter", "prompt", "seed", "sampling", "version"}


@pytest.mark.parametrize("name", ["test.csv", "test-00000-of-00001.csv", "Test_Set.csv", "emotion-test.csv"])
def test_a_test_part_is_refused(trained: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((tmp_path / "rows.csv").read_bytes())
    result = trained("augment", "-s", f"data.train={name}", "-s", "data.val_size=6", "-s", "data.test_size=9")
    assert result.code == 2
    assert "is a test part" in result.err
    for split in ("test", "test[:100]", "train+test"):
        result = trained("augment", "-s", "data.validation.path=rows.csv", "-s", f"data.validation.split={split}")
        assert (result.code, "is a test part" in result.err) == (2, True)


def test_a_test_part_is_refused_before_anything_is_trained(rir: Run, recipe: Path) -> None:
    """R-Gen was trained for rows for which it may not write."""
    Path("test.csv").write_bytes(Path("rows.csv").read_bytes())
    own = ("-s", "data.train=test.csv", "-s", "data.val_size=6", "-s", "data.test_size=9")
    result = rir("train-rgen", str(recipe), *own, "-q")
    assert (result.code, "is a test part" in result.err) == (2, True)
    assert not Path("runs/small/rgen/done.json").exists()
    assert "is a test part" in rir("check", str(recipe), *own).out


def test_a_file_that_is_no_test_part_is_not_refused(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "latest_contest.csv").write_bytes((tmp_path / "rows.csv").read_bytes())
    result = trained(
        "augment", "-s", "data.train=latest_contest.csv", "-s", "data.val_size=6", "-s", "data.test_size=9"
    )
    assert result.code == 0, result.err


def test_cut_texts_are_counted_and_reported(trained: Run, tmp_path: Path) -> None:
    """Cut silently, the reasonings of a data set were once written without the clause that decides its labels."""
    rows = [
        (f"{WORDS[label]} {number} " + "and so on " * 40 * (number == 3), label)
        for number in range(20)
        for label in LABELS
    ]
    write_csv(tmp_path / "rows.csv", rows)
    result = trained("augment", "-s", "max_seq_length=260")
    assert result.code == 0, result.err
    stats = json.loads((tmp_path / "runs" / "small" / "augmented" / "stats.json").read_text())
    cut = stats["train"]["trimmed"]
    assert 0 < cut <= 3
    assert f"{cut} texts were cut at their end" in result.err


def test_force_writes_anew_and_puts_the_old_journal_aside(trained: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small" / "augmented"
    assert trained("augment", "-q").code == 0
    before = (folder / "journal.jsonl").read_bytes()
    assert "skipped" in trained("augment").err
    (folder / "journal.rank-1.jsonl").write_bytes(before)  # what a killed process of several left
    assert "already written" not in trained("augment", "--force").err
    assert (folder / "journal.old.jsonl").read_bytes() == before
    assert not (folder / "journal.rank-1.jsonl").exists()


def test_a_prompt_without_room_for_the_choice_is_said_before_anything_is_written(
    trained: Run, recipe: Path, tmp_path: Path
) -> None:
    words = "described at very great length indeed, so that nothing else fits " * 8
    labels = ", ".join(f"{label}: {words if label == 'joy' else ''!r}" for label in LABELS)
    recipe.write_text(recipe.read_text().replace("data: {", f"data: {{labels: {{{labels}}}, "), encoding="utf-8")
    result = trained("augment", str(recipe), "-s", "augment.n=2", "-s", "augment.temperature=1")
    assert result.code == 2, result.err
    assert "The prompt without its text" in result.err
    assert not (tmp_path / "runs" / "small" / "augmented" / "journal.jsonl").exists()


def test_a_mistaken_server_leaves_the_run_as_it_was(trained: Run, tmp_path: Path) -> None:
    """It once took the finished stage and the recipe along, and a password into recipe.yaml."""
    run = tmp_path / "runs" / "small"
    assert trained("augment", "-q").code == 0
    kept = {path: path.read_bytes() for path in (run / "recipe.yaml", run / "augmented" / "done.json")}
    for url, words in (
        ("http://127.0.0.1:9/v1", "No server answers"),
        ("http://bob:hunter2@127.0.0.1:9/v1", "holds a user"),
        ("http://127.0.0.1:9/v1?api-key=hunter2", "holds a user"),
    ):
        result = trained("augment", "--base-url", url)
        assert (result.code, words in result.err) == (2, True), result.err
        assert "hunter2" not in result.err
    assert {path: path.read_bytes() for path in kept} == kept
    assert not any(b"hunter2" in path.read_bytes() for path in run.rglob("*") if path.is_file())


@pytest.mark.slow
def test_own_reasonings_need_no_rgen(rir: Run, recipe: Path, tmp_path: Path) -> None:
    rows = [f"{WORDS[label]} {n},{label},The {n}th of them tells of a day" for n in range(20) for label in LABELS]
    (tmp_path / "own.csv").write_text("text,label,why\n" + "\n".join(rows) + "\n", encoding="utf-8")
    own = ["-s", "data.train=own.csv", "-s", "data.val_size=6", "-s", "data.test_size=9"]
    result = rir("augment", str(recipe), *own, "-s", "data.reasoning_column=why")
    assert result.code == 0, result.err
    folder = tmp_path / "runs" / "small"
    kept = rows_in(folder / "augmented" / "train.jsonl")
    assert len(kept) == 45
    assert {row["provenance"]["engine"] for row in kept} == {"given"}
    assert all("tells of a day" in row["reasoning"] for row in kept)
    assert rir("run", str(recipe), *own, "-s", "data.reasoning_column=why", "-q").code == 0
    assert not (folder / "rgen").exists()


def test_a_changed_own_reasoning_is_noticed(rir: Run, recipe: Path, tmp_path: Path) -> None:
    options = ["-s", "data.train=own.csv", "-s", "data.val_size=6", "-s", "data.test_size=9"]
    for word in ("day", "night"):
        rows = [f"{WORDS[row]} {n},{row},The {n}th of them tells of a {word}" for n in range(20) for row in LABELS]
        (tmp_path / "own.csv").write_text("text,label,why\n" + "\n".join(rows) + "\n", encoding="utf-8")
        assert rir("augment", str(recipe), *options, "-s", "data.reasoning_column=why").code == 0
    kept = rows_in(tmp_path / "runs" / "small" / "augmented" / "train.jsonl")
    assert all("night" in row["reasoning"] for row in kept)


def test_several_a_row_are_chosen_from(trained: Run, tmp_path: Path) -> None:
    result = trained("augment", "-s", "augment.n=3", "-s", "augment.temperature=1")
    assert result.code == 0, result.err
    assert "Chosen among several" in result.out
    kept = rows_in(tmp_path / "runs" / "small" / "augmented" / "train.jsonl")
    assert any(row["choice"]["of"] == 3 for row in kept if "choice" in row)
    refused = trained("augment", "-s", "augment.temperature=0")
    assert (refused.code, "needs a temperature" in refused.err) == (2, True)


def test_a_useful_reasoning_is_chosen_by_a_classifier_that_has_not_seen_the_label(trained: Run, tmp_path: Path) -> None:
    folder, several = tmp_path / "runs" / "small" / "augmented", ("-s", "augment.n=3", "-s", "augment.temperature=1")
    result = trained("augment", *several, "-s", "augment.choose=useful")
    assert result.code == 0, result.err
    kept = rows_in(folder / "train.jsonl")
    halves = [[row for row in kept if zlib.crc32(row["text"].encode()) % 2 == half] for half in (0, 1)]
    context = open_run(folder.parent)
    words = LabelWords(context.data.labels)
    for half, rows in enumerate(halves):
        stage = context.run.chooser(half)
        assert (stage.done() or {})["results"]["rows"] == len(rows)
        chooser = ReasoningModel(context).chooser(stage)
        others = [row for row in halves[1 - half] if "choice" in row][:5]
        assert others
        masked = [words.masked(row["reasoning"]) for row in others]
        scored = chooser.predictions(chooser.given([row["text"] for row in others], masked), "reasoned")
        for row, prediction in zip(others, scored, strict=True):
            assert row["choice"]["probability"] == pytest.approx(prediction.probabilities[row["label"]], abs=1e-6)
    (folder / "done.json").unlink()
    again = trained("augment", *several, "-s", "augment.choose=useful")
    assert (again.code, "chooser" in again.err, rows_in(folder / "train.jsonl") == kept) == (0, False, True)
    assert trained("augment", *several, "-s", "augment.choose=first").code == 0
    assert not any("choice" in row for row in rows_in(folder / "train.jsonl"))


def test_a_full_disk_stops_with_one_line(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(journal: Journal) -> None:
        raise Failure(f"{journal.path} could not be written: No space left on device.", hint="Make room.")

    monkeypatch.setattr(Journal, "flush", full)
    result = trained("augment")
    assert result.code == 1
    assert "No space left on device" in result.err


def test_a_second_process_is_refused(trained: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small" / "augmented"
    with Journal(folder / "journal.jsonl"):
        result = trained("augment")
    assert (result.code, "Another process" in result.err) == (2, True)


@pytest.mark.slow
def test_a_servers_model_writes_and_another_servers_model_writes_anew(rir: Run, recipe: Path, tmp_path: Path) -> None:
    """Known by their address alone, two servers with a model each were once taken for one."""
    folder = tmp_path / "runs" / "small" / "augmented"
    for name in ("one", "two"):
        fake = StandInServer(echo)
        fake.models = 200, {}, {"data": [{"id": name}]}
        with fake.running() as url:
            result = rir("augment", str(recipe), "--base-url", url, "--json", "-s", "augment.filters=[]")
        assert result.code == 0, result.err
        assert json.loads(result.out)["train"]["kept"] == 45
        provenance = rows_in(folder / "train.jsonl")[0]["provenance"]
        assert (provenance["engine"], provenance["model"]) == ("openai", name)
    again = rir("augment", str(recipe), "--base-url", url, "-s", "augment.filters=[]")
    assert (again.code, "skipped" in again.err) == (0, True), "what is done needs no server"
    assert rir("augment", str(recipe), "--base-url", url, "-s", "augment.filters=[copying]").code == 2
    assert rir("run", str(recipe), "--set", "augment.engine=local", "-q").code == 0


def test_refused_requests_are_set_aside_and_reported(rir: Run, recipe: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return (400, {}, {"error": {"message": "filtered"}}) if "angry" in text_of(body) else echo(body)

    fake = StandInServer(reply)
    fake.models = 200, {}, {"data": [{"id": "one"}]}
    more = ["-s", "augment.filters=[]", "-s", "augment.retries=0", "-s", "augment.concurrency=4"]
    with fake.running() as url:
        result = rir("augment", str(recipe), "--base-url", url, *more)
    assert result.code == 0, result.err
    assert "the server refused" in result.err
    assert "with the label 'anger' 0 have a reasoning" in result.err
    stats = json.loads((tmp_path / "runs" / "small" / "augmented" / "stats.json").read_text())
    assert stats["train"]["rejected"] == {"refused": stats["train"]["rows_by_label"]["anger"]}


def test_offline_contacts_no_server_elsewhere(rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = rir("augment", str(recipe), "--base-url", "http://192.0.2.1/v1", "-s", "augment.server_model=one")
    assert (result.code, "contacts no server" in result.err) == (2, True)


# real processes


def start(folder: Path, runs: str) -> Running:
    return start_command(folder, "augment", "small.yaml", "--runs", runs)


def wait_for_lines(path: Path, count: int, process: Running) -> bool:
    """Whether the journal got so many lines before the process ended."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if path.is_file() and path.read_bytes().count(b"\n") >= count:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_killed_and_interrupted_a_real_model_writes_the_same_rows(
    rir: Run, recipe: Path, tmp_path: Path, backend: str
) -> None:
    pytest.importorskip({"torch": "torch", "mlx": "mlx_lm"}[backend])
    text = recipe.read_text(encoding="utf-8").replace("backend: fake", f"backend: {backend}\ndtype: float32")
    text = text.replace("{max_tokens: 24}", "{max_tokens: 8, batch_size: 8, temperature: 0.8, n: 2, retries: 1}")
    recipe.write_text(text.replace("rows.csv,", "rows.csv, max_samples: 24,"), encoding="utf-8")
    short = ("-s", "rgen.iters=1", "-s", "rgen.epochs=null")
    assert rir("train-rgen", "small.yaml", "--runs", "whole", "-q", *short).code == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    process = start(tmp_path, "whole")
    process.communicate(timeout=300)
    assert process.returncode == 0
    journal = tmp_path / "killed" / "small" / "augmented" / "journal.jsonl"
    rng, before = random.Random(3), 0
    for number in (signal.SIGKILL, signal.SIGINT):
        process = start(tmp_path, "killed")
        if wait_for_lines(journal, before + rng.randint(4, 20), process):
            process.send_signal(number)
        _, err = process.communicate(timeout=300)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "Finishing the rows" in err
            assert "the same command continues" in err
        before = journal.read_bytes().count(b"\n")
    process = start(tmp_path, "killed")
    process.communicate(timeout=300)
    assert process.returncode == 0
    whole, killed = (tmp_path / runs / "small" / "augmented" for runs in ("whole", "killed"))
    for name in ("train.jsonl", "validation.jsonl", "rejected.jsonl", "stats.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    keys = [entry["key"] for entry in rows_in(journal)]
    assert len(keys) == len(set(keys)) == len(rows_in(whole / "journal.jsonl"))
