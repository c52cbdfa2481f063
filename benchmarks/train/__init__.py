"""LoRA training, measured: `python -m benchmarks.train`."""
