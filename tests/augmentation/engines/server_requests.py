"""Requests to a stand-in server, and the engine that sends them."""

from __future__ import annotations

import socket
import threading
from typing import Any

from rir_mlx.augmentation.engines.address import Server
from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.engines.server import OpenAIEngine
from rir_mlx.backends.base import Sampling
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import LabelQuestion

QUESTION = LabelQuestion(("joy", "sadness"), "Which feeling?")
KEY = "sk-test-5e6f7a8b"
SHORT = Sampling(max_tokens=12)


def make_orders(count: int) -> list[ReasoningRequest]:
    return [
        ReasoningRequest(f"k{number}", f"text {number} i feel happy", "joy", seed=number) for number in range(count)
    ]


def engine_at(url: str, codec: Codec | None = None, max_seq_length: int = 400, **fields: Any) -> OpenAIEngine:
    return OpenAIEngine(Server(url, fields.pop("model", "tiny"), **fields), codec, QUESTION, max_seq_length)


def write(
    engine: OpenAIEngine, orders: list[ReasoningRequest], sampling: Sampling = SHORT
) -> dict[str, GeneratedReasoning]:
    written = list(engine.write(orders, sampling))
    assert sorted(result.key for result in written) == sorted(order.key for order in orders)
    return {result.key: result for result in written}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def threads() -> int:
    return sum(thread.name == "rir-mlx-openai" for thread in threading.enumerate())
