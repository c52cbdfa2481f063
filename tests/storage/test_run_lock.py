"""Two processes and one run: the second is refused in words, and neither touches what the other is writing."""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Run
from processes import start_code

from rir_mlx.errors import UserError
from rir_mlx.storage import atomic
from rir_mlx.storage.atomic import write_text
from rir_mlx.storage.locks import Lock
from rir_mlx.storage.run_lock import RunLock

Start = Callable[[str], "Started"]
PATIENCE = 60


class Started:
    """A program that has come to where it prints `ready`, and waits there until it is let go on."""

    def __init__(self, folder: Path, code: str) -> None:
        self._process = start_code(folder, textwrap.dedent(code))
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        self._process.wait_for("ready\n", PATIENCE)

    def go_on(self) -> int:
        """Its exit code."""
        self._process.send_signal(signal.SIGUSR1)
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a Python program; it ends with the test."""
    started: list[Started] = []

    def begin(code: str) -> Started:
        started.append(Started(tmp_path_factory.getbasetemp(), code))
        started[-1].wait_until_ready()
        return started[-1]

    yield begin
    for program in started:
        program.kill()


WAIT = """
    import signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
    def wait():
        print("ready", flush=True)
        signal.sigwait({{signal.SIGUSR1}})
"""
HOLD = (
    WAIT
    + """
    from pathlib import Path
    from rir_mlx.storage.run_lock import RunLock
    with RunLock(Path({folder!r}), "rir-mlx run mine"):
        wait()
"""
)


def test_a_second_process_is_refused_and_the_error_names_the_first(tmp_path: Path, start: Start) -> None:
    folder = tmp_path / "run"
    first = start(HOLD.format(folder=str(folder)))
    with pytest.raises(UserError, match=rf"`rir-mlx run mine`, process {first.pid} on .*, since 20") as raised:
        RunLock(folder).begin()
    assert "classify" in raised.value.hint
    assert first.go_on() == 0
    with RunLock(folder), pytest.raises(UserError, match="Another process is writing"):
        RunLock(folder).begin()
    assert not (folder / ".lock.json").exists()


def test_the_lock_of_a_killed_process_is_stale(tmp_path: Path, start: Start) -> None:
    """What it leaves, its note too, locks nobody out."""
    first = start(HOLD.format(folder=str(tmp_path)))
    first.kill()
    assert (tmp_path / ".lock.json").is_file()
    with RunLock(tmp_path) as lock, lock:  # which may be entered twice
        assert str(os.getpid()) in (tmp_path / ".lock.json").read_text()
    with RunLock(tmp_path):
        pass


def test_work_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "runs" / "mine")
    lock.begin()
    lock.end()
    assert not (tmp_path / "runs").exists()
    lock.begin()
    lock.lock()
    with pytest.raises(UserError, match="Another process"):
        RunLock(lock.folder).begin()
    lock.end()
    with RunLock(lock.folder):
        pass
    lock.lock()  # nothing was begun: nothing is locked for ever
    with RunLock(lock.folder):
        pass


def test_a_note_that_cannot_be_read_is_left_out(tmp_path: Path, start: Start) -> None:
    start(HOLD.format(folder=str(tmp_path)))
    for note in ("", "[]", '{"process": 1}'):
        (tmp_path / ".lock.json").write_text(note)
        with pytest.raises(UserError, match=rf"is writing {tmp_path}\."):
            RunLock(tmp_path).begin()


@pytest.mark.parametrize(
    "command", [["run"], ["train-rgen"], ["augment"], ["train-classifier", "--arm", "qa"], ["evaluate"]]
)
def test_every_stage_refuses_a_run_that_another_process_writes(
    rir: Run, recipe: Path, start: Start, command: list[str]
) -> None:
    start(HOLD.format(folder=str(Path("runs/small").absolute())))
    result = rir(*command, str(recipe), "-q")
    assert result.code == 2
    assert "Another process is writing runs/small (`rir-mlx run mine`, process" in result.err
    assert not Path("runs/small/recipe.yaml").exists()


def test_classify_reads_a_run_that_is_being_written(rir: Run, recipe: Path, start: Start) -> None:
    assert rir("train-classifier", str(recipe), "--arm", "qa", "-q").code == 0
    start(HOLD.format(folder=str(Path("runs/small").absolute())))
    assert rir("classify", "i feel happy today", "--run", "runs/small", "-q").code == 0
    assert rir("check", "runs/small", "-q").code == 0


WRITE = (
    WAIT
    + """
    from pathlib import Path
    from rir_mlx.storage.atomic import replacing
    with replacing(Path({path!r})) as temporary:
        temporary.write_text("first")
        wait()
"""
)


def test_a_live_process_keeps_its_temporary_folder(tmp_path: Path, start: Start) -> None:
    """A second process that wrote the same file took it for that of a killed one, and deleted it."""
    path = tmp_path / "file.json"
    first = start(WRITE.format(path=str(path)))
    write_text(path, "second")
    assert path.read_text() == "second"
    assert first.go_on() == 0
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_of_a_killed_process_is_deleted(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "[1] file*.json"
    first = start(WRITE.format(path=str(path)))
    first.kill()
    assert len(list(tmp_path.iterdir())) == 1
    write_text(path, "second")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_deleted_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = atomic.try_to_lock, []

    def deleted_first(folder: Path) -> Lock | None:
        calls.append(folder)
        if len(calls) == 1:
            folder.rmdir()
        return real(folder)

    monkeypatch.setattr(atomic, "try_to_lock", deleted_first)
    write_text(tmp_path / "file", "text")
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
