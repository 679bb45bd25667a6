"""Built-in methods: real-image baselines and the full-data reference. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path

from ddbench import hookimpl
from ddbench.distiller import Distiller
from ddbench.methods.full import Full
from ddbench.methods.random import Random
from ddbench.recipes import builtin_paths


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    return [Random, Full]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    return builtin_paths()
