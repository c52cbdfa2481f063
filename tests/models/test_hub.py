"""From a model's name to a folder: what is found, and the error if it is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from rir_mlx import hub_access
from rir_mlx.errors import ModelError
from rir_mlx.models.families import rope_for_both
from rir_mlx.models.hub import resolve_model
from rir_mlx.types import OPEN_MIRROR

LLAMA3 = {"factor": 32.0, "rope_type": "llama3", "original_max_position_embeddings": 8192}


def raising(error: type[Exception]) -> Callable[..., str]:
    def fetch(*_: object, **__: object) -> str:
        raise error.__new__(error)

    return fetch


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError, f"is gated.\nAccept its licence at https://huggingface.co/a/b .*{OPEN_MIRROR}"),
        (errors.RevisionNotFoundError, "has no revision 'r1'"),
        (errors.RepositoryNotFoundError, "The hub has no model 'a/b'"),
        (errors.LocalEntryNotFoundError, "is not on this machine.*\nRun `hf download a/b`"),
        (errors.OfflineModeIsEnabled, "is not on this machine"),
    ],
)
def test_each_way_the_hub_refuses_has_its_own_mend(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: str
) -> None:
    monkeypatch.setattr("rir_mlx.models.hub.hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(ModelError, match=words):
        resolve_model("a/b", "r1")


def test_a_snapshot_of_the_hub_is_known_by_its_commit(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "0123abc"
    shutil.copytree(tiny, folder)
    monkeypatch.setattr("rir_mlx.models.hub.hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    found = resolve_model("a/b")
    assert (found.name, found.revision, found.folder) == ("a/b", "0123abc", folder)


def test_the_embedded_model_is_found_and_an_unknown_one_lists_it() -> None:
    assert resolve_model("builtin:tiny-llama").config["model_type"] == "llama"
    with pytest.raises(ModelError, match="Known: tiny-llama"):
        resolve_model("builtin:nonsense")


def test_a_folder_that_is_gone_is_named_with_its_key() -> None:
    """After a run or its models had moved, nothing said which of three keys named the folder."""
    with pytest.raises(ModelError, match=r"Correct `evaluate\.embedding_model`: a folder"):
        resolve_model("./encoder", key="evaluate.embedding_model")


def test_a_folder_of_pickles_is_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no \.safetensors weights"):
        resolve_model(str(tmp_path / "pickled"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_the_fingerprint_changes_with_weights_config_and_template(tiny: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny, tmp_path / "changed")
    before = resolve_model(str(tmp_path / "changed")).fingerprint
    assert before == resolve_model(str(tiny)).fingerprint
    path = tmp_path / "changed" / name
    content = bytearray(path.read_bytes())
    if name == "model.safetensors":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(json.dumps(json.loads(content) | {"added": 1}).encode())
    path.write_bytes(content)
    assert resolve_model(str(tmp_path / "changed")).fingerprint != before


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
        {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}},
    ],
    ids=["older form", "transformers 5"],
)
def test_rotary_keys_come_out_in_both_forms(config: dict[str, object]) -> None:
    """transformers 5 writes `rope_parameters` alone, and mlx-lm reads the older form alone."""
    both = rope_for_both(config)
    assert both["rope_theta"] == 500000.0
    assert both["rope_scaling"] == LLAMA3
    assert both["rope_parameters"] == LLAMA3 | {"rope_theta": 500000.0}


def test_a_model_without_scaling_gets_none() -> None:
    assert rope_for_both({})["rope_scaling"] is None


@pytest.mark.parametrize(
    ("status", "content", "reached"),
    [
        (200, "application/json; charset=utf-8", True),
        (401, "application/json", True),
        (404, "application/json", True),
        (407, "text/html", False),
        (407, "application/json", False),
        (502, "text/html", False),
        (503, "application/json", False),
        (200, "text/html", False),
        (302, "text/html", False),
        (200, "", False),
    ],
)
def test_a_proxy_that_refuses_and_the_page_of_a_portal_are_no_hub(
    monkeypatch: pytest.MonkeyPatch, status: int, content: str, reached: bool
) -> None:
    answer = SimpleNamespace(status_code=status, headers={"content-type": content})
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(get=lambda *_, **__: answer))
    assert hub_access._connects() is reached
