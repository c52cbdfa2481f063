"""What a server answers in a second, how long its clients wait, and whether it holds out."""
