"""ddbench: a benchmark toolkit for dataset distillation.

From Python, use the functions of this package: `run`, `evaluate`, `records`, `table` and `load`.
Plugins use `ddbench.api` and the packages of numerics (`ot`, `losses`, `nn`, `augment`, `training`, `data`).
The command line is `ddbench` or `python -m ddbench`.
"""

from ddbench.python import DDBenchError, evaluate, load, records, run, table

__all__ = ["DDBenchError", "evaluate", "load", "records", "run", "table"]
__version__ = "0.1.0"
