"""`from rir_convert import …`: what the package offers to programs."""

from __future__ import annotations

import subprocess
import sys

import rir_convert


def test_every_public_name_can_be_imported_and_the_package_alone_imports_nothing_heavy() -> None:
    assert all(callable(getattr(rir_convert, name)) for name in rir_convert.__all__)
    code = "import sys, rir_convert\nassert not {'torch', 'mlx', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
