"""Built-in methods: baselines made of real images, and the full-data reference. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path

from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.config.recipes import builtin_paths
from ddbench.methods.full import Full
from ddbench.methods.herding import Herding
from ddbench.methods.k_center import KCenter
from ddbench.methods.kmeans import KMeans
from ddbench.methods.random import Random
from ddbench.methods.rded import RDED


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns the built-in methods."""
    return [Random, Herding, KCenter, KMeans, RDED, Full]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of the core. They include the settings of these methods."""
    return builtin_paths()
