"""What a repository's platform reads: workflows, templates, the citation."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from pages import ROOT

import rir_mlx

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_versions_agree() -> None:
    assert _read("CITATION.cff")["version"] == PROJECT["version"] == rir_mlx.__version__


def test_the_citation_names_the_paper_and_the_licence() -> None:
    citation = _read("CITATION.cff")
    assert citation["license"] == PROJECT["license"]
    assert [reference["url"] for reference in citation["references"]] == [PROJECT["urls"]["Paper"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_there_is_and_says_that_it_was_never_run(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["jobs"]
    assert workflow["permissions"] == {"contents": "read"}
    assert "Not yet run" in text.splitlines()[0]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\s*(?:- run: )?make ([a-z]+)$", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_supported_python_is_tested() -> None:
    tested = _read(".github/workflows/tests.yml")["jobs"]["linux"]["strategy"]["matrix"]["python"]
    assert tested[0] == PROJECT["requires-python"].removeprefix(">=")
    declared = {name.rsplit(" ", 1)[-1] for name in PROJECT["classifiers"] if "Python :: 3." in name}
    assert set(tested) == declared


def test_both_macs_run_the_tests_and_the_demo_on_metal() -> None:
    job = _read(".github/workflows/tests.yml")["jobs"]["macos"]
    assert job["strategy"]["matrix"]["os"] == ["macos-15", "macos-26"]
    steps = " ".join(step.get("run", "") for step in job["steps"])
    assert "make test" in steps
    assert "rir-mlx demo" in steps


@pytest.mark.parametrize("name", ["bug", "measurement"])
def test_an_issue_form_has_a_name_and_fields(name: str) -> None:
    form = _read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in form["body"])
