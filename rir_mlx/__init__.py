"""rir-mlx: text classifiers that write a reasoning before the label, and an honest measure of whether it helped."""

__version__ = "0.1.0"
