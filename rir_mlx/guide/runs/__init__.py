"""The runs of a folder, and two of them side by side."""
