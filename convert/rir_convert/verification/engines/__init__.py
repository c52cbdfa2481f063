"""The libraries that open an export, each run as its users run it.

Nothing of rir-mlx computes here: the library's own forward pass, mask and head answer for one whole sequence at a time,
without a cache. So a fault that training, scoring and export share shows as a difference.
"""
