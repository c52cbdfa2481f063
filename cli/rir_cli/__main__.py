from rir_cli.app import main

main()
