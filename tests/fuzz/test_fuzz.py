"""A few hundred cases of what `make fuzz` runs ten thousand of."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.__main__ import every_kind
from fuzz.cases import Finding, Loss, Outcome, fuzz
from rir_mlx.prompting.codec import Codec


@pytest.mark.slow
def test_no_mutated_input_ends_in_a_traceback_or_a_loss(codec: Codec, tmp_path: Path) -> None:
    tallies = fuzz(every_kind(codec), range(300), seed=1, folder=tmp_path)
    assert [finding for tally in tallies.values() for finding in tally.findings] == []
    for name, tally in tallies.items():
        assert tally.cases == 50, name
        assert tally.read, name
        assert tally.refused, name


def test_a_traceback_and_a_loss_are_findings_whose_inputs_are_kept(tmp_path: Path) -> None:
    class Broken:
        name = "broken"

        def attempt(self, rng: object, folder: Path) -> Outcome:
            (folder / "input").write_text("x")
            number = int(folder.name.rpartition("-")[2])
            if number == 1:
                raise Loss("a row")
            if number == 2:
                raise KeyError("x")
            return "read"

    tally = fuzz([Broken()], range(4), seed=0, folder=tmp_path)["broken"]
    assert (tally.cases, tally.read, tally.refused) == (4, 2, 0)
    first, second = tally.findings
    assert first == Finding("broken", 1, "loss: a row")
    assert "KeyError" in second.what
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken-1", "broken-2"]
    assert fuzz([Broken()], range(4), seed=0, folder=tmp_path / "late", seconds=-1)["broken"].cases == 0
    with pytest.raises(FileExistsError):
        fuzz([Broken()], range(1, 2), seed=0, folder=tmp_path)
