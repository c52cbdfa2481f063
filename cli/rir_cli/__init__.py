"""The command line: options, printing and exit codes. The work is done in `rir_mlx`."""
