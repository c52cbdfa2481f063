"""Classification, measured: `python -m benchmarks.classify`."""
