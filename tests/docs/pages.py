"""The pages that people read, taken apart: links, code, commands, transcripts."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(\s*)```\s*(\w*)")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PROGRAMS = ("rir-mlx", "python", "torchrun", "mlx.launch", "make", "pip", "uv", "uvx", "pipx", "tail", "cp", "hf")
_JOINTS = ("|", "&&", ";", ">")


@dataclass(frozen=True)
class Place:
    """A piece of a page, and where it stands."""

    file: str
    line: int
    text: str
    language: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


@cache
def pages() -> dict[str, str]:
    """Every hand-written page by its path in the repository."""
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    files += sorted([*(ROOT / "benchmarks").glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files if file.is_file()}


def blocks() -> Iterator[Place]:
    """Fenced blocks with their language; `text` without the fences and the indent."""
    for file, text in pages().items():
        begun, language, lines = 0, "", []
        for number, line in enumerate(text.splitlines(), 1):
            fence = _FENCE.match(line)
            if begun and fence:
                yield Place(file, begun + 1, textwrap.dedent("\n".join(lines)), language)
                begun = 0
            elif begun:
                lines.append(line)
            elif fence:
                begun, language, lines = number, fence[2], []
        assert not begun, f"{file}:{begun}: a code block that does not end"


def prose() -> Iterator[Place]:
    """Lines outside fenced blocks."""
    for file, text in pages().items():
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            if _FENCE.match(line):
                fenced = not fenced
            elif not fenced:
                yield Place(file, number, line)


def inline_code() -> Iterator[Place]:
    """Code inside sentences and tables."""
    for line in prose():
        for found in _INLINE.finditer(line.text):
            yield Place(line.file, line.line, found[1].replace("\\|", "|"))


def links() -> Iterator[Place]:
    for line in prose():
        for found in _LINK.finditer(_INLINE.sub("", line.text)):
            yield Place(line.file, line.line, found[1])


def shell_lines() -> Iterator[Place]:
    """Command lines: of indented and fenced blocks, and `$` lines of transcripts."""
    for line in prose():
        if line.text.startswith("    ") and line.text.split()[:1] and line.text.split()[0] in _PROGRAMS:
            yield Place(line.file, line.line, line.text.strip())
    for block in blocks():
        for offset, text in enumerate(block.text.splitlines()):
            if block.language == "console" and text.startswith("$ "):
                yield Place(block.file, block.line + offset, text[2:])
            elif block.language in ("sh", "bash"):
                yield Place(block.file, block.line + offset, text.strip())


def commands() -> Iterator[tuple[Place, list[str]]]:
    """Each program call of the pages as words: of shell lines, and inline code that calls `rir-mlx` or `make`."""
    inline = (place for place in inline_code() if place.text.split()[0] in ("rir-mlx", "make"))
    for place in (*shell_lines(), *inline):
        lexer = shlex.shlex(place.text, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            if word not in _JOINTS:
                words.append(word)
            elif words:
                yield place, words
                words = []


def product_commands() -> Iterator[tuple[Place, list[str]]]:
    """Calls of `rir-mlx`, also through a launcher, as the words after its name."""
    for place, words in commands():
        for name in ("rir-mlx", "rir_mlx"):
            if name in words[:1] or (name in words and words[words.index(name) - 1] in ("-m", ".")):
                yield place, words[words.index(name) + 1 :]
                break
