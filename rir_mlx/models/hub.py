"""A model's name to a local folder, and what its config says. Knows the hub, not the frameworks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rir_mlx.errors import ModelError, did_you_mean
from rir_mlx.hub_access import cached_names, hub_answers, is_offline
from rir_mlx.models.config import read_config
from rir_mlx.models.fingerprint import fingerprint
from rir_mlx.models.weight_files import check_weights
from rir_mlx.recipe.builtin import BUILTIN, EMBEDDED
from rir_mlx.types import OPEN_MIRROR

_WANTED = [
    *("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"),
    *("README.md", "LICENSE*", "USE_POLICY*"),
]
_UNWANTED = ["consolidated*.safetensors", "original/*"]
"""Copies of the weights under Meta's or Mistral's names: as many gigabytes again."""


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine. `revision` is the hub's commit, None for a folder of one's own. `fingerprint` tells
    one set of weights from another."""

    name: str
    folder: Path
    revision: str | None
    fingerprint: str

    @property
    def config(self) -> dict[str, Any]:
        return read_config(self.folder)


def resolve_model(name: str, revision: str | None = None, *, key: str = "model", offline: bool = False) -> ModelFiles:
    """The local folder of a hub id, a folder, or `builtin:NAME`; fetched from the hub where it is not cached, unless
    `offline`. `key` is the recipe's key, or the option, that names it, for the errors.

    Raises ModelError, saying how to get access, what to name instead, or what is wrong with the folder."""
    if name.startswith(BUILTIN):
        folder = EMBEDDED / name.removeprefix(BUILTIN)
        if not folder.is_dir():
            known = [path.parent.name for path in EMBEDDED.glob("*/config.json")]
            raise ModelError(f"There is no embedded model {name!r}.", hint=f"Known: {', '.join(known)}.")
        commit = None
    elif Path(name).expanduser().is_dir():
        folder, commit = Path(name).expanduser(), None
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"There is no model folder {name}.", hint=f"Correct `{key}`: a folder, or a hub id as owner/name."
        )
    else:
        folder = _fetch(name, revision, key, offline=offline)
        commit = folder.name if folder.parent.name == "snapshots" else revision
    weights = check_weights(folder, read_config(folder))
    return ModelFiles(name, folder, commit, fingerprint(folder, weights))


def local_tokenizer(name: str, revision: str | None = None) -> Path:
    """The folder with a model's tokenizer, where it is on this machine: nothing is fetched, and no weights are needed.

    Raises ModelError if it is not here."""
    if name.startswith(BUILTIN):
        folder: Path | None = EMBEDDED / name.removeprefix(BUILTIN)
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    else:
        from huggingface_hub import errors, snapshot_download

        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, local_files_only=True))
        except (errors.LocalEntryNotFoundError, errors.HFValidationError):
            folder = None
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"the tokenizer of {name} is not on this machine",
            hint=f"Run `hf download {name}` once with a network, or name a local folder with --set model=FOLDER.",
        )
    return folder


def _fetch(name: str, revision: str | None, key: str, *, offline: bool) -> Path:
    from huggingface_hub import errors, snapshot_download

    known = [OPEN_MIRROR] if key == "model" else []
    local = offline or not hub_answers()
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=local
        )
        return Path(folder)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated.",
            hint=f"Accept its licence at https://huggingface.co/{name} and run `hf auth login`, or "
            + (
                f"use the open mirror: --set model={OPEN_MIRROR}"
                if key == "model"
                else f"name another: {_set(key, '…')}"
            ),
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision!r}.", hint="Correct the recipe's `revision`.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {name!r} that you may see.{did_you_mean(name, known)}",
            hint=f"Correct `{key}`, or run `hf auth login` if it is private.",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _missing(name, key, offline=offline or is_offline()) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"{name} could not be fetched from the hub: {error}") from error


def _set(key: str, value: str) -> str:
    """How a recipe's key, or an option, gets a value."""
    return f"{key} {value}" if key.startswith("--") else f"--set {key}={value}"


def _missing(name: str, key: str, *, offline: bool) -> ModelError:
    """The error for a model that is not here and cannot be fetched: it names those that are here."""
    why = "offline nothing is fetched" if offline else "the hub cannot be reached"
    here = ", ".join([*cached_names("model"), "builtin:tiny-llama"] if key == "model" else cached_names("model"))
    return ModelError(
        f"{name} is not on this machine, and {why}.",
        hint=f"Run `hf download {name}` once with a network, or name a local folder with {_set(key, 'FOLDER')}."
        + (f" On this machine: {here}." if here else ""),
    )
