"""Built-in methods: baselines made of real images, and the full-data reference. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.stage import Stage
from ddbench.config.recipes import builtin_paths
from ddbench.methods.confidence import Confidence
from ddbench.methods.coresets import AUM, CCS, EL2N, Forgetting, GraNd
from ddbench.methods.dynamics import Dynamics
from ddbench.methods.full import Full
from ddbench.methods.herding import Herding
from ddbench.methods.k_center import KCenter
from ddbench.methods.kmeans import KMeans
from ddbench.methods.random import Random
from ddbench.methods.rded import RDED


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns the built-in methods."""
    return [Random, Herding, KCenter, KMeans, EL2N, GraNd, Forgetting, AUM, CCS, Confidence, RDED, Full]


@hookimpl
def ddbench_stages() -> Iterable[type[Stage[Any]]]:
    """Returns the stage of the methods that score images by the training of networks."""
    return [Dynamics]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of the core. They include the settings of these methods."""
    return builtin_paths()
