"""Rows of a run to look through: which are worth it, what was decided about them, and the table that results."""
