"""MTT and DATM: dataset distillation by matching training trajectories.

The entry point of the plugin: hook implementations. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ddbench.api import Distiller, Stage, hookimpl
from ddbench_mtt.datm import DATM
from ddbench_mtt.experts import Experts
from ddbench_mtt.mtt import MTT


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns the methods."""
    return [MTT, DATM]


@hookimpl
def ddbench_stages() -> Iterable[type[Stage]]:
    """Returns the stage of the experts."""
    return [Experts]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of the methods."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
