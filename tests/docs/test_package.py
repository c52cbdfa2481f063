"""What is uploaded: the source archive, and the wheel that is built from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from pages import ROOT

_SMALL = (
    *(
        "data.max_samples=24",
        "data.val_size=12",
        "data.test_size=12",
        "reasoning.max_samples=16",
        "reasoning.val_size=4",
    ),
    *("rgen.epochs=null", "rgen.iters=1", "classifier.epochs=null", "classifier.iters=1", "classifier.arms=[qa,qra]"),
)

_RUN = """
import sys, rir_mlx, rir_cli.app
assert rir_mlx.__file__.startswith(sys.argv.pop(1)), rir_mlx.__file__
rir_cli.app.main()
"""


def _build(source: Path, kind: str, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(target.iterdir())


@pytest.mark.slow
def test_a_wheel_from_the_source_archive_runs_the_demo_from_another_folder(tmp_path: Path) -> None:
    """The wheel's files alone, without the checkout: recipes, embedded data and model, templates of report and card."""
    pytest.importorskip("hatchling")
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "runs", "site", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    with tarfile.open(_build(checkout, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = next(path for path in tmp_path.glob("rir_mlx-*") if path.is_dir())
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    with zipfile.ZipFile(_build(unpacked, "wheel", tmp_path / "wheel")) as wheel:
        wheel.extractall(installed)
    assert (installed / "rir_convert" / "cards" / "templates" / "card.md.j2").is_file()
    elsewhere.mkdir()
    overrides = [word for override in _SMALL for word in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(installed), "demo", "--set", "backend=fake", "--quiet", *overrides],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Label:" in done.stdout
    assert (elsewhere / "runs" / "demo" / "report.html").stat().st_size > 10_000
