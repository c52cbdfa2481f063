"""`--offline` opens no socket, in any command; without a network, one error comes at once and names what is here."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from commands import Finished, Run

from rir_mlx import hub_access

HUB = "nobody/no-such-thing"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was looked up or connected to: each attempt is refused and noted. The hub's libraries are imported already
    and allowed to use a network, as in a notebook; the hub's cache is empty."""
    from huggingface_hub import constants

    found: list[str] = []

    def refuse(name: str) -> Any:
        def attempt(*arguments: Any, **_: Any) -> None:
            found.append(f"{name} {arguments}")
            raise OSError("a test forbids the network")

        return attempt

    monkeypatch.setattr(socket, "getaddrinfo", refuse("getaddrinfo"))
    monkeypatch.setattr(socket.socket, "connect", refuse("connect"))
    monkeypatch.setattr(socket.socket, "connect_ex", refuse("connect_ex"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub_access._answers.cache_clear()
    return found


def cache_model(tiny: Path, hub: Path) -> None:
    """Put a model into the hub's cache, as `hf download me/tiny` does."""
    folder = hub / "models--me--tiny"
    shutil.copytree(tiny, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT, encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    [
        *(["check", HUB], ["check", "small.yaml", "-s", f"model={HUB}"], ["run"], ["run", "small.yaml"]),
        *(["train-rgen", "small.yaml"], ["augment", "small.yaml"], ["train-classifier", "small.yaml"]),
        *(["evaluate", "runs/small"], ["classify", "i was sad"], ["export"]),
        ["run", "small.yaml", "-s", f"data.train={HUB}", "-s", "model=builtin:tiny-llama"],
        ["convert", "fuse", "out", "--model", HUB, "--adapter", "runs/small/classifier-qa/adapter"],
        ["export", "--push-to-hub", "me/mine"],
        ["demo", "-s", f"model={HUB}"],
    ],
    ids=" ".join,
)
def test_offline_opens_no_socket(rir: Run, finished: Finished, opened: list[str], command: list[str]) -> None:
    for written in ("small.yaml", "runs/small/recipe.yaml"):
        path = Path(written)
        lines = [f"model: {HUB}" if line.startswith("model:") else line for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = rir(*command, *(() if command[0] == "demo" else ("--offline",)))
    assert opened == []
    if command[0] == "check" and "model=" in command[-1]:
        assert (result.code, "Token lengths were not counted" in result.out) == (0, True), result.err
    else:
        assert result.code == 2, result.err
        assert "network" in result.err


@pytest.mark.slow
def test_offline_works_with_what_the_hubs_cache_holds(rir: Run, recipe: Path, opened: list[str], tiny: Path) -> None:
    cache_model(tiny, Path("hub"))
    for command in (["run", str(recipe)], ["check"], ["classify", "i was sad"]):
        result = rir(*command, "--offline", *(() if command[0] == "classify" else ("-s", "model=me/tiny")))
        assert (result.code, opened) == (0, []), result.err
    result = rir("evaluate", "runs/small", "--force", "-s", f"evaluate.encoder={HUB}", "--offline")
    assert (result.code, opened) == (2, []), result.err
    assert f"{HUB} is not on this machine, and offline nothing is fetched." in result.err


def test_a_hub_that_cannot_be_reached_is_one_error_that_names_what_is_here(
    rir: Run, recipe: Path, opened: list[str], tiny: Path
) -> None:
    """The library's own retries took 25 seconds and printed a line each."""
    cache_model(tiny, Path("hub"))
    result = rir("run", str(recipe), "-s", f"model={HUB}")
    assert opened, "the hub is asked"
    assert result.code == 2
    assert result.err.splitlines()[0] == f"error: {HUB} is not on this machine, and the hub cannot be reached."
    assert "On this machine: me/tiny, builtin:tiny-llama." in result.err
    assert len(result.err.splitlines()) == 2
    assert "the Hugging Face hub cannot be reached" in rir("check", HUB).err
    command = ("train-classifier", str(recipe), "--arm", "qa", "-s", "model=me/tiny")
    assert rir(*command).code == 0, "what is in the cache is enough"


def test_a_name_server_that_does_not_answer_is_waited_for_three_seconds(
    monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(hub_access, "_CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    started = time.monotonic()
    assert not hub_access.hub_answers()
    assert time.monotonic() - started < 2
    hub_access._answers.cache_clear()
