"""All that a machine with a GPU can say in minutes: `python -m benchmarks.gpu`."""
