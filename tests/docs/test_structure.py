"""Files, functions and folders stay small enough to read: the limits of CONTRIBUTING, and the exceptions to them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from pages import ROOT

LINES, FUNCTION_LINES, PARAMETERS, FOLDER = 400, 60, 5, range(3, 11)
CODE = ("rir_mlx", "cli", "convert", "benchmarks", "recipes", "tests")
LIBRARY = ("rir_mlx", "convert")

LONG_FUNCTIONS: dict[str, str] = {
    "tests/comparisons.py:a_comparison": "a literal: a comparison with everything in it",
    "tests/comparisons.py:an_entry": "a literal: an entry with everything in it",
}
MANY_PARAMETERS: dict[str, str] = {
    "rir_mlx/estimator.py:__init__": "scikit-learn takes an estimator's parameters from its signature",
    "rir_mlx/backends/torch/layers/attention.py:_attention": "transformers calls it so",
    "rir_mlx/backends/torch/layers/attention.py:forward": "torch.autograd.Function: a tensor each",
    "rir_mlx/backends/torch/layers/lm_head.py:forward": "torch.autograd.Function: a tensor each",
    "rir_mlx/backends/torch/layers/lora.py:forward": "torch.autograd.Function: a tensor each",
}
FOLDERS: dict[str, str] = {
    "rir_mlx": "the public modules, and what every room may use",
}
"""Folders of another number of files, and why."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


class Function(NamedTuple):
    """What is asked of a function: a tree that is kept is gone through by each collection of garbage."""

    name: str
    lines: int
    parameters: int


@cache
def functions(path: Path) -> list[Function]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        Function(node.name, (node.end_lineno or 0) - node.lineno + 1, parameters_of(node))
        for node in functions_below(tree)
    ]


def functions_below(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Those among the statements below a node. No expression holds one."""
    if isinstance(node, ast.FunctionDef):
        yield node
    for block in ("body", "orelse", "handlers", "finalbody", "cases"):
        for inner in getattr(node, block, ()):
            yield from functions_below(inner)


def name_of(path: Path, function: Function | None = None) -> str:
    name = path.relative_to(ROOT).as_posix()
    return f"{name}:{function.name}" if function else name


def parameters_of(function: ast.FunctionDef) -> int:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    return len(names) + len(given.kwonlyargs) - (names[:1] in (["self"], ["cls"]))


def test_no_file_is_longer_than_400_lines() -> None:
    long = {name_of(path) for path in sources(*CODE) if len(path.read_text(encoding="utf-8").splitlines()) > LINES}
    assert not long


def test_no_function_is_longer_than_60_lines() -> None:
    long = {
        name_of(path, function)
        for path in sources(*CODE)
        for function in functions(path)
        if function.lines > FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS)


def test_no_function_of_the_library_has_more_than_five_parameters() -> None:
    many = {
        name_of(path, function)
        for path in sources(*LIBRARY)
        for function in functions(path)
        if function.parameters > PARAMETERS
    }
    assert many == set(MANY_PARAMETERS)


@pytest.mark.parametrize("folder", CODE)
def test_a_folder_has_three_to_ten_files(folder: str) -> None:
    counts: dict[str, int] = {}
    for path in sources(folder):
        counts[name_of(path.parent)] = counts.get(name_of(path.parent), 0) + 1
    odd = {name for name, count in counts.items() if count not in FOLDER}
    assert odd == {name for name in FOLDERS if name.split("/")[0] == folder}
