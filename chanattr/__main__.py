"""`python -m chanattr` is the command `chanattr`."""

from chanattr.cli import main

main()
