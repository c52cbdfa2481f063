"""The notebook of the documentation runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path

import processes
import pytest
from pages import ROOT

NOTEBOOK = ROOT / "docs/notebooks/fit.ipynb"


def test_the_notebook_holds_no_outputs_that_could_be_out_of_date() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_on_the_embedded_model(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    asked = "\nprint('classes', plain.classes_.tolist(), 'same', bool(same), 'why', answer.reasoning)"
    running = processes.start_code(tmp_path, code + asked, HF_HUB_OFFLINE="1")
    out, err = running.communicate(timeout=500)
    assert running.returncode == 0, err
    assert "classes ['anger', 'fear', 'joy', 'sadness'] same True why" in out
    assert "RirClassifier(arm='qa'" in out
    assert list(tmp_path.iterdir()) == [], "nothing is left in the working folder"
