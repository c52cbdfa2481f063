"""Fuzzing: mutated files and answers through the readers that the commands call. `make fuzz` runs it."""
