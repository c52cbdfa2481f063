"""Tables to rows, labels and splits, and what is to be known about them before training."""
