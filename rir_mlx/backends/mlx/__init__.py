"""MLX: mlx-lm's models, caches, adapters and batch generator. Only this package imports mlx."""

from rir_mlx.backends.mlx import libraries as libraries  # first: it prepares the process for mlx
from rir_mlx.backends.mlx.model import MlxBackend

__all__ = ["MlxBackend"]
