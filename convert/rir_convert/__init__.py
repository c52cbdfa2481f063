"""Fused models and exports. Works on files, with NumPy."""
