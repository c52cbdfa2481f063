"""Where a run keeps its artifacts, and how files are written so that nothing is lost."""
