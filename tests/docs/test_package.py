"""What is uploaded: the source archive, and the wheel that is built from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from pages import ROOT


def _build(source: Path, kind: str, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(target.iterdir())


@pytest.mark.slow
def test_a_wheel_from_the_source_archive_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """Recipes, embedded data and model, templates of report and card. `make package-test` also installs it into an
    empty environment, and runs the demo from another folder."""
    pytest.importorskip("hatchling")
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "runs", "site", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    with tarfile.open(_build(checkout, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = next(path for path in tmp_path.glob("rir_mlx-*") if path.is_dir())
    with zipfile.ZipFile(_build(unpacked, "wheel", tmp_path / "wheel")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {f"rir_mlx/recipes/{path.name}" for path in (checkout / "recipes").glob("*.yaml")}
    for package in ("rir_mlx", "cli/rir_cli", "convert/rir_convert"):
        folder = checkout / package
        expected |= {str(path.relative_to(folder.parent)) for path in folder.rglob("*") if path.is_file()}
    assert names == expected
    assert "rir_convert/cards/templates/card.md.j2" in names
