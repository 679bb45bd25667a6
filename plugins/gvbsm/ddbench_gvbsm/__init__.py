"""G-VBSM and EDC: dataset distillation by matching several teachers and several statistics.

The entry point of the plugin: hook implementations. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ddbench.api import Distiller, Stage, hookimpl
from ddbench_gvbsm.edc import EDC
from ddbench_gvbsm.gvbsm import GVBSM
from ddbench_gvbsm.statistics import CategoryStatistics, ConvolutionStatistics


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns the methods."""
    return [GVBSM, EDC]


@hookimpl
def ddbench_stages() -> Iterable[type[Stage]]:
    """Returns the stages of the statistics of the real images."""
    return [ConvolutionStatistics, CategoryStatistics]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of the methods."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
