"""`python -m sanac` is the `sanac` command."""

from sanac.cli import main

main()
