"""An export on the Hugging Face hub: private unless said otherwise, whole or not at all, and never with rows of data.

What is sent is what an export consists of, by name. Nothing is contacted but the hub that `HF_ENDPOINT` names.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rir_mlx import __version__
from rir_mlx.errors import Failure, NoServer, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo


_ALLOWED = re.compile(
    r"""
      model(-\d{5}-of-\d{5})?\.safetensors | model\.safetensors\.index\.json     # weights
    | config\.json | generation_config\.json | verification\.json
    | tokenizer\.json | tokenizer_config\.json | tokenizer\.model | special_tokens_map\.json | added_tokens\.json
    | vocab\.json | merges\.txt | chat_template\.(jinja|json)
    | adapter_config\.json | adapters\.safetensors | adapter_model\.safetensors | calibration\.json
    | [\w.-]+\.gguf | Modelfile
    | README\.md | LICENSE[\w.-]* | USE_POLICY[\w.-]* | NOTICE[\w.-]*
    """,
    re.VERBOSE,
)
"""The names of an export's files. None holds a character that a pattern of the hub's library reads otherwise."""
_ROWS = {".jsonl", ".csv", ".parquet", ".tsv"}
_PASSED_OVER = {".DS_Store"}
"""Put by macOS into every folder that is looked at."""
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
_LOG_IN = "Run `hf auth login` with a token that may write, or set HF_TOKEN."
_AGAIN = "Run the same command again: what has arrived is not sent again."
_YES = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be. `files` are bytes by name; `private` is what the repository is, for a dry run
    what it was to become; `commit` is the hub's, None for a dry run."""

    repo: str
    url: str
    private: bool
    files: Mapping[str, int]
    commit: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def push_folder(
    folder: Path, repo: str, *, private: bool = True, dry_run: bool = False, say: Callable[[str], None]
) -> Pushed:
    """Upload an export to the model repository `repo` (owner/name), which is made where it is not there yet.

    All files come in one commit, so nobody sees half a model. After a kill the same call sends what is missing. A
    repository's visibility is never changed: one that is public is refused where `private` is asked for. `dry_run` says
    what would be sent, and contacts nobody.

    Raises UserError for a folder that is not an export that was verified, for what is no file of an export, for a bad
    name, a missing or refused token; NoServer without a network; Failure where the hub breaks the upload off."""
    from huggingface_hub import constants

    files = publishable(folder)
    _check_name(repo)
    pushed = Pushed(repo, f"{constants.ENDPOINT}/{repo}", private, files, None)
    for name, size in files.items():
        say(f"  {name}  {size:,} bytes")
    total = f"{len(files)} files, {sum(files.values()):,} bytes"
    if dry_run:
        say(f"{total} would go to {pushed.url} ({_kind(private)} where it is made anew). Nobody was contacted.")
        return pushed
    _check_access()
    from huggingface_hub import HfApi

    api = HfApi(library_name="rir-mlx", library_version=__version__)
    try:
        found = _repository(api, repo, private=private, say=say)
        say(f"Uploading {total} to {pushed.url} ({_kind(bool(found.private))}) …")
        commit = _upload(api, folder, found, say)
    except Exception as error:  # hf_xet, written in Rust, raises what it likes
        raise _explained(error, repo) from error
    return Pushed(repo, pushed.url, bool(found.private), files, commit)


def publishable(folder: Path) -> dict[str, int]:
    """Bytes of an export's files by name.

    Raises UserError where the folder was not verified, or holds anything that is no file of an export."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.", hint="`rir-mlx export` makes one.")
    if folder.resolve().name.endswith((".rejected", ".unverified")):
        raise UserError(
            f"{folder} was not found to be the model that was trained, so it is not uploaded.",
            hint="Export it again with `rir-mlx export`.",
        )
    try:
        passed = json.loads((folder / "verification.json").read_text(encoding="utf-8"))["passed"]
    except (OSError, ValueError, KeyError, TypeError):
        passed = None
    if passed is not True:
        raise UserError(
            f"{folder} has no verification.json that says that it passed, so it is not uploaded.",
            hint="Export it again with `rir-mlx export`, which compares it with the model that was trained.",
        )
    found = sorted(path for path in folder.iterdir() if path.name not in _PASSED_OVER)
    for path in found:
        if path.suffix.lower() in _ROWS:
            raise UserError(f"{path} looks like rows of data, which are not published.", hint="Move it elsewhere.")
        if not _ALLOWED.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no file of an export"
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
        raise UserError(f"{repo!r} is no name of a repository: {fault}", hint="Name it OWNER/NAME, as in me/emotion.")


def _check_access() -> None:
    from huggingface_hub import constants, get_token

    # The library reads the variable when it is imported, which may have been before it was set.
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        raise UserError(
            "Nothing is uploaded offline.", hint="Leave out --offline and HF_HUB_OFFLINE, or add --dry-run."
        )
    if get_token() is None:
        raise UserError("The hub takes files from those alone whom it knows, and no token is here.", hint=_LOG_IN)


def _repository(api: HfApi, repo: str, *, private: bool, say: Callable[[str], None]) -> ModelInfo:
    """The repository, made where it is not there. What it really is decides, whatever was asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repo)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        api.create_repo(repo, private=private, exist_ok=True)
        found = api.model_info(repo)
        say(f"Made {repo}, {_kind(bool(found.private))}.")
    if private and not found.private:
        raise UserError(
            f"{repo} is public, and a private upload was asked for.",
            hint="Add --public, name another repository, or make this one private in its settings.",
        )
    if found.private and not private:
        say(f"{repo} is private and stays so; its settings on the hub make it public.")
    return found


def _upload(api: HfApi, folder: Path, found: ModelInfo, say: Callable[[str], None]) -> str:
    """Upload the publishable files of `folder` to the repository `found`. Returns the commit's id.

    `upload_folder`: it takes up an upload that was killed where `upload_large_folder` kept a record of its own inside
    the folder, and was dropped by version 2. The hub itself says what it has: files whose hash is the repository's are
    left out, whole files that arrived before a kill are not asked for again, and with hf_xet, which comes with the
    library, neither are the pieces of a file. It commits in parts from 250 files on, or 100 MB of such as are not
    large; an export is far below, so it becomes one commit.
    """
    names = list(publishable(folder))
    # Weights cut otherwise before would lie beside the new ones, and some loaders would read the old.
    there = [file.rfilename for file in found.siblings or ()]
    weighty = any(_WEIGHTS.fullmatch(name) for name in names)
    stale = [name for name in there if weighty and _WEIGHTS.fullmatch(name) and name not in names]
    if stale:
        say(f"Taking away weights of an earlier upload: {', '.join(stale)}.")
    made = api.upload_folder(
        repo_id=found.id,
        folder_path=folder,
        allow_patterns=names,
        delete_patterns=stale or None,
        commit_message=f"Export of rir-mlx {__version__}",
    )
    return str(made.oid)


def _explained(error: BaseException, repo: str) -> UserError | Failure:
    """What went wrong, in words. The library wraps errors of its threads, so causes are searched too."""
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
            return NoServer(f"The hub cannot be reached: {cause}", hint=f"Look at the network. {_AGAIN}")
        cause = cause.__cause__
    return Failure(f"The upload to {repo} broke off: {error}", hint=_AGAIN)


def _refused(error: Any, repo: str) -> UserError | Failure:
    status = error.response.status_code if error.response is not None else 0
    said = str(error.server_message or "").strip()
    if status == 401:
        return UserError("The hub does not know this token: it is wrong, or has expired.", hint=_LOG_IN)
    if status == 403:
        return UserError(
            f"This token may not write to {repo}." + (f" The hub says: {said}" if said else ""), hint=_LOG_IN
        )
    if status in (400, 402, 404, 409, 413):
        return UserError(f"The hub refuses {repo} ({status}): {said or error}", hint="Mend what it names.")
    return Failure(f"The hub broke the upload to {repo} off ({status}): {said or error}", hint=_AGAIN)


def _unreachable() -> tuple[type[BaseException], ...]:
    """huggingface_hub 1 speaks through httpx, 2 through httpx2."""
    found = [importlib.import_module(name).HTTPError for name in ("httpx", "httpx2") if find_spec(name)]
    return (*found, ConnectionError, TimeoutError)


def _kind(private: bool) -> str:
    return "private" if private else "public"
