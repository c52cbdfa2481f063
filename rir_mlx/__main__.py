"""`python -m rir_mlx`: the command line, where the `rir-mlx` program is not on the PATH."""

from rir_cli.app import main

main()
