"""The processes of one distributed run (torchrun). Rank 0 runs the stages; the others only train with it. No torch."""

from __future__ import annotations

import os
import sys

from ddbench.core.errors import DDBenchError


class LostProcessError(DDBenchError):
    """Another process of the distributed run ended or does not respond.

    Args:
        cause: The error of the collective operation that failed, as text.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(
            "the processes that train together have lost their connection; "
            f"run the same command again to resume from the last checkpoint ({cause})"
        )


def is_distributed() -> bool:
    """Returns whether this process is one of several that were started together (torchrun's RANK and WORLD_SIZE)."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_rank_zero() -> bool:
    """Returns whether this process has rank 0 or is the only one. Rank 0 runs the stages, prints and writes files."""
    return not is_distributed() or os.environ["RANK"] == "0"


def silence_nonzero_ranks() -> None:
    """Discards the output of all processes but rank 0, and the start-up warnings of torch.distributed's log."""
    if is_distributed():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not is_rank_zero():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (stays open as long as the process)
