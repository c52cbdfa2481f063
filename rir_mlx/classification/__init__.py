"""A text to label probabilities and a reasoning, one at a time or whole files."""
