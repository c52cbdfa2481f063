"""Many kinds of clients at once, for a long time: right answers, flat memory, no traceback.

    python -m benchmarks.serve.soak runs/demo --minutes 20

Requests of one to 64 texts with and without reasonings, streams, other questions, clients that hang up in the middle,
and bodies that are no JSON, too large, packed wrongly or without what is asked for. Every answer of the trained
classifier is compared with what the classifier says in this process, text by text.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.serve.clients import Served, client, decision, events, server, some_texts
from rir_mlx import RirClassifier
from rir_mlx.classification.scores import Prediction
from rir_mlx.classification.scoring import PredictOptions

CLIENTS = 12
TOLERANCE = 2e-4
"""Of a probability, and in a label's lead below which a tie counts: rounding depends on the rows of a batch."""
JSON = {"Content-Type": "application/json"}
BAD: list[tuple[str, bytes, dict[str, str], set[int]]] = [
    ("no JSON", b'{"texts": [', JSON, {400}),
    ("deep", b"[" * 100_000, JSON, {400}),
    ("no UTF-8", b'{"texts": ["\xff"]}', JSON, {400}),
    ("too large", b" " * 2_000_000, JSON, {413}),
    ("bomb", gzip.compress(b" " * 50_000_000), JSON | {"Content-Encoding": "gzip"}, {413}),
    ("no gzip", b"{}", JSON | {"Content-Encoding": "gzip"}, {400}),
    ("no text", b'{"texts": [""]}', JSON, {422}),
    ("form", b"texts=a", {"Content-Type": "application/x-www-form-urlencoded"}, {415}),
    ("other host", b"{}", JSON | {"Host": "evil.example"}, {403}),
    ("other site", b"{}", JSON | {"Origin": "http://evil.example"}, {403}),
]


@dataclass
class Soak:
    """What has been asked and answered so far."""

    http: httpx2.AsyncClient
    texts: list[str]
    labels: list[str]
    expected: dict[str, list[Prediction]]
    end: float
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    ties: int = 0

    def check(self, place: int, found: dict[str, Any], reason: str) -> None:
        """Compare the answer to a text with the classifier's own."""
        wanted = self.expected[reason][place]
        written = found.get("reasoning", found.get("reason"))
        if written != wanted.reasoning:
            self.ties += 1  # two tokens tied to within rounding, after which the text differs
            return
        worst = max(abs(found["probabilities"][label] - wanted.probabilities[label]) for label in self.labels)
        if worst > TOLERANCE:
            self.faults.append(f"{reason}: {self.texts[place]!r} off by {worst:.2g}")

    async def one(self, number: int) -> None:
        """A client that asks until the end, each time for something else."""
        rng = random.Random(number)
        kinds = [self.classify, self.decide, self.stream, self.ask_another, self.hang_up, self.send_nonsense]
        while time.monotonic() < self.end:
            kind = rng.choices(kinds, [4, 6, 2, 1, 1, 1])[0]
            try:
                await kind(rng)
            except Exception as error:
                self.faults.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            self.done[kind.__name__] += 1

    async def classify(self, rng: random.Random) -> None:
        reason = rng.choice(["never", "always", "auto"])
        places = [rng.randrange(len(self.texts)) for _ in range(rng.choice([1, 1, 2, 5, 16, 64]))]
        body = {"texts": [self.texts[place] for place in places], "reason": reason}
        response = await self.http.post("/classify", json=body)
        if response.status_code == 503:
            self.done["busy"] += 1
            return
        for place, found in zip(places, response.json()["predictions"], strict=True):
            self.check(place, found, reason)

    async def decide(self, rng: random.Random) -> None:
        place, reason = rng.randrange(len(self.texts)), rng.choice(["never", "never", "always", "auto"])
        response = await self.http.post("/v1/systemone", json=decision(self.texts[place], self.labels, reason))
        if response.status_code == 503:
            self.done["busy"] += 1
            return
        answer = response.json()["answers"]["label"]
        self.check(place, {"reason": None, **answer}, reason)

    async def stream(self, rng: random.Random) -> None:
        place, text, ended = rng.randrange(len(self.texts)), "", False
        async for name, data in events(self.http, self.texts[place]):
            text += data.get("text", "") if name == "reasoning" else ""
            if name == "prediction":
                self.check(place, data, "always")
                if data["reasoning"] != text:
                    self.faults.append(f"stream: {text!r} became {data['reasoning']!r}")
            ended = name in ("done", "error")
        if not ended:
            self.faults.append("stream: no end")

    async def ask_another(self, rng: random.Random) -> None:
        """Questions that the classifier was not trained for: some again and again, some new each time."""
        again = {"type": "noul", "instructions": f"Is it about number {rng.randrange(40)}?"}
        new = {"type": "choice", "criteria": {f"option {rng.random()}": "a " * rng.randrange(50), "other": None}}
        score = {"type": "score", "criteria": ["low", "middle", "high"]}
        body = {"state": rng.choice(self.texts), "questions": {"again": again, "new": new, "score": score}}
        response = await self.http.post("/v1/systemone", json=body | {"reason": rng.choice(["never", "always"])})
        if response.status_code == 503:
            self.done["busy"] += 1
        elif set(response.json()["answers"]) != {"again", "new", "score"}:
            self.faults.append(f"another: {response.status_code}")

    async def hang_up(self, rng: random.Random) -> None:
        """Leave while the answer is being made, or while the stream runs."""
        body = {"texts": rng.sample(self.texts, rng.choice([1, 20])), "stream": rng.random() < 0.5}
        try:
            async with self.http.stream("POST", "/classify", json=body, timeout=rng.uniform(0.005, 0.3)) as response:
                async for _ in response.aiter_bytes():
                    break
        except httpx2.TransportError:
            return

    async def send_nonsense(self, rng: random.Random) -> None:
        name, content, headers, wanted = rng.choice(BAD)
        response = await self.http.post("/classify", content=content, headers=headers)
        if response.status_code not in wanted or "error" not in response.json():
            self.faults.append(f"{name}: {response.status_code}")


async def soak(served: Served, classifier: RirClassifier, minutes: float) -> Soak:
    texts = some_texts()
    modes = ("never", "always", "auto")
    expected = {mode: classifier.classifier.predict(texts, PredictOptions(mode)) for mode in modes}
    async with client(served.address) as http:
        end = time.monotonic() + 60 * minutes
        state = Soak(http, texts, classifier.classifier.task.names, dict(expected), end)
        clients = [asyncio.ensure_future(state.one(number)) for number in range(CLIENTS)]
        begun, next_line = time.monotonic(), 0.0
        while not all(task.done() for task in clients):
            if (now := time.monotonic() - begun) >= next_line:
                print(f"{now / 60:5.1f} min  {served.memory:7.1f} MB  {json.dumps(state.done)}", flush=True)
                next_line = now + 60
            await asyncio.sleep(0.5)
        await asyncio.gather(*clients)
        await asyncio.sleep(2)
        health = (await http.get("/health")).json()
        if health["texts"]:
            state.faults.append(f"{health['texts']} texts are left over")
        print(f"at the end {served.memory:7.1f} MB  {json.dumps(state.done)}")
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--arm", default="qra")
    given = parser.parse_args()
    classifier = RirClassifier.load(given.run, arm=given.arm)
    with server(given.run, "--arm", given.arm, "--max-texts", "200") as served:
        state = asyncio.run(soak(served, classifier, given.minutes))
    printed = "".join(served.printed)
    print(printed)
    asked = sum(state.done.values()) - state.done["busy"]
    print(f"{asked:,} requests, {state.ties} ties, {len(state.faults)} faults")
    for fault in state.faults[:20]:
        print(fault)
    if state.faults or "Traceback" in printed or "error:" in printed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
