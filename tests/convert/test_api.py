"""`from rir_convert import …`: what the package offers to programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import rir_convert
from commands import Run
from rir_convert import ExportOptions, export

from rir_mlx.errors import UserError


def test_every_public_name_can_be_imported_and_the_package_alone_imports_nothing_heavy() -> None:
    assert all(callable(getattr(rir_convert, name)) for name in rir_convert.__all__)
    code = "import sys, rir_convert\nassert not {'torch', 'mlx', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_is_exported_from_python_and_says_what_was_verified(exportable: Run, tmp_path: Path) -> None:
    done = export("runs/small", "qa", ExportOptions(to="hf", output=tmp_path / "out"))
    assert done.folder == tmp_path / "out"
    assert (done.folder / "model.safetensors").is_file()
    assert done.verification["passed"]
    assert done.verification["arm"] == "qa"


def test_an_output_that_is_a_file_is_refused_in_words(exportable: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; an export is a folder"):
        export("runs/small", "qa", ExportOptions(output=tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
