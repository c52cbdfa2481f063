"""Pauses that no test waits for, and no key from outside."""

from __future__ import annotations

import pytest

from rir_mlx.augmentation.engines import client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that no test waits for, and no key from outside."""
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(client, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(client, "_QUICK_PAUSE", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
