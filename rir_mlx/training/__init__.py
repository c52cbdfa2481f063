"""The one training loop, its checkpoints, and what a training will cost."""
