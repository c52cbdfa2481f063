"""A server in a process of its own, and what its clients ask."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

import rir_mlx

_TEXTS = Path(rir_mlx.__file__).parent / "embedded" / "feelings-test.csv"


def some_texts() -> list[str]:
    """The embedded test rows."""
    with _TEXTS.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@dataclass
class Served:
    """A running server: its process, its address, and what it printed."""

    process: subprocess.Popen[str]
    address: str
    printed: list[str] = field(default_factory=list)

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def server(run: str, *options: str) -> Iterator[Served]:
    """`rir-mlx serve RUN`, until the block ends; then it must have ended with 0."""
    command = [sys.executable, "-m", "rir_cli", "serve", run, "--port", "0", "--offline", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    printed: list[str] = []
    for line in process.stderr:
        printed.append(line)
        if found := re.search(r"at (http://\S+);", line):
            break
    else:
        raise SystemExit("".join(printed))
    served = Served(process, found[1], printed)
    reading = threading.Thread(target=lambda: printed.extend(process.stderr or ()), daemon=True)
    reading.start()
    try:
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(60)
        reading.join(10)
        if ended:
            raise SystemExit(f"The server ended with {ended}.\n{''.join(printed)}")


@asynccontextmanager
async def client(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx2.AsyncClient(base_url=address, limits=limits, timeout=120, verify=False) as http:
        yield http


async def labels_of(http: httpx2.AsyncClient) -> list[str]:
    answer = await http.post("/classify", json={"texts": ["x"], "reason": "never"})
    return list(answer.json()["predictions"][0]["probabilities"])


def decision(text: str, labels: list[str], reason: str) -> dict[str, Any]:
    question = {"type": "choice", "criteria": dict.fromkeys(labels)}
    return {"state": text, "questions": {"label": question}, "reason": reason}


@dataclass
class Timing:
    """What clients that ask without a pause got."""

    seconds: float
    waits: list[float]

    @property
    def per_second(self) -> float:
        return len(self.waits) / self.seconds

    def percentile(self, share: float) -> float:
        """In milliseconds."""
        return float(np.percentile(self.waits, share)) * 1000


async def ask_for(seconds: float, clients: int, ask: Callable[[int], Awaitable[None]]) -> Timing:
    """So many clients ask again and again, each without a pause, for that time; the first tenth is not counted."""
    waits: list[float] = []
    begun = time.perf_counter()
    first, end = begun + seconds / 10, begun + seconds

    async def one(number: int) -> None:
        count = number
        while (now := time.perf_counter()) < end:
            await ask(count)
            count += clients
            if now >= first:
                waits.append(time.perf_counter() - now)

    await asyncio.gather(*(one(number) for number in range(clients)))
    return Timing(time.perf_counter() - first, waits)


async def events(http: httpx2.AsyncClient, text: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The events of a stream, as they come."""
    name = ""
    async with http.stream("POST", "/classify", json={"texts": [text], "stream": True}) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))
