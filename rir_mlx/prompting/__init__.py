"""Rows to prompts, prompts to token ids with exact boundaries, and ids to batches."""
