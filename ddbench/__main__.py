"""`python -m ddbench`: the same as the console script."""

from ddbench.cli.main import main

main()
