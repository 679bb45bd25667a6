"""`python -m ddbench`: the same as the console script."""

from ddbench.cli import main

main()
