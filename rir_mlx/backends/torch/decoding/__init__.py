"""Writing tokens: the loop over rows, their slots, how a token is drawn, and steps that are recorded."""
