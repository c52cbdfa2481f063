"""Tiny models in the hub's format, and the backends that a test is run on."""

from __future__ import annotations

import gc
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import processes
import pytest
from commands import Finished, Result, Run, command, ready_commands, write_recipe
from evaluated_run import make_evaluated_run
from tiny import make_tiny_llama

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Backend
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.prompting.codec import Codec

os.environ["MLX_ENABLE_TF32"] = "0"  # read when MLX first multiplies; on some GPUs float32 has 10 bits else
DATE = "26 Jul 2024"
_WHOLE_RUNS = {"evaluated_once", "finished_once"}
"""Fixtures that a run of every stage is made for."""
_NEEDS = {"mlx": ("mlx_lm",), "torch": ("torch", "peft"), "fake": ()}


def _open(name: str) -> Backend:
    for module in _NEEDS[name]:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    backend = open_backend(name)
    if name == "torch":
        import torch

        torch.set_num_threads(1)
    return backend


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        processes.prepare()
        workers = getattr(config.option, "tx", None) or []
        if workers and set(workers) == {"popen"}:
            config.option.tx = [f"popen//python={shlex.join(processes.interpreter())}" for _ in workers]


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        processes.close_server()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test on a real framework is slow, for importing one takes several seconds, and so is one of a whole run. What
    is heavy is slow."""
    for item in items:
        given = getattr(item, "callspec", None)
        names = {value for value in given.params.values() if isinstance(value, str)} if given is not None else set()
        whole = _WHOLE_RUNS & set(getattr(item, "fixturenames", ()))
        if whole or {"mlx", "torch"} & names or item.get_closest_marker("heavy"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["mlx", "torch", "fake"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend, for claims that hold without a transformer as well."""
    return _open(request.param)


@pytest.fixture(params=["mlx", "torch"])
def framework(request: pytest.FixtureRequest) -> Backend:
    """The backends that run a real model."""
    return _open(request.param)


@pytest.fixture
def open_named() -> Callable[[str], Backend]:
    """A backend by name, for a test that needs two; skips the test where it is not installed."""
    return _open


def _model(name: str, **shape: Any) -> Path:
    """A tiny model, at the same place for every worker: what a run writes names its folder."""
    return processes.made_once("models-" + name, lambda folder: make_tiny_llama(folder / name, **shape)) / name


@pytest.fixture(scope="session")
def tiny() -> Path:
    return _model("tiny")


@pytest.fixture(scope="session")
def other() -> Path:
    """The same architecture with other weights."""
    return _model("other", seed=1)


@pytest.fixture(scope="session")
def untied() -> Path:
    return _model("untied", tied=False)


@pytest.fixture(scope="session")
def plain() -> Path:
    """A base model: no chat template, and one end-of-text token."""
    return _model("plain", chat=False)


@pytest.fixture(scope="session")
def tiny_files(tiny: Path) -> ModelFiles:
    return resolve_model(str(tiny))


@pytest.fixture(scope="session")
def codec(tiny: Path) -> Codec:
    return Codec(tiny, DATE)


@pytest.fixture(scope="session")
def plain_codec(plain: Path) -> Codec:
    return Codec(plain, DATE)


@pytest.fixture(scope="module", autouse=True)
def _modules_are_not_garbage() -> None:
    """Each model that is loaded collects garbage before. What a file's tests find imported, a million objects, need not
    be gone through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def warm_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.warm_card_programs(monkeypatch)


@pytest.fixture
def rir(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `rir-mlx` in an empty folder, in this process."""
    from rir_cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RIR_DEBUG", raising=False)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        monkeypatch.setattr(sys, "argv", ["rir-mlx", *arguments])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with ready_commands(), pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def recipe(tmp_path: Path, tiny: Path) -> Path:
    """A recipe on the fake backend with rows and triples of its own."""
    return write_recipe(tmp_path, tiny)


@pytest.fixture(scope="session")
def finished_once(tiny: Path) -> Finished:
    def finish(folder: Path) -> None:
        result = command(folder, "run", str(write_recipe(folder, tiny)))
        (folder / "result.json").write_text(json.dumps(astuple(result)), encoding="utf-8")

    folder = processes.made_once("finished", finish)
    return Finished(folder, Result(*json.loads((folder / "result.json").read_text(encoding="utf-8"))))


@pytest.fixture
def finished(rir: Run, tmp_path: Path, finished_once: Finished) -> Finished:
    """A run of every stage of that recipe, to be changed, in the folder that `rir` runs in."""
    shutil.copytree(finished_once.folder, tmp_path, dirs_exist_ok=True)
    return Finished(tmp_path, finished_once.result)


@pytest.fixture(scope="session")
def evaluated_once(tiny: Path) -> Path:
    return processes.made_once("evaluated", lambda folder: make_evaluated_run(folder, tiny))


@pytest.fixture
def evaluated_run(evaluated_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an evaluated run with every arm and two seeds: a copy, `runs/small` in the working folder."""
    shutil.copytree(evaluated_once, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy/runs/small"
