"""ddbench: a benchmark toolkit for dataset distillation.

Plugins use `ddbench.api` and the packages of numerics (`ot`, `losses`, `nn`, `augment`, `training`, `data`).
The command line is `ddbench` or `python -m ddbench`.
"""

__version__ = "0.1.0"
