"""Measurements, run by hand: `python -m benchmarks.NAME`. What they showed stands in the pages beside this file."""
