"""What is judged across rows, once all rows have a reasoning."""
