"""Requests per second and waiting times of `rir-mlx serve`, and of streams beside them.

    python -m benchmarks.serve runs/demo                 # some four minutes
    python -m benchmarks.serve runs/demo --seconds 30

"One by one" is the same server with `--together 1`. Clients and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx2
import numpy as np

from benchmarks.serve.clients import Timing, ask_for, client, decision, events, labels_of, server, some_texts

CLIENTS = (1, 8, 32)
TOGETHER = 32


async def asking(http: httpx2.AsyncClient, reason: str) -> Callable[[int], Awaitable[None]]:
    texts, labels = some_texts(), await labels_of(http)

    async def ask(number: int) -> None:
        response = await http.post("/v1/systemone", json=decision(texts[number % len(texts)], labels, reason))
        response.raise_for_status()

    return ask


async def load(address: str, reason: str, clients: int, seconds: float) -> Timing:
    async with client(address) as http:
        return await ask_for(seconds, clients, await asking(http, reason))


async def gaps(address: str, beside: int, seconds: float) -> list[float]:
    """Milliseconds between two pieces of a stream, while so many clients ask for labels."""
    found: list[float] = []
    async with client(address) as http:
        ask, texts = await asking(http, "never"), some_texts()
        busy = [asyncio.ensure_future(ask_for(seconds, 1, ask)) for _ in range(beside)]
        end, number = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            last = None
            async for name, _ in events(http, texts[number % len(texts)]):
                now = time.perf_counter()
                if name == "reasoning":
                    found += [] if last is None else [(now - last) * 1000]
                    last = now
            number += 1
        await asyncio.gather(*busy)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--arm", default="qra")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--together", type=int, nargs="+", default=[1, TOGETHER])
    given = parser.parse_args()
    chosen = ("--arm", given.arm, "--backend", given.backend)
    print("| reason | clients | together | requests/s | p50, ms | p99, ms | requests |\n|---|---|---|---|---|---|---|")
    for together in given.together:
        with server(given.run, *chosen, "--together", str(together), "--max-wait", "600") as served:
            for reason in ("never", "always"):
                for clients in CLIENTS:
                    timing = asyncio.run(load(served.address, reason, clients, given.seconds))
                    print(
                        f"| {reason} | {clients} | {together} | {timing.per_second:.1f} | {timing.percentile(50):.0f} "
                        f"| {timing.percentile(99):.0f} | {len(timing.waits):,} |",
                        flush=True,
                    )
            if together == TOGETHER:
                for beside in (0, *CLIENTS[1:]):
                    found = asyncio.run(gaps(served.address, beside, given.seconds))
                    p50, p99 = np.percentile(found, [50, 99])
                    print(f"pieces of a stream beside {beside} clients: {p50:.1f} ms (p99 {p99:.1f}), {len(found):,}")


if __name__ == "__main__":
    main()
