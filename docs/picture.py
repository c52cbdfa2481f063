"""The picture of the README: the transcripts of docs/index.md as a terminal shows them. Run by hand after
`make docs-sessions`: `python docs/picture.py`. Needs Chromium and Pillow.

The picture says in a text field of its own which transcripts it shows; a test compares that with the page.
"""

from __future__ import annotations

import hashlib
import html
import re
import subprocess
import tempfile
from pathlib import Path

from sessions import steps_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "index.md"
PICTURE = ROOT / "docs" / "images" / "demo.png"
SHOWS = "Transcripts"
"""The text field of the picture that holds `digest`."""

_WIDTH, _TALLER_THAN_ANY = 820, 2400
_BACKGROUND = "#17191f"
_HTML = f"""<!doctype html><meta charset="utf-8"><style>
body {{{{ margin: 0; background: {_BACKGROUND} }}}}
pre {{{{ margin: 0; padding: 20px 26px; color: #e4e7eb; font: 15px/1.19 "DejaVu Sans Mono", monospace }}}}
b {{{{ color: #8bd88b }}}}
i {{{{ color: #72b4f5; font-style: normal }}}}
</style><pre>{{}}</pre>"""


def transcripts() -> list[tuple[str, ...]]:
    """The blocks of the page that begin with a command, in order."""
    return [step.block for step in steps_of(PAGE.read_text(encoding="utf-8")) if step.stream and step.command]


def digest(blocks: list[tuple[str, ...]]) -> str:
    """Of what the blocks say, without the seconds, which differ in every run."""
    text = "\n\n".join("\n".join(block) for block in blocks)
    return hashlib.sha256(re.sub(r" +\d+ s$", "", text, flags=re.MULTILINE).encode()).hexdigest()[:16]


def coloured(blocks: list[tuple[str, ...]]) -> str:
    """The blocks as HTML: commands bold, bars in a colour."""
    text = html.escape("\n\n".join("\n".join(block) for block in blocks))
    return re.sub("█+", r"<i>\g<0></i>", re.sub(r"^\$ .*$", r"<b>\g<0></b>", text, flags=re.MULTILINE))


def main() -> None:
    from PIL import Image, ImageChops
    from PIL.PngImagePlugin import PngInfo

    blocks = transcripts()
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        page.write_text(_HTML.format(coloured(blocks)), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={_WIDTH},{_TALLER_THAN_ANY}"]
        command = ["chromium", *flags, f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB")
    shown = ImageChops.difference(picture, Image.new("RGB", picture.size, _BACKGROUND)).getbbox()
    if shown is None or shown[3] >= _TALLER_THAN_ANY - 20:
        raise SystemExit("The picture is empty, or taller than its window.")
    facts = PngInfo()
    facts.add_text(SHOWS, digest(blocks))
    picture = picture.crop((0, 0, _WIDTH, shown[3] + 24)).quantize(64, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True, pnginfo=facts)


if __name__ == "__main__":
    main()
