"""`python -m sollol` is the command `sollol`."""

from sollol.cli.main import main

main()
