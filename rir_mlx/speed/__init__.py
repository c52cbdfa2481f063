"""How fast this machine runs each stage, how near that is to its limit, and what other programs take for the same."""
