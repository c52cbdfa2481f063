"""A table in, the same table with labels out: as `rir-mlx classify --file` does it, told in events."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from rir_mlx.classification.files import ClassifyFileOptions, classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import Failure
from rir_mlx.prompting.prompts import answers_twice
from rir_mlx.serving.http import event, response_to
from rir_mlx.serving.jobs import Busy, Item, Job
from rir_mlx.serving.workbench.arms import Loaded
from rir_mlx.statistics.calibration import abstains
from rir_mlx.storage.atomic import FULL, not_written
from rir_mlx.types import Arm, ReasonMode

TABLE_BYTES = 32 << 20
_PIECE = 1 << 16
_SHOWN, _CUT = 50, 500
_AHEAD = 64
"""Events that wait for the client."""
_LOOK = 0.5
"""Seconds between two checks that the client is still there."""
_PATIENCE = 600.0
"""Seconds for which a table waits for a worker that takes none of its rows."""
_NAME_BYTES = 120
_AGAIN = "Make room, and send the table again."


class TableRequest(BaseModel):
    """What the address of a request says about the table in its body."""

    name: str = Field(min_length=1, max_length=255)
    reason: ReasonMode = "always"
    arm: Arm | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    text_column: str | None = Field(default=None, max_length=255)

    @property
    def file(self) -> str:
        """The name without what is no part of a file's name, short enough for any file system."""
        name = re.sub(r"[^\w.-]+", "_", Path(self.name).name).encode()[-_NAME_BYTES:].decode(errors="ignore")
        return name.lstrip(".") or "table"


class _Gone(Exception):
    """Nobody waits for the table any more."""


class TableJob:
    """One table on a thread of its own, whose rows go through the worker beside those of other requests.

    It is its own progress: the events are `note` with what is said about the file, `progress` with rows done, `rows`
    with the first predictions, `table` with a piece of the new table each, and `done` or `error`."""

    def __init__(self, asked: TableRequest, body: bytes, loaded: Loaded) -> None:
        self.asked, self.body, self.loaded = asked, body, loaded
        self.gone = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._shown = self._pieces = 0
        self._folder = ""
        self._threshold = asked.threshold
        if asked.threshold is None:
            self._threshold = loaded.served.threshold(asked.reason)
        self._done, self._total = 0.0, 0.0

    def start(self, ended: Callable[[], None]) -> None:
        """Begin to work. `ended` is called when its thread ends."""

        def run() -> None:
            try:
                self._run()
            finally:
                ended()
                self._put(None)

        threading.Thread(target=run, name="rir-mlx-table", daemon=True).start()

    async def stream(self) -> AsyncIterator[bytes]:
        """The events of the job, once it has begun. Who stops reading them ends it."""
        try:
            while (data := await self._events.get()) is not None:
                yield data
        finally:
            self.gone.set()

    def _put(self, data: bytes | None) -> None:
        with suppress(RuntimeError):  # the server has been stopped at once
            self._loop.call_soon_threadsafe(self._events.put_nowait, data)

    def _tell(self, kind: str, **values: Any) -> None:
        self._put(event(kind, values))

    def _run(self) -> None:
        try:
            with _temporary_folder() as folder:
                self._folder = str(folder)
                self._classify(folder)
        except _Gone:
            return
        except Exception as error:
            answer = json.loads(bytes(response_to(error).body))
            answer["error"]["message"] = self._scrubbed(answer["error"]["message"])
            self._tell("error", **answer)

    def _scrubbed(self, text: str) -> str:
        """The text without the folder of this machine where the table lies meanwhile."""
        return text.replace(f"{self._folder}/", "")

    def _classify(self, folder: Path) -> None:
        source = folder / self.asked.file
        with _to_disk(source):
            source.write_bytes(self.body)
        suffix = source.suffix.lower()
        target = folder / f"{source.stem}-classified{suffix if suffix in ('.csv', '.tsv') else '.jsonl'}"
        limits = self.loaded.worker.limits
        options = ClassifyFileOptions(
            text_column=self.asked.text_column or None,
            threshold=self._threshold,
            chunk=min(limits.together, limits.rows),
            firsts=answers_twice(self.loaded.served.arm),
            several=bool(self.loaded.served.single),
        )
        with _to_disk(target):
            result = classify_file(source, target, self._predict, options, self)
        with target.open(encoding="utf-8", newline="") as file:
            while piece := file.read(_PIECE):
                self._tell("table", text=piece)
                self._pieces += 1
                while self._events.qsize() > _AHEAD:  # of a client that reads slowly
                    if self.gone.wait(0.05):
                        raise _Gone
        counts = {name: getattr(result, name) for name in ("rows", "classified", "abstained", "trimmed", "unfit")}
        without = dict(result.without_text)
        self._tell("done", name=target.name, pieces=self._pieces, **counts, without_text=without)

    def _predict(self, texts: Sequence[str]) -> Sequence[Prediction]:
        """Predictions of a few texts; waits while the worker is busy. Raises _Gone once nobody waits, and Busy if the
        worker takes no rows for minutes."""
        until = time.monotonic() + _PATIENCE
        while True:
            if self.gone.is_set():
                raise _Gone
            job = Job([Item(text, self.asked.reason) for text in texts])
            try:
                self.loaded.worker.submit(job)
                predictions = self._wait(job)
                break
            except Busy as busy:
                if time.monotonic() > until:
                    raise
                if self.gone.wait(min(busy.retry_after, 5)):
                    raise _Gone from None
        self._show(texts, predictions)
        return predictions

    def _wait(self, job: Job) -> list[Prediction]:
        while True:
            try:
                return job.result(_LOOK)
            except TimeoutError:
                if self.gone.is_set():
                    job.gone = True
                    raise _Gone from None

    def _show(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> None:
        """Tell the first predictions: the page draws them while the others are made."""
        first = list(zip(texts, predictions, strict=True))[: _SHOWN - self._shown]
        self._shown += len(first)
        if first:
            rows = [
                {
                    "text": text[:_CUT],
                    "labels": list(it.labels) or [it.label],
                    "probability": it.probability,
                    "abstained": abstains(it.probability, self._threshold),
                    "reasoning": it.reasoning,
                }
                for text, it in first
            ]
            self._tell("rows", rows=rows)

    # what classify_file reports

    def say(self, text: str) -> None:
        self._tell("note", text=self._scrubbed(text))

    def warn(self, text: str) -> None:
        self._tell("note", text=self._scrubbed(text))

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[TableJob]:
        self._done, self._total = done, total
        yield self

    def advance(self, amount: float = 1, **fields: float) -> None:
        self._done += amount
        self._tell("progress", done=self._done, rows=self._total)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for a table meanwhile. Raises Failure if it cannot be made."""
    with _to_disk(Path("a temporary folder")):
        made = tempfile.mkdtemp(prefix="rir-mlx-")
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _to_disk(path: Path) -> Iterator[None]:
    """Raises Failure if the block cannot write. What `classify_file` raises says to run a command again."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error, again=_AGAIN) from error
    except Failure as failure:
        if FULL & {getattr(cause, "errno", None) for cause in _causes(failure)}:
            raise Failure(failure.what, hint=_AGAIN) from failure
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


class TablesAtOnce:
    """How many tables are worked on at once."""

    def __init__(self, most: int = 2) -> None:
        self._free, self._lock = most, threading.Lock()

    def take(self) -> None:
        """Raises Busy if there are too many."""
        with self._lock:
            if not self._free:
                raise Busy(10)
            self._free -= 1

    def leave(self) -> None:
        with self._lock:
            self._free += 1
