"""What a table that measures in its own way is given."""

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
    """What a table that measures in its own way may use (`TableSpec.fill`).

    `workspace` is None where nothing may be computed: there are records alone. `only_cached`: nothing new.
    """

    request: Request
    registry: PluginRegistry
    workspace: Workspace | None
    results_dir: Path
    only_cached: bool
    warn: Callable[[str], None]
