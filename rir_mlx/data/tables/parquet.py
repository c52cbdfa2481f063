"""Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rir_mlx.data.columns import check_header, find_columns
from rir_mlx.data.tables.table import Table, Wanted, first_line
from rir_mlx.errors import DataError
from rir_mlx.json_text import parse_json


def read_parquet(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shown = wanted.shown
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_header(schema.names, shown)
            found = find_columns(schema.names, wanted.columns, shown)
            table = file.read(columns=found)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown} cannot be read as Parquet: {first_line(error)}") from error
    if not table.num_rows:
        raise DataError(f"{shown} has columns but no rows.", hint="It needs a row for each text.")
    # The `datasets` library keeps its features, and with them the names of class ids, in the schema's metadata.
    features: dict[str, Any] = {}
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored:
        features = parse_json(stored).get("info", {}).get("features", {})
    names = [features.get(name) for name in found]
    classes = tuple(
        tuple(f["names"]) if isinstance(f, dict) and f.get("_type") == "ClassLabel" else None for f in names
    )
    cells = tuple(table.column(name).to_pylist() for name in found)
    return Table(shown, range(1, table.num_rows + 1), cells, classes)
