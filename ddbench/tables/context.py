"""The context that a table's `fill` function receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError, exception_line
from ddbench.results.conditions import Pool, pools

if TYPE_CHECKING:
    from ddbench.pipeline.request import Request
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record


@dataclass(frozen=True)
class TableContext:
    """The objects that are needed to fill a table.

    Attributes:
        request: The options of the command line.
        registry: The registered plugins.
        workspace: The cache, the datasets and the executor. None: nothing may be computed.
        results_dir: Folder of the results.
        warn: Called with each message for the user.
        stored: The records of the folder, read before the table is filled.
        yes: Whether more than an hour of work may start.
        strict: Whether runs with a possible data leak are refused.
    """

    request: Request
    registry: PluginRegistry
    workspace: Workspace | None
    results_dir: Path
    warn: Callable[[str], None]
    stored: Sequence[Record]
    yes: bool = False
    strict: bool = False
    _reasons: dict[str, str] = field(default_factory=dict)

    @cached_property
    def pools(self) -> list[Pool]:
        """The pools of the stored records."""
        return pools(self.stored)

    def check_duration(self, seconds: float, where: str = "on this device", detail: str = "") -> None:
        """Prints the estimated duration of long work, and refuses it without `yes`.

        Args:
            seconds: The estimate.
            where: What computes in the estimate.
            detail: `Estimate.detail`.

        Raises:
            DDBenchError: If it is above an hour and `yes` is not set.
        """
        from ddbench.pipeline.estimate import LONG_SECONDS, readable

        if seconds <= LONG_SECONDS:
            return
        about = f"about {readable(seconds)} {where}"
        if not self.yes:
            raise DDBenchError(f"the missing cells take {about}: --yes starts them, --dry-run lists them")
        for line in filter(None, (f"this will take {about}", detail)):
            self.warn(line)

    def report_failure(self, where: str, error: Exception) -> str:
        """Reports why a cell failed. A cause that several cells share is reported once; the table marks every cell.

        Args:
            where: The table and the cell.
            error: The exception.

        Returns:
            The reason, in one line. It is the same for all cells with this cause.
        """
        reason = exception_line(error)
        cause = error.cause if isinstance(error, DDBenchError) else reason
        if cause not in self._reasons:
            self._reasons[cause] = reason
            self.warn(f"{where}: failed: {reason}")
        return self._reasons[cause]
