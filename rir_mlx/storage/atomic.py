"""Files and folders that appear whole or not at all: written to a temporary path, synced, and renamed."""

from __future__ import annotations

import errno
import filecmp
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from rir_mlx.errors import Failure, RirError, UserError
from rir_mlx.json_text import parse_json
from rir_mlx.storage.digests import plain_json
from rir_mlx.storage.locks import Lock, try_to_lock

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What a write to an open file can fail with. Such errors name no file."""


_Found = TypeVar("_Found")
_TRIES = 100
"""So often a temporary folder is made. On a file system whose inodes change, none is ever known again."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The errors of a disk that has no room."""
_AGAIN = "Make room and run the same command again; it continues."


def not_written(path: Path, error: OSError, then: str = "", again: str = _AGAIN) -> Failure:
    """The error for a write that failed: the file, and how much room its disk has if that is full. `then` says what
    became of the work before, `again` what to do once there is room."""
    why, full = error.strerror or str(error), error.errno in FULL
    if full:
        with suppress(OSError):
            there = next(place for place in path.absolute().parents if place.exists())
            why += f" ({shutil.disk_usage(there).free / 1e6:,.1f} MB are free)"
    return Failure(f"{path} could not be written: {why}.{then and f' {then}'}", hint=again if full else "")


def unwritable(path: Path, error: OSError, hint: str = "") -> RirError:
    """The error for a path that cannot be opened for writing: the user's mistake, unless the disk is full or broken."""
    if error.errno in _DISK_ERRORS - {errno.EROFS}:
        return not_written(path, error)
    return UserError(f"{path} cannot be written: {error.strerror}.", hint=hint)


def make_folder(folder: Path, hint: str = "Make it writable, or name another folder.") -> None:
    """Make a folder and its parents. Raises UserError with the hint if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise unwritable(folder, error, hint) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path`, a file or a folder, if the block ends without an error.

    Raises Failure if the file or folder cannot be written. Other errors of the block are raised as they are, an OSError
    about another file among them."""
    make_folder(path.parent)
    _delete_stale(path)
    with _temporary_folder(path) as temporary:
        try:
            yield temporary / path.name
        except OSError as error:
            if is_about(error, temporary):
                raise not_written(path, error) from error
            raise
        with failure_to_write(path):
            _sync(temporary / path.name)
            _rename(temporary / path.name, path, aside=temporary / "old")
            _sync_names(path.parent)


@contextmanager
def creating(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary paths of files of one folder that do not exist yet. All are written before the first gets its name, and
    none keeps its name if another one cannot get its own. What a call left that was killed between two names is
    completed: a file that is there already with the same bytes is one of them.

    Raises FileExistsError if another one exists by then, or all do, and Failure if one cannot be written."""
    folder = paths[0].parent
    _delete_stale(paths[0])
    with _temporary_folder(paths[0]) as temporary:
        written = [temporary / path.name for path in paths]
        try:
            yield written
        except OSError as error:
            if is_about(error, temporary):
                raise not_written(paths[0], error) from error
            raise
        pairs = list(zip(written, paths, strict=True))
        for file, path in pairs:
            with failure_to_write(path):
                _sync(file)
        named = [path.is_file() and filecmp.cmp(file, path, shallow=False) for file, path in pairs]
        _name_all([pair for pair, done in zip(pairs, named, strict=True) if not done or all(named)])
        with failure_to_write(folder):
            _sync_names(folder)


def _name_all(pairs: Sequence[tuple[Path, Path]]) -> None:
    named: list[Path] = []
    try:
        for file, path in pairs:
            _name(file, path)
            named.append(path)
    except BaseException as error:
        for path in named:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise not_written(pairs[len(named)][1], error) from error
        raise


def _name(file: Path, path: Path) -> None:
    """Give a file a name that none has. Raises FileExistsError if one has it."""
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            os.replace(file, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def replace_folder(new: Path, place: Path) -> None:
    """Rename the folder `new` to `place` on the same file system; delete what stood there only once `new` has its name.

    Raises Failure if it cannot be renamed; `place` is then as before."""
    with _temporary_folder(place) as temporary, failure_to_write(place):
        _rename(new, place, aside=temporary / "old")
        _sync_names(place.parent)
    _delete_stale(place)  # which may hold the folder before this one, moved aside


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, locked as long as its process needs it, and deleted in the end."""
    with failure_to_write(path):
        temporary, lock = _locked_folder(path)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.release()


def _locked_folder(path: Path) -> tuple[Path, Lock]:
    for _ in range(_TRIES):  # a process that looks for stale folders may lock it first, and delete it
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            lock = try_to_lock(temporary)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if lock is not None:
            return temporary, lock
        shutil.rmtree(temporary, ignore_errors=True)
    raise OSError(errno.ENOLCK, "no folder beside it can be locked")


def _delete_stale(path: Path) -> None:
    """Delete the temporary folders beside `path` that a killed process left."""
    _delete_unlocked(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))


def delete_all_stale(folder: Path) -> None:
    """Delete all temporary folders below `folder` that killed processes left, also of what is never written again."""
    _delete_unlocked(list(folder.rglob(".*.tmp")))


def _delete_unlocked(folders: Iterable[Path]) -> None:
    """Delete temporary folders. One that is in use is locked."""
    for folder in folders:
        with suppress(OSError):
            if (lock := try_to_lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


@contextmanager
def failure_to_write(path: Path) -> Iterator[None]:
    """Raises Failure, naming the path, for an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error) from error


def is_about(error: OSError, folder: Path) -> bool:
    """Whether an error comes from writing to `folder`: it names a file there, or the disk is full or broken."""
    if error.filename is None:
        return error.errno in _DISK_ERRORS
    names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    return any(Path(os.fsdecode(name)).is_relative_to(folder) for name in names)


def _rename(new: Path, path: Path, *, aside: Path) -> None:
    """Rename `new` to `path`. A folder cannot be renamed over another: the old one moves aside first, and back if the
    new one cannot be renamed."""
    if not path.is_dir():
        os.replace(new, path)
        return
    os.replace(path, aside)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(aside, path)
        raise


def _sync(path: Path) -> None:
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _sync_names(folder: Path) -> None:
    """Sync a folder: only then does a rename in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text file in UTF-8. `errors` says what becomes of halves of characters, as for `open`."""
    with _replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


@contextmanager
def _replacing_file(path: Path) -> Iterator[Path]:
    """`replacing`, but never a folder."""
    with failure_to_write(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with replacing(path) as temporary:
        yield temporary


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(plain_json(values), indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with _replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_json(path: Path, hint: str = "Delete it; the stage then runs again.") -> dict[str, Any]:
    """The object in a JSON file. Raises UserError with the hint if it cannot be read."""
    try:
        return _object(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", hint=hint) from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}.", hint=hint) from error


def read_jsonl(path: Path, hint: str = "Delete it; evaluating again writes it.") -> Iterator[dict[str, Any]]:
    """The objects in a file, one a line. Raises UserError with the hint and the line if one cannot be read."""
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                yield _object(line.decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", hint=hint) from error
    except ValueError as error:
        raise UserError(f"{path}, line {number}, cannot be read: {error}.", hint=hint) from error


def read_records(path: Path, convert: Callable[[dict[str, Any]], _Found], hint: str) -> Iterator[_Found]:
    """What `convert` makes of each object in a file. Raises as `read_jsonl`, also for an object that lacks a key or has
    a value of another type."""
    for number, record in enumerate(read_jsonl(path, hint), 1):
        try:
            found = convert(record)
        except KeyError as error:
            raise UserError(f"{path}, line {number}, cannot be read: it has no {error}.", hint=hint) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}, line {number}, cannot be read: {error}.", hint=hint) from error
        yield found


def _object(text: str) -> dict[str, Any]:
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}, not a JSON object")
    return values
