"""Runs the command line: `python -m ddbench`."""

from ddbench.cli.main import main

main()
