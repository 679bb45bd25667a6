"""The context that a table's `fill` function receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddbench.pipeline.request import Request
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry


@dataclass(frozen=True)
class TableContext:
    """The objects that are needed to fill a table.

    Attributes:
        request: The options of the command line.
        registry: The registered plugins.
        workspace: The cache, the datasets and the executor. None: only records may be used.
        results_dir: Folder of the results.
        only_cached: Whether nothing new may be computed.
        warn: Called with each message for the user.
    """

    request: Request
    registry: PluginRegistry
    workspace: Workspace | None
    results_dir: Path
    only_cached: bool
    warn: Callable[[str], None]
