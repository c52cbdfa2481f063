"""Data sets in Hugging Face's format, from the hub or from a folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rir_mlx.data.columns import Column, check_header, find_columns
from rir_mlx.data.packed_cells import TOGETHER, PackedCells
from rir_mlx.data.tables.table import ACCEPTED, Table, first_line
from rir_mlx.data.tables.typed_files import with_own_digits
from rir_mlx.errors import DataError, did_you_mean
from rir_mlx.hub_access import cached_names, hub_answers, is_offline, without_network
from rir_mlx.recipe.schema import SourceSpec

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def holds_data_set(folder: Path) -> bool:
    """Whether a folder is laid out like a data set on the hub: a card that starts with YAML, or Parquet files."""
    if any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet")):
        return True
    try:
        return (folder / "README.md").read_bytes().startswith(b"---")
    except OSError:
        return False


def refuse_saved_data_set(folder: Path, key: str) -> None:
    """Raise DataError if a folder was written by `save_to_disk`: its Arrow files are no format to share."""
    several = (folder / "dataset_dict.json").is_file()
    if several or ((folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()):
        part = "['train']" if several else ""
        raise DataError(
            f"{key}: {folder} was written by `save_to_disk` of the datasets library.",
            hint='Write it as Parquet: python -c "import datasets; '
            f"datasets.load_from_disk('{folder}'){part}.to_parquet('{folder.name}.parquet')\"",
        )


def read_data_set(source: SourceSpec, columns: Sequence[Column], key: str, path: str) -> Table:
    import datasets

    split = source.split or "train"
    local = Path(path).is_dir() or not hub_answers()
    try:
        with without_network(local), _no_bars_off_a_terminal():
            data = datasets.load_dataset(path, source.config, split=split, revision=source.revision)
    except Exception as error:  # a dozen kinds, from four libraries; those that are not known keep their own words
        raise _explain(error, source, key) from error
    shown = f"{source.path} ({split})"
    if not data.num_rows:
        raise DataError(f"{shown} has no rows.", hint=f"Set {key}.split to another split.")
    check_header(data.column_names, shown)
    found = find_columns(data.column_names, columns, shown)
    features = [data.features[name] for name in found]
    classes = tuple(_class_names(feature) for feature in features)
    kinds = [str(getattr(feature, "dtype", "")) for feature in features]
    cells = tuple(PackedCells() for _ in found)
    for part in data.select_columns(found).iter(TOGETHER):
        for column, name, kind in zip(cells, found, kinds, strict=True):
            column.extend(with_own_digits(part[name], kind))
    return Table(shown, range(1, data.num_rows + 1), cells, classes, editable=False)


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The name of each class id of a column, or of a column of lists of ids, if it has any."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return tuple(names) if isinstance(names, list) else None


@contextmanager
def _no_bars_off_a_terminal() -> Iterator[None]:
    import datasets

    hide = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def _explain(error: Exception, source: SourceSpec, key: str) -> DataError:
    """Why a data set could not be loaded, in one sentence, and the edit or command that helps."""
    path, words = source.path, str(error)
    if listed := re.search(r"Unknown split .* Should be one of \[(.*)\]", words):
        splits = re.findall(r"'([^']*)'", listed[1])
        split = source.split or "train"
        return DataError(
            f"{key}: {path} has no split {split!r}.{did_you_mean(split, splits)}",
            hint=f"Set {key}.split to one of: {', '.join(splits)}.",
        )
    if listed := re.search(r"(?:not found. Available|available configs): \[(.*?)\]", words):
        configs = re.findall(r"'([^']*)'", listed[1])
        what = f"has no configuration {source.config!r}" if source.config else "has several configurations"
        return DataError(f"{key}: {path} {what}.", hint=f"Set {key}.config to one of: {', '.join(configs)}.")
    if "gated" in words:
        return DataError(
            f"{key}: the data set {path} is gated: its owner asks for consent first.",
            hint=f"Accept the terms at https://huggingface.co/datasets/{path}, then run: hf auth login",
        )
    if words.startswith("Revision "):
        return DataError(f"{key}: {path} has no revision {source.revision!r}.", hint=f"Correct {key}.revision.")
    if type(error).__name__ == "DatasetNotFoundError":
        return DataError(
            f"{key}: there is no data set {path} on the Hugging Face hub, no such file here, or it is private.",
            hint="Check the id or the path; for a private data set run: hf auth login",
        )
    if isinstance(error, ConnectionError) or "OfflineModeIsEnabled" in words:
        return _missing(path, key)
    return DataError(f"{key}: {path} cannot be loaded as a data set: {first_line(error)}", hint=ACCEPTED)


def _missing(path: str, key: str) -> DataError:
    """The error for a data set that is not here and cannot be looked up: it names those that are here."""
    here = ", ".join(cached_names("dataset"))
    return DataError(
        f"{key}: there is no file {path}, and no data set of that name on this machine; "
        + ("offline the Hugging Face hub is not asked." if is_offline() else "the Hugging Face hub cannot be reached."),
        hint=f"Load it once with a network and without --offline, or set {key} to a file of your own."
        + (f" Data sets on this machine: {here}." if here else ""),
    )
