"""Whether this process was started as one of several (torchrun): one leads, the others help it train. No torch."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    pass


class LostError(DDBenchError):
    """Another process is gone."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "the processes that train together have lost each other; "
            f"the same command goes on from the last checkpoint ({why})"
        )


def is_distributed() -> bool:
    """Whether several processes were started together: torchrun's RANK and WORLD_SIZE."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_rank_zero() -> bool:
    """Whether this process is alone, or the one that runs the stages, talks and writes (RANK 0)."""
    return not is_distributed() or os.environ["RANK"] == "0"


def silence_nonzero_ranks() -> None:
    """Where another process leads this one is silent: what both would say is said there.

    The warnings of torch.distributed's own log, at every process's start, are left out; its errors are not.
    """
    if is_distributed():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not is_rank_zero():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for as long as the process lives)
