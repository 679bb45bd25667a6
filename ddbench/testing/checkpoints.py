"""A cache that simulates kills during a build, and counts the saves and loads of its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ddbench.core.interruption import RunInterrupt
from ddbench.storage.artifacts import Built
from ddbench.storage.cache import Accept, Cache, accept_all
from ddbench.storage.checkpoint import Checkpoint

Moment = Literal["save", "report"]

INTERRUPTIONS = 3


class Interruption(RunInterrupt):
    """Ends a build at a point where the process could be killed."""


@dataclass
class Interrupter:
    """Interrupts builds at the first moments of one kind, and counts the saves and loads of their checkpoints.

    Args:
        moment: When to interrupt: right after a checkpoint is "save"d, or when a step is "report"ed.
        remaining: Interruptions still to come.
        saves: Checkpoints saved so far.
        loads: Checkpoints loaded so far.
        reports: Steps reported so far.
    """

    moment: Moment
    remaining: int = INTERRUPTIONS
    saves: int = 0
    loads: int = 0
    reports: int = 0

    def reach(self, moment: Moment) -> None:
        """Raises Interruption if builds are interrupted at this kind of moment and interruptions remain."""
        if moment == self.moment and self.remaining:
            self.remaining -= 1
            raise Interruption


@dataclass(frozen=True)
class ObservedCheckpoint(Checkpoint):
    """A checkpoint that reports its saves and loads to an Interrupter."""

    interrupter: Interrupter = field(default_factory=lambda: Interrupter("save", remaining=0), compare=False)

    def load(self) -> Built | None:
        """Loads the checkpoint and counts it. See Checkpoint.load."""
        loaded = super().load()
        self.interrupter.loads += loaded is not None
        return loaded

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Saves the checkpoint and counts it. Raises Interruption if one is due. See Checkpoint.save."""
        super().save(tensors, meta)
        self.interrupter.saves += 1
        self.interrupter.reach("save")


class InterruptingCache(Cache):
    """A cache whose builds of one stage use observed checkpoints.

    Args:
        root: Folder of the cache.
        stage: The stage whose builds are observed.
        interrupter: Receives the saves and loads of their checkpoints.
    """

    def __init__(self, root: Path, stage: str, interrupter: Interrupter) -> None:
        super().__init__(root)
        self._stage = stage
        self._interrupter = interrupter

    def get(
        self,
        stage: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Checkpoint], Built],
        accept: Accept = accept_all,
    ) -> Any:
        """Returns or builds an artifact. See Cache.get."""

        def observed_build(checkpoint: Checkpoint) -> Built:
            return build(ObservedCheckpoint(checkpoint.path, checkpoint.warn, interrupter=self._interrupter))

        return super().get(stage, depends_on, observed_build if stage == self._stage else build, accept)
