"""The journal: what was appended is there after any kill, once, and the rest as before."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from rir_mlx.errors import UserError
from rir_mlx.storage import journal as journal_module
from rir_mlx.storage.journal import Journal, add_ranks_results, open_share, shares_elsewhere


def result(number: int, **more: Any) -> dict[str, Any]:
    return {"key": f"{number:016x}", "reasoning": f"because {number} \U0001f642"} | more


def fill(path: Path, count: int = 5) -> bytes:
    with Journal(path) as journal:
        for number in range(count):
            journal.append(result(number))
    return path.read_bytes()


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    with Journal(tmp_path / "journal") as journal:
        assert len(journal) == 5
        assert [journal.get(f"{number:016x}") for number in range(5)] == [result(number) for number in range(5)]
        assert f"{3:016x}" in journal
        assert f"{9:016x}" not in journal
        assert journal.get(f"{9:016x}") is None


def test_a_result_is_found_before_it_is_on_disk(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.append(result(1))
        assert journal.get(f"{1:016x}") == result(1)


def test_flags_are_known_without_reading(tmp_path: Path) -> None:
    def flag(result: dict[str, Any]) -> int:
        return int(result["n"])

    with Journal(tmp_path / "journal", flag) as journal:
        for number in range(4):
            journal.append(result(number, n=number))
    with Journal(tmp_path / "journal", flag) as journal:
        assert [journal.flag_of(f"{number:016x}") for number in range(5)] == [0, 1, 2, 3, None]


@pytest.mark.parametrize("torn", [1, 5, 20, 40])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: int) -> None:
    """Appended after a torn line, the next result would have been lost with it."""
    path = tmp_path / "journal"
    whole = fill(path)
    path.write_bytes(whole[:-torn])
    with Journal(path) as journal:
        assert len(journal) == 4
        journal.append(result(4))
    assert path.read_bytes() == whole


def test_a_line_torn_inside_a_character_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = fill(path)
    path.write_bytes(whole[: whole.rindex("\U0001f642".encode()) + 2])
    with Journal(path) as journal:
        assert len(journal) == 4
        journal.append(result(4))
    assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_loses_itself_alone(tmp_path: Path) -> None:
    """It once took all that was written after it along."""
    path = tmp_path / "journal"
    lines = fill(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"key": "00\xff\n', b"[]\n", *lines[3:]]))
    with Journal(path) as journal:
        assert journal.unreadable == 2
        assert [f"{number:016x}" in journal for number in range(5)] == [True, True, False, True, True]
        assert journal.get(f"{4:016x}") == result(4)


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal"), pytest.raises(UserError, match="Another process"):
        Journal(tmp_path / "journal")
    Journal(tmp_path / "journal").close()


@pytest.mark.slow
def test_a_line_waits_for_others_and_not_for_long(tmp_path: Path) -> None:
    """A batch whose rows end together was once lost with a kill while the next one was written."""
    path = tmp_path / "journal"
    with Journal(path) as journal:
        for number in range(200):
            journal.append(result(number))
        assert path.read_bytes().count(b"\n") >= 128
        time.sleep(2.5)
        assert path.read_bytes().count(b"\n") == 200


def test_a_result_is_read_whole_while_others_are_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read while the timer was in the middle of a write, a line once ended early."""
    monkeypatch.setattr(journal_module, "_SECONDS", 0.005)
    with Journal(tmp_path / "journal") as journal:
        real = journal._file

        class Slow:
            def write(self, data: bytes) -> int:
                time.sleep(0.1)
                return real.write(data)

        monkeypatch.setattr(journal, "_file", Slow())
        journal.append(result(1))
        time.sleep(0.05)
        assert journal.get(f"{1:016x}") == result(1)
        monkeypatch.setattr(journal, "_file", real)


def test_an_index_finds_what_was_put_however_much_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_RECENT", 100)
    rng = random.Random(0)
    index, expected = journal_module._Index(), {}
    for _ in range(5000):
        key, value = rng.choice([rng.getrandbits(64), rng.getrandbits(8)]), rng.getrandbits(50)
        index.put(key, value)
        expected[key] = value
    assert len(index.keys) > 1000
    assert len(index) == len(expected)
    assert {key: index.get(key) for key in expected} == expected
    assert index.get(2**63 + 12345) is None
    assert journal_module._Index().get(1) is None


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """A file that may not grow further stops in the middle of a line, as a full disk does."""
    script = """
        import sys
        from pathlib import Path
        from rir_mlx.errors import Failure
        from rir_mlx.storage.journal import Journal, add_ranks_results, open_share
        journal = Journal(Path(sys.argv[1]))
        try:
            for number in range(10_000):
                journal.append({"key": f"{number:016x}", "reasoning": "because"})
        except Failure as failure:
            print(failure)
    """
    path = tmp_path / "journal"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_007, 10_007)),
    )
    assert "is kept" in done.stdout
    assert "same command again" in done.stdout
    assert path.stat().st_size == 10_007
    with Journal(path) as journal:
        whole = len(journal)
        assert 100 < whole < 10_000
        assert f"{whole - 1:016x}" in journal
    assert [json.loads(line)["key"] for line in path.open(encoding="utf-8")] == [
        f"{number:016x}" for number in range(whole)
    ]


def test_a_journal_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(UserError, match="journal cannot be written: Is a directory"):
        Journal(tmp_path / "journal")


def test_a_journal_is_on_disk_when_it_is_closed(tmp_path: Path) -> None:
    def stopped() -> None:
        with Journal(tmp_path / "journal") as journal:
            journal.append(result(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert json.loads((tmp_path / "journal").read_text(encoding="utf-8")) == result(1)
    assert os.listdir(tmp_path) == ["journal"]


def test_a_share_counts_what_was_there_before_and_is_added_once(tmp_path: Path) -> None:
    """Also after a kill in the middle of adding, and with a last line that a kill tore."""
    path, keys = tmp_path / "journal.jsonl", [f"{number:016x}" for number in range(6)]
    with Journal(path, lambda result: result["number"]) as journal:
        journal.append({"key": keys[0], "number": 3})
        journal.append({"key": keys[1], "number": 1})
    with open_share(path, 1, lambda result: result["number"]) as mine, open_share(path, 0) as first:
        assert [mine.flag_of(key) for key in keys[:3]] == [3, 1, None]
        mine.append({"key": keys[1], "number": 2})
        mine.append({"key": keys[2], "number": 0})
        first.append({"key": keys[3], "number": 0})
        found = [mine.get(key) for key in keys[:4]]
        numbers = [None if result is None else result["number"] for result in found]
        assert numbers == [3, 2, 0, None], "what others write meanwhile is theirs"
        assert shares_elsewhere(path, 2) == ""
        assert shares_elsewhere(path, 4).startswith("What the ranks 2, 3 wrote is not in"), "they see another folder"
    share = tmp_path / "journal.rank-1.jsonl"
    written = share.read_bytes()
    share.write_bytes(written + b'{"key": "00')
    for _ in range(2):
        with Journal(path) as journal:
            add_ranks_results(journal)
            assert [(journal.get(key) or {}).get("number") for key in keys[:5]] == [3, 2, 0, 0, None]
        assert not share.exists()
        share.write_bytes(written)  # a kill left it
