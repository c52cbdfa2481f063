"""rir-mlx: text classifiers that write their reasoning before their label, and an honest measure of whether it helped."""

__version__ = "0.1.0"
