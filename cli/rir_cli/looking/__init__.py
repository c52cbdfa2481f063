"""Commands that show what is here: runs and base models."""
