"""The model card of an export, and the program that it shows."""
