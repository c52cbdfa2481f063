"""Tiny models in the hub's format, and the backends that a test is run on."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny import make_tiny_llama

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Backend
from rir_mlx.models import ModelFiles, resolve_model
from rir_mlx.tokens import Codec

DATE = "26 Jul 2024"
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "untied", tied=False)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model: no chat template, and one end-of-text token."""
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "plain", chat=False)


@pytest.fixture(scope="session")
def tiny_files(tiny: Path) -> ModelFiles:
    return resolve_model(str(tiny))


@pytest.fixture(scope="session")
def codec(tiny: Path) -> Codec:
    return Codec(tiny, DATE)


@pytest.fixture(scope="session")
def plain_codec(plain: Path) -> Codec:
    return Codec(plain, DATE)
