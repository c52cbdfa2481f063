"""The commands that answer with a trained classifier."""
