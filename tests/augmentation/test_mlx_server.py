"""R-Gen on a real mlx_lm.server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
from server_requests import QUESTION, engine_at, free_port, make_orders, write

from rir_mlx.augmentation.engines.base import ReasoningRequest
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec

READY_WITHIN = 120.0


@pytest.fixture(scope="module")
def mlx_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("mlx_lm") is None:
        pytest.skip("mlx_lm is not installed")
    home = tmp_path_factory.mktemp("hf")
    (home / "hub").mkdir()  # without the folder the server cannot list its models
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(tiny), "--port", str(port)]
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_WITHIN
        while not healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlx_lm.server is not ready: {(home / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
    except httpx2.TransportError:
        return False


def alone(url: str, model: str, order: ReasoningRequest, sampling: Sampling) -> dict[str, Any]:
    """What the server gives when nothing else runs."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION.prompt(order).message}],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": order.seed,
    }
    answer: dict[str, Any] = httpx2.post(f"{url}/chat/completions", json=body, timeout=60, trust_env=False).json()
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_mlx_server_gives_each_order_the_text_that_it_gives_it_alone(
    mlx_server: str, tiny: Path, codec: Codec, temperature: float
) -> None:
    sampling = Sampling(max_tokens=12, temperature=temperature)
    engine = engine_at(mlx_server, codec, model=None, concurrency=4)
    assert engine.identity() == {"engine": "openai", "model": str(tiny.resolve()), "server": mlx_server}
    orders = make_orders(12)
    written = write(engine, orders, sampling)
    for order in orders:
        answer = alone(mlx_server, engine.model, order, sampling)
        assert written[order.key].text == (answer["choices"][0]["message"]["content"] or "")
        assert written[order.key].tokens == answer["usage"]["completion_tokens"]
        assert written[order.key].finish_reason == answer["choices"][0]["finish_reason"]


@pytest.mark.slow
def test_the_seed_decides_what_mlx_server_draws(mlx_server: str) -> None:
    engine = engine_at(mlx_server, model=None)
    orders = [
        ReasoningRequest(f"k{seed}-{again}", "i feel", "joy", seed) for seed in (1, 2, 2**63 - 1) for again in range(2)
    ]
    written = write(engine, orders, Sampling(max_tokens=12, temperature=1.0))
    texts = [{written[f"k{seed}-{again}"].text for again in range(2)} for seed in (1, 2, 2**63 - 1)]
    assert [len(same) for same in texts] == [1, 1, 1]
    assert len(set.union(*texts)) == 3


@pytest.mark.slow
def test_mlx_server_names_its_models_where_ours_is_unknown(mlx_server: str, tiny: Path) -> None:
    with pytest.raises(UserError, match="has no model 'no-such/model'") as caught:
        write(engine_at(mlx_server, model="no-such/model"), make_orders(1))
    assert str(tiny.resolve()) in caught.value.hint
