"""Running `rir-mlx` in a test, and the small files that it is run on."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer.main

LABELS = ("joy", "sadness", "anger")
WORDS = {"joy": "i feel happy today", "sadness": "i was sad", "anger": "now i am angry at the rain"}


@dataclass
class Result:
    """What a command ended with."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@dataclass
class Finished:
    """A run of every stage that a test may change. `small.yaml` is its recipe and `runs/small` its folder, both in
    `folder`; `result` is what the command ended with."""

    folder: Path
    result: Result


_made = cache(typer.main.get_command)


@contextmanager
def ready_commands() -> Iterator[None]:
    """Typer makes all commands of their functions' annotations each time that one is called, which takes longer than
    most of them. Here it makes them once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", _made)
        yield


def command(folder: Path, *arguments: str) -> Result:
    """`rir-mlx` in that folder, in this process. Tests have the fixture `rir`; this is for what several tests share."""
    from rir_cli.app import main

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["rir-mlx", *arguments])
        with ready_commands(), pytest.raises(SystemExit) as ended:
            main()
    printed = [stream.seek(0) or stream.read() for stream in (out, err)]
    return Result(int(ended.value.code or 0), *printed)


def copy_run(source: Path, folder: Path) -> None:
    """Copy a folder with `small.yaml` and `runs/small`, whose recipe then names the files of the copy."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    recipe = folder / "runs/small/recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(source), str(folder)), encoding="utf-8")


def write_recipe(folder: Path, model: Path) -> Path:
    """A recipe on the fake backend with rows and triples of its own."""
    rows = [(f"{WORDS[label]} {number}", label) for number in range(20) for label in LABELS]
    write_csv(folder / "rows.csv", rows)
    triples = [{"question": f"how is {t}?", "answer": label, "reasoning": f"because {t}"} for t, label in rows]
    lines = "".join(json.dumps(triple) + "\n" for triple in triples)
    (folder / "triples.jsonl").write_text(lines, encoding="utf-8")
    path = folder / "small.yaml"
    path.write_text(
        f"model: {model}\nbackend: fake\nmax_seq_length: 320\n"
        "data: {train: rows.csv, val_size: 6, test_size: 9}\n"
        "reasoning: {source: triples.jsonl, val_size: 5}\nrgen: {epochs: 1}\nclassifier: {epochs: 1}\n"
        "augment: {max_tokens: 24}\nevaluate: {max_reasoning_tokens: 24}\n",
        encoding="utf-8",
    )
    return path


def write_csv(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> None:
    path.write_text(header + "\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
