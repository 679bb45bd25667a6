"""Whether this process was started as one of several (torchrun): one leads, the others help it train. No torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from ddbench.core.errors import DDBenchError
from ddbench.core.processes import is_distributed

if TYPE_CHECKING:
    from ddbench.pipeline.workspace import Workspace

T = TypeVar("T")


def together(work: Callable[[], T], workspace: Workspace) -> T | None:
    """`work()` where this process is alone or leads; the others take part in what it trains, and get None at its end.

    To be called by every process that has RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment (LOCAL_RANK
    and LOCAL_WORLD_SIZE too, where several of a node see all its devices), each with a `workspace` on the same cache.
    Raises DDBenchError where Lightning Fabric is not installed, where the processes do not find each other, and in one
    that does not lead where training fails in that one alone.
    """
    if not is_distributed():
        return work()
    if find_spec("lightning_fabric") is None:
        raise DDBenchError("training over several processes needs Lightning Fabric: pip install 'ddbench[fabric]'")
    from ddbench.execution import parallel

    return parallel.together(work, workspace)
