"""What a published card may say of the machine that made it: names of files and folders, not where they are."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from rir_mlx.recipe.loading import dump_recipe
from rir_mlx.recipe.schema import Recipe


def public_name(name: str) -> str:
    """The last part of an absolute path, or of one in the home folder; a hub id and a relative path as they are."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or name.startswith("~"):
            return path.name or "folder"
    return name


def public_command(command: str) -> str:
    """A shell command with `public_name` of every word, and of what follows a word's `=`."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    split = [word.partition("=") for word in words]
    return shlex.join(public_name(before) + equals + public_name(after) for before, equals, after in split)


def public_recipe(recipe: Recipe) -> str:
    """The recipe as YAML without the address of a server, and with `public_name` of every path."""
    values = yaml.safe_load(dump_recipe(recipe))
    values["augment"]["base_url"] = None
    data = {key: values["data"].pop(key) for key in ("labels", "instruction")}  # texts, not paths
    values = _public(values)
    values["data"] |= data
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return text


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return public_name(value) if isinstance(value, str) else value
