"""Runs a command in one process, or in the several processes that torchrun started. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from ddbench.core.errors import DDBenchError
from ddbench.core.processes import is_distributed, is_rank_zero

if TYPE_CHECKING:
    from ddbench.pipeline.workspace import Workspace

T = TypeVar("T")


def run_distributed(command: Callable[[], T], workspace: Workspace | None) -> T | None:
    """Runs `command` in a single process or in rank 0. The other ranks take part in its distributed training.

    Every process calls it with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment (and LOCAL_RANK and
    LOCAL_WORLD_SIZE if several processes of a node share its devices), and with a workspace on the same cache.

    Args:
        command: The function that rank 0 runs.
        workspace: The workspace that the command uses. None: the command trains nothing.

    Returns:
        The result of `command` in rank 0, and None in the other ranks.

    Raises:
        DDBenchError: Lightning Fabric is not installed, the processes cannot connect to each other, or training fails
            in this rank only.
    """
    if not is_distributed():
        return command()
    if workspace is None:
        return command() if is_rank_zero() else None
    if find_spec("lightning_fabric") is None:
        raise DDBenchError("training over several processes needs Lightning Fabric: pip install 'ddbench[fabric]'")
    from ddbench.execution import parallel

    return parallel.run_distributed(command, workspace)
