"""Uploads of exports to the Hugging Face hub: private by default, whole or not at all, and never with rows of data.

Only files with an export's names are sent, and only to the hub that `HF_ENDPOINT` names.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rir_mlx import __version__
from rir_mlx.errors import Failure, NoServer, UserError
from rir_mlx.json_text import parse_json
from rir_mlx.progress import Progress, Silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo


_ALLOWED = re.compile(
    r"""
      model(-\d{5}-of-\d{5})?\.safetensors | model\.safetensors\.index\.json     # weights
    | config\.json | generation_config\.json | verification\.json | rir_mlx\.json
    | tokenizer\.json | tokenizer_config\.json | tokenizer\.model | special_tokens_map\.json | added_tokens\.json
    | vocab\.json | merges\.txt | chat_template\.(jinja|json)
    | adapter_config\.json | adapters\.safetensors | adapter_model\.safetensors
    | [\w.-]+\.gguf | Modelfile
    | README\.md | LICENSE[\w.-]* | USE_POLICY[\w.-]* | NOTICE[\w.-]*
    """,
    re.VERBOSE,
)
"""The names of an export's files. None contains a character with a special meaning in the hub library's patterns."""
_ROWS = {".jsonl", ".csv", ".parquet", ".tsv"}
_PASSED_OVER = {".DS_Store"}
"""macOS adds it to every folder that Finder opens."""
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
_LOG_IN = "Run `hf auth login` with a token that may write, or set HF_TOKEN."
_AGAIN = "Run the same command again: finished files are not sent again."
_YES = {"1", "ON", "YES", "TRUE"}
_SILENT = Silent()


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be. `files` maps names to bytes; `private` is the repository's visibility, for a dry
    run the requested one; `commit` is the hub's, None for a dry run."""

    repo: str
    url: str
    private: bool
    files: Mapping[str, int]
    commit: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_push(repo: str, *, dry_run: bool = False) -> None:
    """What of an upload can be checked before there is anything to upload, and without a server.

    Raises UserError for a bad name, offline, and without a token."""
    _check_name(repo)
    if not dry_run:
        _check_access()


def push_folder(
    folder: Path, repo: str, *, private: bool = True, dry_run: bool = False, progress: Progress = _SILENT
) -> Pushed:
    """Upload an export to the model repository `repo` (owner/name), which is created if needed.

    All files come in one commit, so nobody sees half a model. After a kill, the same call sends what is missing. The
    visibility of a repository is never changed: with `private`, a public repository is refused. `dry_run` lists what
    would be sent and contacts no server.

    Raises UserError for a folder that is not a verified export, for other files in it, for a bad name, and for a
    missing or refused token; NoServer without a network; Failure if the hub aborts the upload."""
    from huggingface_hub import constants

    check_push(repo, dry_run=dry_run)
    files, say = publishable(folder), progress.say
    pushed = Pushed(repo, f"{constants.ENDPOINT}/{repo}", private, files, None)
    for name, size in files.items():
        say(f"  {name}  {size:,} bytes")
    total = f"{len(files)} files, {sum(files.values()):,} bytes"
    if dry_run:
        say(f"{total} would go to {pushed.url} ({_kind(private)} if it is new). No server was contacted.")
        return pushed
    from huggingface_hub import HfApi

    api = HfApi(library_name="rir-mlx", library_version=__version__)
    try:
        found = _repository(api, repo, private=private, progress=progress)
        say(f"Uploading {total} to {pushed.url} ({_kind(bool(found.private))}) …")
        commit = _upload(api, folder, found, progress)
    except Exception as error:  # hf_xet, written in Rust, may raise anything
        raise _explained(error, repo) from error
    return Pushed(repo, pushed.url, bool(found.private), files, commit)


def publishable(folder: Path) -> dict[str, int]:
    """Bytes of an export's files by name.

    Raises UserError if the folder was not verified, or holds a file that is not part of an export."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.", hint="`rir-mlx export` makes one.")
    if folder.resolve().name.endswith((".rejected", ".unverified")):
        raise UserError(
            f"{folder} failed verification, so it is not uploaded.",
            hint="Export it again with `rir-mlx export`.",
        )
    try:
        passed = parse_json((folder / "verification.json").read_text(encoding="utf-8"))["passed"]
    except (OSError, ValueError, KeyError, TypeError):
        passed = None
    if passed is not True:
        raise UserError(
            f"{folder} has no verification.json of a passed verification, so it is not uploaded.",
            hint="Export it again with `rir-mlx export`, which compares it with the model that was trained.",
        )
    found = sorted(path for path in folder.iterdir() if path.name not in _PASSED_OVER)
    for path in found:
        if path.suffix.lower() in _ROWS:
            raise UserError(f"{path} looks like rows of data, which are never uploaded.", hint="Move it elsewhere.")
        if not _ALLOWED.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "not part of an export"
            raise UserError(f"{path} is {kind}, so nothing is uploaded.", hint="Move it elsewhere.")
    return {path.name: path.stat().st_size for path in found}


def _check_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
        fault = "" if repo.count("/") == 1 else "it has no owner"
    except HFValidationError as error:
        fault = str(error).splitlines()[0]
    if fault:
        raise UserError(f"{repo!r} is not a repository name: {fault}", hint="Name it OWNER/NAME, as in me/emotion.")


def _check_access() -> None:
    from huggingface_hub import constants, get_token

    # The library reads the variable on import, which may have been before it was set.
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        raise UserError(
            "Nothing is uploaded offline.", hint="Leave out --offline and HF_HUB_OFFLINE, or add --dry-run."
        )
    if get_token() is None:
        raise UserError("Uploading needs a Hugging Face token, and none was found.", hint=_LOG_IN)


def _repository(api: HfApi, repo: str, *, private: bool, progress: Progress) -> ModelInfo:
    """The repository, created if needed. Checks its actual visibility, not the requested one."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repo)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        api.create_repo(repo, private=private, exist_ok=True)
        found = api.model_info(repo)
        progress.say(f"Created {repo}, {_kind(bool(found.private))}.")
    if private and not found.private:
        raise UserError(
            f"{repo} is public, and the upload should be private.",
            hint="Add --public, name another repository, or make this one private in its settings.",
        )
    if found.private and not private:
        progress.say(f"{repo} stays private; change that in its settings on the hub.")
    return found


def _upload(api: HfApi, folder: Path, found: ModelInfo, progress: Progress) -> str:
    """Upload the publishable files of `folder` to the repository `found`. Returns the commit's id.

    Uses `upload_folder`, which resumes a killed upload; `upload_large_folder` kept a record inside the folder and was
    dropped in version 2. The hub knows what it has: files with an unchanged hash are skipped, complete files are not
    sent again, and with hf_xet, which comes with the library, neither are parts of a file. From 250 files or 100 MB of
    small files on it would commit in parts; an export is far below that, so it becomes one commit.
    """
    names = list(publishable(folder))
    # Old weights with other shards would stay beside the new ones, and some loaders would read them.
    there = [file.rfilename for file in found.siblings or ()]
    weighty = any(_WEIGHTS.fullmatch(name) for name in names)
    stale = [name for name in there if weighty and _WEIGHTS.fullmatch(name) and name not in names]
    if stale:
        progress.say(f"Deleting weights of an earlier upload: {', '.join(stale)}.")
    made = api.upload_folder(
        repo_id=found.id,
        folder_path=folder,
        allow_patterns=names,
        delete_patterns=stale or None,
        commit_message=f"Export of rir-mlx {__version__}",
    )
    return str(made.oid)


def _explained(error: BaseException, repo: str) -> UserError | Failure:
    """The error to show. The library wraps errors of its threads, so causes are searched too."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, OfflineModeIsEnabled):
            return UserError("Nothing is uploaded offline.", hint="Leave out --offline and HF_HUB_OFFLINE.")
        if isinstance(cause, HfHubHTTPError):
            return _refused(cause, repo)
        if isinstance(cause, _unreachable()):
            return NoServer(f"The hub is unreachable: {cause}", hint=f"Check the network. {_AGAIN}")
        cause = cause.__cause__
    return Failure(f"The upload to {repo} failed: {error}", hint=_AGAIN)


def _refused(error: Any, repo: str) -> UserError | Failure:
    status = error.response.status_code if error.response is not None else 0
    message = str(error.server_message or "").strip()
    if status == 401:
        return UserError("The hub refuses this token: it is wrong or has expired.", hint=_LOG_IN)
    if status == 403:
        return UserError(
            f"This token may not write to {repo}." + (f" The hub says: {message}" if message else ""), hint=_LOG_IN
        )
    if status in (400, 402, 404, 409, 413):
        return UserError(f"The hub refuses {repo} ({status}): {message or error}", hint="Fix what the hub names.")
    return Failure(f"The hub aborted the upload to {repo} ({status}): {message or error}", hint=_AGAIN)


def _unreachable() -> tuple[type[BaseException], ...]:
    """huggingface_hub 1 speaks through httpx, 2 through httpx2."""
    found = [importlib.import_module(name).HTTPError for name in ("httpx", "httpx2") if find_spec(name)]
    return (*found, ConnectionError, TimeoutError)


def _kind(private: bool) -> str:
    return "private" if private else "public"
