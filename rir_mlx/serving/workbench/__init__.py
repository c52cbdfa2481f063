"""What the page needs beside classification: the run's other arms, tables, its test rows, a review, its report."""
