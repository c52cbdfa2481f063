"""What a table shows before anything is chosen for it: its columns, labels and texts."""
