"""Interrupts: the first signal is held back until the work in hand is kept, whatever stderr is."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest

from rir_mlx.interrupts import Interrupts, sigterm_as_ctrl_c


def send(*numbers: signal.Signals) -> int:
    """Send the signals to this process while interrupts are held back; how many were survived."""
    survived = 0
    with pytest.raises(KeyboardInterrupt), Interrupts(loud=True) as interrupts:  # noqa: PT012
        for number in numbers:
            os.kill(os.getpid(), number)
            assert interrupts.asked
            survived += 1
    return survived


def test_the_first_signal_is_held_back_and_the_second_stops(capfd: pytest.CaptureFixture[str]) -> None:
    assert send(signal.SIGINT, signal.SIGTERM) == 1
    assert "Stopping after this step; press Ctrl-C again to stop at once." in capfd.readouterr().err


def closed_file() -> io.TextIOWrapper:
    file = io.TextIOWrapper(io.BytesIO())
    file.close()
    return file


@pytest.mark.parametrize(
    "stderr", [None, io.StringIO(), object(), closed_file()], ids=["None", "no number", "no file", "closed"]
)
def test_a_signal_is_held_back_where_stderr_is_no_open_file(stderr: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's stderr has no file number, and pythonw's is None: the handler raised in the middle of a step."""
    monkeypatch.setattr(sys, "stderr", stderr)
    assert send(signal.SIGINT) == 1


def test_sigterm_ends_what_is_temporary_like_ctrl_c() -> None:
    """`kill` of a bench left random weights of gigabytes in the temporary folder."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
