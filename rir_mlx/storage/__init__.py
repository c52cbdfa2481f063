"""Where a run keeps its artifacts, and how files are written without losing data."""
