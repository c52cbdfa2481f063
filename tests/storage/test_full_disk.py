"""A disk that is full at any write of any stage: one clear error, and the same command continues once there is room."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from commands import Finished, Result, Run

from rir_mlx.models.weight_files import save_tensors
from rir_mlx.storage import resumable_file

WRITES = "wax+"


class Disk:
    """Counts what is written below a folder; the `full_at`-th write and all after it find no room."""

    def __init__(self, folder: Path, full_at: int) -> None:
        self.folder, self.full_at, self.writes = folder, full_at, 0

    def holds(self, file: object) -> bool:
        return isinstance(file, (str, Path)) and Path(file).absolute().is_relative_to(self.folder)

    def write(self) -> None:
        self.writes += 1
        if self.writes >= self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class OnDisk:
    """An open file whose writes the disk counts."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> Any:
        self._disk.write()
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __enter__(self) -> OnDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def full_disk(folder: Path, full_at: int) -> Iterator[Disk]:
    """Every way in which files are written here: `open`, file descriptors, synchronising, and safetensors' own."""
    disk, open_file, sync, serialise = Disk(folder, full_at), io.open, os.fsync, safetensors.numpy.serialize_file

    def opened(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        found = open_file(file, mode, *rest, **more)
        return OnDisk(found, disk) if disk.holds(file) and set(mode) & set(WRITES) else found

    def synced(descriptor: int) -> None:
        disk.write()
        sync(descriptor)

    def serialised(tensors: Any, path: Any, *rest: Any, **more: Any) -> None:
        try:
            disk.write()
        except OSError as error:  # as the library says it
            what = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
            raise safetensors.SafetensorError(what) from None
        serialise(tensors, path, *rest, **more)

    class Descriptor(FileIO):
        def write(self, data: Any, /) -> int:
            disk.write()
            return super().write(data)

    with pytest.MonkeyPatch.context() as patch:
        for module in (io, builtins):
            patch.setattr(module, "open", opened)
        patch.setattr(os, "fsync", synced)
        patch.setattr(safetensors.numpy, "serialize_file", serialised)
        patch.setattr(resumable_file, "FileIO", Descriptor)
        yield disk


def artifacts(run: Path) -> dict[str, bytes]:
    """What a run ends with, without the journals, times and speeds, and wherever its folder is."""
    names = [*run.glob("*/adapter/*.safetensors"), *run.glob("augmented/*.jsonl"), *run.glob("evaluation/**/*.jsonl")]
    kept = (path for path in names if path.name not in ("journal.jsonl", "readings.jsonl"))
    folder = str(run.parents[1]).encode()  # rejected rows name their table
    return {str(path.relative_to(run)): path.read_bytes().replace(folder, b"") for path in kept}


def check_said(result: Result) -> None:
    """One error that names the file and the room, without a traceback or a riddle."""
    assert result.code == 1, result.err
    error = result.err[result.err.rindex("error: ") :]
    assert "No space left on device (" in error, result.err
    assert "MB are free)" in error
    assert "could not be written" in error
    assert "runs/small" in error or "out.csv" in error
    assert "RIR_DEBUG" not in error


def until_there_is_room(rir: Run, folder: Path, *command: str) -> int:
    """Run a command on a disk that is full at its 1st, 2nd, 4th, 8th … write, until it ends well. Returns how often it
    failed."""
    full_at, failures = 1, 0
    while True:
        with full_disk(folder, full_at) as disk:
            result = rir(*command)
        if disk.writes < full_at:
            assert result.code == 0, result.err
            return failures
        check_said(result)
        failures += 1
        full_at *= 2


@pytest.mark.slow
def test_a_full_disk_at_any_write_of_a_run_loses_no_row_and_no_weight(
    rir: Run, recipe: Path, tmp_path: Path, finished_once: Finished
) -> None:
    assert until_there_is_room(rir, tmp_path / "runs", "run", str(recipe), "-q") > 6
    whole = artifacts(finished_once.folder / "runs/small")
    assert len(whole) >= 10
    assert artifacts(tmp_path / "runs/small") == whole
    assert not list((tmp_path / "runs").rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_full_disk_in_a_real_training_is_one_error_and_loses_no_step(
    rir: Run, recipe: Path, tmp_path: Path, open_named: Callable[[str], object], backend: str
) -> None:
    """Of every write of every stage, `benchmarks/trouble/full_disk.py` says the same."""
    open_named(backend)
    short = ["-s", f"backend={backend}", "-s", "classifier={iters: 4, save_every: 2, batch_size: 4}", "-q"]
    command = ["train-classifier", str(recipe), "--arm", "qa", *short]
    for full_at in (9, 24):
        with full_disk(tmp_path / "runs", full_at) as disk:
            result = rir(*command)
        assert disk.writes >= full_at
        check_said(result)
    assert rir(*command).code == 0
    interrupted = artifacts(tmp_path / "runs/small")
    assert rir(*command, "--force").code == 0
    assert artifacts(tmp_path / "runs/small") == interrupted != {}


def test_a_full_disk_at_any_write_of_a_classified_file_loses_no_row(
    rir: Run, finished: Finished, tmp_path: Path
) -> None:
    command = ["classify", "--file", "rows.csv", "-q", "--output"]
    assert rir(*command, "whole.csv").code == 0
    assert until_there_is_room(rir, tmp_path, *command, "out.csv") > 3
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_what_a_full_disk_stopped_with_force_continues_without_it(rir: Run, finished: Finished, tmp_path: Path) -> None:
    """The same command was said to continue, and began anew: with --force it does."""
    command = ["classify", "--file", "rows.csv", "-q", "--output", "out.csv"]
    assert rir(*command).code == 0
    before = Path("out.csv").read_bytes()
    with full_disk(tmp_path, 6):
        stopped = rir(*command, "--force")
    check_said(stopped)
    assert stopped.err.endswith(
        "Make room and run the same command again; it continues.\n"
        "That is without --force: with it, the work begins anew.\n"
    )
    assert list(tmp_path.glob("*.partial*"))
    assert rir(*command).code == 0
    assert Path("out.csv").read_bytes() == before
    with full_disk(tmp_path, 1):
        assert "without --force" not in rir(*command[:-1], "other.csv").err


def test_weights_that_find_no_room_are_a_failed_write(tmp_path: Path) -> None:
    """The library's own error names no file and is no OSError: it came out as `SafetensorError`."""
    with full_disk(tmp_path, 1), pytest.raises(OSError, match="No space left") as raised:
        save_tensors({}, tmp_path / "a.safetensors", "np")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "a.safetensors"))
