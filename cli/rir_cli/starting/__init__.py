"""Commands for a beginning: a first recipe for a table, and whether this machine is ready."""
