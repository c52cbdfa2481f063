"""Metrics, intervals, paired tests, calibration. Arrays in, plain values out."""
