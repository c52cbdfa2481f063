"""The command line: options, printing and exit codes. What is done stands in `rir_mlx`."""
