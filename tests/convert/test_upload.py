"""An export arrives on a hub whole, private and without rows, against a stand-in on loopback."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import Hub, Repository, hub
from processes import Running, start_code
from rir_convert.upload import publishable, push_folder

from rir_mlx import __version__
from rir_mlx.errors import UserError

REPO = "me/feelings"
SHARDS = [f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)]
PROGRAM = """
import json, sys
for name in [name for name in sys.modules if name.split(".")[0] in ("huggingface_hub", "rir_convert")]:
    del sys.modules[name]  # the library reads its settings when it is imported
from pathlib import Path
from rir_convert.upload import push_folder
from rir_mlx.errors import RirError
from rir_mlx.progress import Silent
class Printed(Silent):
    def say(self, text):
        print(text, file=sys.stderr)
try:
    how = json.loads(sys.argv[3])
    found = push_folder(Path(sys.argv[1]), sys.argv[2], progress=Printed(), **how)
except RirError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
print(json.dumps(found.as_dict()))
"""


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as state:
        yield state


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """What an export consists of, its weights in three files."""
    folder = tmp_path / "qra-hf"
    folder.mkdir()
    for number, name in enumerate(SHARDS):
        (folder / name).write_bytes(bytes([number]) * (200_000 + number))
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"):
        (folder / name).write_text(f'{{"of": "{name}"}}\n', encoding="utf-8")
    (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    (folder / "LICENSE.txt").write_text("Apache License\n", encoding="utf-8")
    (folder / "verification.json").write_text('{"passed": true}', encoding="utf-8")
    return folder


def environment(server: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": server.token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    } | more


class Ended:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.err = code, err
        self.found: dict[str, Any] = json.loads(out) if code == 0 else {}


def start(server: Hub, folder: Path, repo: str = REPO, env: dict[str, str] | None = None, **how: bool) -> Running:
    settings = environment(server, folder.parent) | (env or {})
    return start_code(folder.parent, PROGRAM, str(folder), repo, json.dumps(how), **settings)


def push(server: Hub, folder: Path, repo: str = REPO, env: dict[str, str] | None = None, **how: bool) -> Ended:
    process = start(server, folder, repo, env, **how)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return Ended(process.wait(0), out, err)


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_arrive_byte_for_byte_in_one_commit_and_private(server: Hub, export: Path) -> None:
    ended = push(server, export)
    assert ended.code == 0, ended.err
    repository = server.repositories[REPO]
    assert repository.private is True
    assert repository.files == stored(export)
    assert len(repository.commits) == 1
    assert ended.found == {
        "repo": REPO,
        "url": f"{server.url}/{REPO}",
        "private": True,
        "files": {name: len(data) for name, data in sorted(stored(export).items())},
        "commit": repository.sha,
    }
    assert "Created me/feelings, private." in ended.err


def test_what_the_hub_learns_of_this_machine_is_the_versions_of_python_and_the_library(
    server: Hub, export: Path
) -> None:
    assert push(server, export).code == 0
    mine = [agent for agent in server.agents if "rir-mlx" in agent]
    assert mine
    for agent in mine:
        names = [part.partition("/")[0].strip() for part in agent.split(";")]
        assert names == ["rir-mlx", "hf_hub", "python"]
    assert any(f"rir-mlx/{__version__}" in agent for agent in mine)
    asked = {path for _, path in server.requests}
    assert not [path for path in asked if "telemetry" in path]


def test_public_is_public_on_request_alone(server: Hub, export: Path) -> None:
    ended = push(server, export, private=False)
    assert ended.code == 0, ended.err
    assert server.repositories[REPO].private is False
    assert ended.found["private"] is False


def test_a_dry_run_asks_the_hub_nothing_and_names_files_and_sizes(server: Hub, export: Path) -> None:
    offline_without_token = {"HF_HUB_OFFLINE": "1", "HF_TOKEN": ""}
    ended = push(server, export, env=offline_without_token, dry_run=True)
    assert ended.code == 0, ended.err
    assert server.requests == []
    assert ended.found["commit"] is None
    for path in export.iterdir():
        assert f"{path.name}  {path.stat().st_size:,} bytes" in ended.err
    assert "No server was contacted." in ended.err


def test_a_push_that_was_killed_sends_only_the_rest_when_run_again(server: Hub, export: Path) -> None:
    server.stall_at = 2
    process = start(server, export)
    ends = time.monotonic() + 60
    while not (server.stalled.is_set() and server.objects) and time.monotonic() < ends:
        time.sleep(0.02)
    assert len(server.objects) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert server.repositories[REPO].files == {}  # nobody sees half a model
    there = set(server.objects)
    server.stall_at, server.puts = None, []
    server.released.set()
    ended = push(server, export)
    assert ended.code == 0, ended.err
    assert len(server.puts) == 2
    assert there.isdisjoint(server.puts)
    assert server.repositories[REPO].files == stored(export)
    assert len(server.repositories[REPO].commits) == 1


def test_a_second_push_sends_what_changed_alone(server: Hub, export: Path) -> None:
    assert push(server, export).code == 0
    server.puts = []
    (export / SHARDS[1]).write_bytes(b"other")
    (export / "README.md").write_text("# other\n", encoding="utf-8")
    ended = push(server, export)
    assert ended.code == 0, ended.err
    repository = server.repositories[REPO]
    assert sorted(repository.commits[1]) == ["README.md", SHARDS[1]]
    assert len(server.puts) == 1
    unchanged = push(server, export)
    assert unchanged.code == 0
    assert unchanged.found["commit"] == repository.sha
    assert len(repository.commits) == 2


def test_weights_that_an_earlier_push_cut_otherwise_are_taken_away_in_the_same_commit(
    server: Hub, export: Path
) -> None:
    """A folder with `model.safetensors` beside shards was opened with the old weights."""
    old = {"model.safetensors": b"old", "notes.md": b"mine", "a.gguf": b"mine"}
    server.repositories[REPO] = Repository(True, dict(old))
    ended = push(server, export)
    assert ended.code == 0, ended.err
    repository = server.repositories[REPO]
    assert repository.files == stored(export) | {"notes.md": b"mine", "a.gguf": b"mine"}
    assert "-model.safetensors" in repository.commits[0]
    assert "Deleting weights of an earlier upload: model.safetensors." in ended.err


def test_a_private_push_into_a_public_repository_is_refused(server: Hub, export: Path) -> None:
    server.repositories[REPO] = Repository(private=False)
    ended = push(server, export)
    assert ended.code == 2
    assert f"{REPO} is public, and the upload should be private.\nAdd --public" in ended.err
    assert server.repositories[REPO].files == {}


def test_a_private_repository_stays_private_when_public_is_asked_for(server: Hub, export: Path) -> None:
    server.repositories[REPO] = Repository(private=True)
    ended = push(server, export, private=False)
    assert ended.code == 0, ended.err
    assert server.repositories[REPO].private is True
    assert ended.found["private"] is True
    assert f"{REPO} stays private" in ended.err


@pytest.mark.parametrize(
    ("deny", "status", "code", "message", "hint"),
    [
        ("/api/models", 401, 2, "refuses this token", "hf auth login"),
        ("/api/repos/create", 403, 2, f"may not write to {REPO}", "hf auth login"),
        ("/commit/", 403, 2, f"may not write to {REPO}", "hf auth login"),
        ("/preupload/", 413, 2, f"The hub refuses {REPO} (413)", "Fix what the hub names"),
        ("/commit/", 501, 1, f"aborted the upload to {REPO} (501)", "Run the same command again"),
    ],
)
def test_a_refusal_is_shown_with_its_hint(
    server: Hub, export: Path, deny: str, status: int, code: int, message: str, hint: str
) -> None:
    server.deny = {deny: status}
    ended = push(server, export)
    assert ended.code == code
    assert message in ended.err
    assert hint in ended.err


def test_a_wrong_token_is_not_taken_for_a_repository_that_is_not_there(server: Hub, export: Path) -> None:
    ended = push(server, export, env={"HF_TOKEN": "hf_expired"})
    assert ended.code == 2
    assert "refuses this token" in ended.err
    assert ("POST", "/api/repos/create") not in server.requests


def test_without_a_token_nothing_is_asked(server: Hub, export: Path) -> None:
    ended = push(server, export, env={"HF_TOKEN": ""})
    assert ended.code == 2
    assert "none was found" in ended.err
    assert "hf auth login" in ended.err
    assert server.requests == []


def test_an_unreachable_hub_is_an_error(server: Hub, export: Path) -> None:
    ended = push(server, export, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert ended.code == 2
    assert "The hub is unreachable" in ended.err


def test_offline_uploads_nothing(server: Hub, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = push(server, export, env={"HF_HUB_OFFLINE": "1"})
    assert ended.code == 2
    assert "Nothing is uploaded offline." in ended.err
    assert server.requests == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # set after the library was imported
    with pytest.raises(UserError, match="Nothing is uploaded offline"):
        push_folder(export, REPO)


@pytest.mark.parametrize("name", ["feelings", "a/b/c", "me/", "me/fee lings", "-me/..", "", "me/" + "x" * 100])
def test_a_name_that_the_hub_would_not_take_is_refused_before_it_is_asked(export: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not a repository name") as refused:
        push_folder(export, name, dry_run=True)
    assert "OWNER/NAME" in refused.value.hint


@pytest.mark.parametrize("name", ["rows.jsonl", "train.csv", "x.parquet", "test.tsv", "rows.JSONL"])
def test_rows_of_data_are_never_published(export: Path, name: str) -> None:
    (export / name).write_text("text,label\n", encoding="utf-8")
    with pytest.raises(UserError, match="rows of data") as refused:
        push_folder(export, REPO, dry_run=True)
    assert str(export / name) in str(refused.value)


@pytest.mark.parametrize("name", ["notes.txt", "model.bin", ".env", "x.py", "metrics.json", "model.safetensors.bak"])
def test_what_no_export_holds_is_refused_by_name(export: Path, name: str) -> None:
    (export / name).write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="not part of an export") as refused:
        publishable(export)
    assert str(export / name) in str(refused.value)


def test_a_link_and_a_folder_are_refused_and_what_a_mac_leaves_is_passed_over(export: Path) -> None:
    (export / ".DS_Store").write_bytes(b"\0")
    assert ".DS_Store" not in publishable(export)
    (export / "data").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        publishable(export)
    (export / "data").rmdir()
    (export / "x.gguf").symlink_to(export / "config.json")
    with pytest.raises(UserError, match="is a link"):
        publishable(export)


@pytest.mark.parametrize(
    "kept", [("model.gguf", "Modelfile"), ("adapter_config.json", "adapters.safetensors", "adapter_model.safetensors")]
)
def test_other_formats_may_be_published(tmp_path: Path, kept: tuple[str, ...]) -> None:
    for name in (*kept, "README.md"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "verification.json").write_text('{"passed": true}', encoding="utf-8")
    assert set(publishable(tmp_path)) == {*kept, "README.md", "verification.json"}


@pytest.mark.parametrize("verified", [None, "{}", '{"passed": false}', '{"passed": "true"}', "[", "[]", "null"])
def test_a_folder_that_did_not_pass_is_refused(export: Path, verified: str | None) -> None:
    (export / "verification.json").unlink()
    if verified is not None:
        (export / "verification.json").write_text(verified, encoding="utf-8")
    with pytest.raises(UserError, match=r"no verification\.json of a passed verification") as refused:
        publishable(export)
    assert "rir-mlx export" in refused.value.hint


@pytest.mark.parametrize("suffix", [".rejected", ".unverified"])
def test_a_rejected_folder_is_refused_whatever_it_says_of_itself(export: Path, suffix: str) -> None:
    with pytest.raises(UserError, match="failed verification"):
        publishable(export.rename(export.with_name(export.name + suffix)))


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        publishable(tmp_path / "nothing")
