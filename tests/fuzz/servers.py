"""Answers of a server, mutated, through the engine and the job: each row is kept, rejected with a reason, or set aside
with what was said; and no thought is kept."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2

from fuzz.cases import Loss, Outcome
from fuzz.mutations import VALUES, mutated_bytes, mutated_text, mutated_value
from rir_mlx.augmentation.engines.address import Server
from rir_mlx.augmentation.engines.server import OpenAIEngine
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import AugmentationJob, AugmentationSettings, ResultFlags
from rir_mlx.backends.base import Sampling
from rir_mlx.data.rows import Row
from rir_mlx.errors import RirError
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import LabelQuestion
from rir_mlx.storage.journal import Journal

LABELS = ("joy", "fear")
_SECRET = "zzsecretzz"
_GOOD = "The writer laughs in the sun and dances all evening."
_THOUGHT = f"Hm, {_SECRET}. Let me see."
_WITH_THOUGHTS = (
    f"<think>{_THOUGHT}</think>{_GOOD}",
    f"{_THOUGHT}</think>\n\n{_GOOD}",
    f"<think>{_THOUGHT}",
    f"{_GOOD} <think>{_THOUGHT}</think> So it is.",
    f"<thinking>\n{_THOUGHT}\n</thinking>\n{_GOOD}",
    f"<|channel|>analysis<|message|>{_THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{_GOOD}<|return|>",
    f"analysis{_THOUGHT}assistantfinal{_GOOD}",
    f"[THINK]{_THOUGHT}[/THINK]{_GOOD}",
    f"◁think▷{_THOUGHT}◁/think▷{_GOOD}",
    f"<seed:think>{_THOUGHT}</seed:think>{_GOOD}",
)
_PLAIN = (
    *(_GOOD, f"{_GOOD}<|eot_id|>", f"```\n{_GOOD}\n```", json.dumps({"reasoning": _GOOD})),
    *("I'm sorry, but I can't help with that.", "", "word " * 40, "It is joy.\nLabel: joy", "fear"),
)
_ERRORS = (
    (400, {"error": {"message": "max_tokens is not supported, use max_completion_tokens"}}),
    (400, {"error": {"message": "this model's context is 512 tokens"}}),
    (422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
    (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
    (500, {"error": "CUDA out of memory"}),
    (200, {"error": {"message": "upstream failed", "code": 502}}),
    (200, {"choices": []}),
    (200, {"choices": [{"message": None, "finish_reason": "stop"}]}),
    (404, {"error": {"code": "model_not_found", "message": "no such model"}}),
)


class ServerAnswers:
    name = "server answers"

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def attempt(self, rng: random.Random, folder: Path) -> Outcome:
        rows = [Row(f"i dance all evening {number}", LABELS[number % 2], id=f"train:{number}") for number in range(6)]
        thinks_aloud = rng.random() < 0.3  # then nothing is mutated: what a thought is, is certain
        replies = [self._reply(rng, thinks_aloud=thinks_aloud) for _ in range(40)]
        transport = httpx2.MockTransport(lambda _: replies[rng.randrange(len(replies))])
        client = functools.partial(httpx2.AsyncClient, transport=transport)
        question = LabelQuestion(LABELS, "What does the writer feel?")
        server = Server("http://127.0.0.1:1/v1", "m", concurrency=3, timeout=5, retries=0, request_retries=0)
        flags = ResultFlags(ReasoningFilters(self.codec, LABELS, question.instruction, ()))
        with patch.object(httpx2, "AsyncClient", client), Journal(folder / "journal.jsonl", flags) as journal:
            engine = OpenAIEngine(server, self.codec, question, 320)
            settings = AugmentationSettings("", Sampling(24), 0, retries=rng.randrange(2))
            job = AugmentationJob(rows, settings, engine.identity(), flags, journal)
            try:
                job.write(engine, Silent())
            except RirError as error:
                if "127.0.0.1" not in str(error):
                    raise Loss(f"the error names no server: {error}") from error
                return "refused"
            outcomes = list(job.outcomes())
        for outcome in outcomes:
            if outcome.kept is None and not outcome.rejected:
                raise Loss(f"{outcome.row.id} has neither a reasoning nor a reason")
            if thinks_aloud and outcome.kept is not None and _SECRET in outcome.kept["reasoning"]:
                raise Loss(f"a thought is kept: {outcome.kept['reasoning']}")
        if [outcome.row.id for outcome in outcomes] != [row.id for row in rows]:
            raise Loss("rows are missing")
        lines = [json.loads(line) for line in (folder / "journal.jsonl").open(encoding="utf-8")]
        if any(line["rejected"] in ("refused", "failed") and not line[line["rejected"]] for line in lines):
            raise Loss("a row is set aside without what was said")
        return "read"

    def _reply(self, rng: random.Random, *, thinks_aloud: bool) -> httpx2.Response:
        if thinks_aloud:
            message: dict[str, Any] = {"content": rng.choice(_WITH_THOUGHTS)}
            if rng.random() < 0.2:
                message = {"content": rng.choice((None, "", " ")), "reasoning_content": _THOUGHT}
            return httpx2.Response(200, json={"choices": [{"message": message, "finish_reason": "stop"}]})
        if rng.random() < 0.3:
            status, body = rng.choice(_ERRORS)
        else:
            text = rng.choice((*_WITH_THOUGHTS, *_PLAIN, _GOOD, _GOOD))
            text = mutated_text(text, rng, ("<", ">", "|", "</think>", "<think>", "{", '"', "\0", "é")) or text
            reason = rng.choice(("stop", "stop", "length", "content_filter", None, "tool_calls"))
            status, body = 200, {"choices": [{"message": {"content": text}, "finish_reason": reason}]}
        body = mutated_value(body, rng) if rng.random() < 0.4 else body
        data = json.dumps(body).encode()
        data = mutated_bytes(data, rng) if rng.random() < 0.1 else data
        status = rng.choice((200, 201, 204, 302, 400, 403, 418, 502, 503)) if rng.random() < 0.05 else status
        headers = {"content-type": rng.choice(("application/json",) * 5 + ("text/html", "text/event-stream"))}
        if status == 429 and rng.random() < 0.5:
            headers |= {
                "retry-after-ms": str(rng.choice((*VALUES[3:6], "1", "-1", "soon"))).encode("ascii", "ignore").decode()
            }
        return httpx2.Response(status, headers=headers, content=data)
