"""Trained arms and baselines on the test rows, compared, and reported."""
