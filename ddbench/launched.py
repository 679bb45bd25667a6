"""Whether this process was started as one of several (torchrun): one leads, the others help it train. No torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from ddbench.errors import DDBenchError

if TYPE_CHECKING:
    from ddbench.stages import Workspace

T = TypeVar("T")


class LostError(DDBenchError):
    """Another process is gone."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "the processes that train together have lost each other; "
            f"the same command goes on from the last checkpoint ({why})"
        )


def several() -> bool:
    """Whether several processes were started together: torchrun's RANK and WORLD_SIZE."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def leads() -> bool:
    """Whether this process is alone, or the one that runs the stages, talks and writes (RANK 0)."""
    return not several() or os.environ["RANK"] == "0"


def hush() -> None:
    """Where another process leads this one is silent: what both would say is said there.

    The warnings of torch.distributed's own log, at every process's start, are left out; its errors are not.
    """
    if several():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not leads():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for as long as the process lives)


def together(work: Callable[[], T], workspace: Workspace) -> T | None:
    """`work()` where this process is alone or leads; the others take part in what it trains, and get None at its end.

    To be called by every process that has RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment (LOCAL_RANK
    and LOCAL_WORLD_SIZE too, where several of a node see all its devices), each with a `workspace` on the same cache.
    Raises DDBenchError where Lightning Fabric is not installed, where the processes do not find each other, and in one
    that does not lead where training fails in that one alone.
    """
    if not several():
        return work()
    if find_spec("lightning_fabric") is None:
        raise DDBenchError("training over several processes needs Lightning Fabric: pip install 'ddbench[fabric]'")
    from ddbench import parallel

    return parallel.together(work, workspace)
