"""PyTorch: transformers' models and caches, PEFT's adapters. Only this package imports torch."""

from rir_mlx.backends.torch.model import TorchBackend

__all__ = ["TorchBackend"]
