"""Chooses the executor of a grid: this process, or the workers of a Ray cluster. Imports no torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ddbench.core import processes
from ddbench.core.errors import DDBenchError
from ddbench.execution.resources import ResourceConfig
from ddbench.pipeline.executor import Executor, Inline
from ddbench.pipeline.graph import stage_graph

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry

NAMES = ("inline", "ray")
PREFIX = "resources."


def choose(
    name: str, address: str | None, assignments: tuple[str, ...], registry: PluginRegistry
) -> tuple[Executor, tuple[str, ...]]:
    """Returns the executor, and the `--set` texts that do not set resources.

    Args:
        name: One of NAMES.
        address: The address of a Ray cluster; None: Ray is started on this machine.
        assignments: All `--set` texts.
        registry: The registry of the stages.

    Raises:
        DDBenchError: A resource is invalid, Ray is not installed, or Ray is chosen in one of several processes
            (torchrun).
    """
    others = tuple(text for text in assignments if not text.strip().startswith(PREFIX))
    about_resources = tuple(text for text in assignments if text not in others)
    resources = ResourceConfig(about_resources, stage_graph(registry))
    if name == "inline":
        if about_resources:
            raise DDBenchError(f"--set {about_resources[0]}: only Ray assigns resources (--executor ray)")
        return Inline(), others
    if processes.is_distributed():
        raise DDBenchError("--executor ray cannot be used in processes started by torchrun: use --executor inline")
    if find_spec("ray") is None:
        raise DDBenchError("--executor ray needs Ray, which is not installed: pip install 'ddbench[ray]'")
    from ddbench.execution.ray_executor import RayExecutor

    return RayExecutor(address, resources), others
