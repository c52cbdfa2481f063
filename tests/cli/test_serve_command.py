"""`rir-mlx serve`: what it says, whom it lets in, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest
from commands import LABELS, Run
from processes import Running, start_command

from rir_mlx.serving import server

pytest.importorskip("uvicorn")


def address_of(process: Running) -> str:
    """Where it serves, once it does."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := re.search(r"at (http://\S+);", process.err()):
            return found[1]
        assert process.poll() is None, process.err()
        time.sleep(0.05)
    raise AssertionError(process.err())


@pytest.mark.slow
def test_a_run_is_served_until_ctrl_c_and_its_texts_are_nowhere_in_the_output(evaluated_run: Path) -> None:
    process = start_command(evaluated_run.parents[1], "serve", "runs/small", "--port", "0", "--offline", "--log")
    address = address_of(process)
    question = {"type": "choice", "criteria": dict.fromkeys(LABELS)}
    body = {"state": "i was secretly sad", "questions": {"feeling": question}, "reason": "always"}
    answer = httpx2.post(f"{address}/v1/systemone", json=body, timeout=30).json()["answers"]["feeling"]
    assert answer["choice"] in LABELS
    assert answer["reason"]
    assert answer["calibrated"] is True
    assert httpx2.post(f"{address}/v1/systemone", json={"state": "secretly"}).status_code == 422
    assert [arm["name"] for arm in httpx2.get(f"{address}/run").json()["arms"][1:]].count("qa") == 1
    other = httpx2.post(f"{address}/classify", json={"texts": ["secretly"], "arm": "qa"}, timeout=60).json()
    assert other["predictions"][0]["reasoning"] is None
    review = httpx2.get(f"{address}/review", timeout=60).json()
    assert review["parts"] == {"train": 42, "validation": 24, "test": 24}
    assert not review["changed"]
    rows = httpx2.get(f"{address}/review/rows", params={"limit": 200}, timeout=60).json()["rows"]
    assert {row["part"] for row in rows if row["predicted"]} == {"validation", "test"}
    assert sum(row["predicted"] is not None for row in rows) == 48
    assert httpx2.get(f"{address}/threshold", timeout=60).json()["rows"] == 24
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert re.search(r"POST /v1/systemone 200 \d+ ms", process.err())
    assert "secretly" not in process.out() + process.err()
    assert "Traceback" not in process.err()


def test_others_may_not_use_it_without_a_key(rir: Run, evaluated_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = rir("serve", "--host", "0.0.0.0")
    assert open_to_all.code == 2
    assert "needs a key" in open_to_all.err
    assert "RIR_MLX_API_KEY" in open_to_all.err
    monkeypatch.setenv("RIR_MLX_API_KEY", "short")
    short = rir("serve")
    assert short.code == 2
    assert "16 ASCII characters" in short.err


def test_an_address_that_is_taken_or_unknown_is_the_user_s_mistake(rir: Run, evaluated_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = rir("serve", str(evaluated_run), "--port", port)
    assert result.code == 2
    assert f"127.0.0.1:{port} cannot be served at" in result.err
    assert "--port 0" in result.err


def test_without_the_extra_its_name_is_said(rir: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    result = rir("serve")
    assert result.code == 2
    assert "starlette and uvicorn" in result.err
    assert "[serve]" in result.err


def test_a_run_without_a_classifier_is_the_user_s_mistake(rir: Run) -> None:
    result = rir("serve", "runs/none", "--offline")
    assert result.code == 2
    assert "holds no trained classifier" in result.err
