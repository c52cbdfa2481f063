"""The transcripts of the pages come from real runs, by docs/sessions.py."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import picture
import pytest
import sessions
from pages import ROOT

PAGE = """# A page

<!-- session: file words.py -->
```python
print("one\\ntwo\\nthree\\nfour")
```

<!-- session: stdout, first 1, last 1 -->
```console
$ python words.py
old
```

Some words, and more of the same command:

<!-- session: stdout -->
```console
old
old
```
The end.
"""


def test_a_page_is_played_in_its_folder_and_shows_what_its_commands_print(tmp_path: Path) -> None:
    played = sessions.play(PAGE, tmp_path)
    assert "```console\n$ python words.py\none\n…\nfour\n```" in played
    assert "```console\none\ntwo\nthree\nfour\n```\nThe end.\n" in played
    assert sessions.play(played, tmp_path) == played


def test_a_mark_that_says_nothing_to_do_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        sessions.steps_of("<!-- session: stdin -->\n```console\n```\n")
    with pytest.raises(ValueError, match="line 1"):
        sessions.steps_of("<!-- session: stdout -->\nno block\n")


def test_every_transcript_of_the_pages_is_a_session() -> None:
    """A block that shows a command's output without being marked would not be made again."""
    for name in sorted({block.file for block in pages.blocks() if block.language == "console"}):
        steps = sessions.steps_of((ROOT / name).read_text(encoding="utf-8"))
        made = {step.start + 1 for step in steps if step.stream}
        assert made == {block.line for block in pages.blocks() if (block.file, block.language) == (name, "console")}
        assert name in sessions.PAGES


@pytest.mark.parametrize("name", sessions.PAGES)
def test_a_transcript_has_the_form_of_its_mark(name: str) -> None:
    for step in sessions.steps_of((ROOT / name).read_text(encoding="utf-8")):
        if not step.stream:
            continue
        first, last = step.limit("first"), step.limit("last")
        lines = list(step.block[1:] if step.command else step.block)
        assert lines, f"{name}: an empty transcript"
        if "…" in lines:
            assert lines.index("…") == (first or 0)
            assert len(lines) == (first or 0) + 1 + (last or 0)


def test_the_transcript_of_the_demo_is_whole() -> None:
    """It shows each stage with its time, the table, a row that reasoning won, the report and the next command."""
    steps = [step for step in sessions.steps_of((ROOT / "docs/index.md").read_text(encoding="utf-8")) if step.stream]
    demo = "\n".join(next(step.block for step in steps if step.command == "rir-mlx demo"))
    assert len(re.findall(r"^\S.* +\d+ s$", demo, re.MULTILINE)) == 6
    for part in ("test rows (95 % intervals)", "│ qra", "│ tf-idf", "A row that qra wins", "█", "The report", "Next: "):
        assert part in demo, part
    answer = next(step.block for step in steps if step.command == 'rir-mlx classify "I feel great"')
    best = max((float(line.split()[1].rstrip("%")), line.split()[0]) for line in answer if "%" in line)
    assert best[1] == "joy"


def test_the_picture_of_the_demo_shows_the_transcripts_of_the_page() -> None:
    """It says in a text field of its PNG file which transcripts it was made from."""
    field = f"tEXt{picture.SHOWS}\0{picture.digest(picture.transcripts())}".encode()
    assert field in picture.PICTURE.read_bytes(), "make the picture again: python docs/picture.py"
