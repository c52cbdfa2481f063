"""The picture of the README: a run's terminal output beside its report. Run by hand; needs Chromium and Pillow.

COLUMNS=92 rir-mlx demo > demo.txt
python docs/picture.py demo.txt runs/demo/report.html docs/images/demo.png
"""

from __future__ import annotations

import html
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 26px; display: flex; gap: 26px; background: #e8ecef; align-items: flex-start }}
pre {{ margin: 0; padding: 18px 20px; background: #15191e; color: #d7dde3; border-radius: 9px; width: 790px;
  font: 13px/1.36 "DejaVu Sans Mono", monospace; white-space: pre-wrap; box-sizing: border-box }}
pre b {{ color: #7fd1b9 }}
img {{ width: 770px; border-radius: 9px; box-shadow: 0 1px 6px #0003 }}
</style><pre><b>$ rir-mlx demo</b>
{terminal}</pre><img src="{report}">"""


def shot(page: Path, picture: Path, width: int, height: int) -> None:
    """Photograph a page in a headless browser, in the light scheme."""
    size = f"--window-size={width},{height}"
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1", size]
    subprocess.run(["chromium", *flags, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)


def main(terminal: Path, report: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page, part, whole = (Path(folder) / name for name in ("page.html", "report.png", "whole.png"))
        shot(report.resolve(), part, 1000, 1010)
        text = html.escape(terminal.read_text(encoding="utf-8").strip("\n"))
        page.write_text(_PAGE.format(terminal=text, report=part.name), encoding="utf-8")
        shot(page, whole, 1638, 830)
        Image.open(whole).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main(*(Path(name) for name in sys.argv[1:4]))
