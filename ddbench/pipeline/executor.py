"""The interface of executors, which compute the stages of a grid, and the executor of this process.

Imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ddbench.config.schema import RuntimeConfig

WaitForArtifacts = Callable[[Any], None]
"""Waits until the artifacts of a `Pipeline` are in the cache."""


class Executor(Protocol):
    """Computes the artifacts of a grid. Records, pictures and tables are made from the cache afterwards."""

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """Returns the runtime with every `auto` decided for the machine that computes.

        Raises:
            DDBenchError: The device is not available.
        """
        ...

    def computing(self, pipelines: Sequence[Any]) -> AbstractContextManager[WaitForArtifacts]:
        """Computes the pipelines while the block runs.

        Yields a function that waits for one pipeline. It raises DDBenchError if a part of the pipeline failed, and
        stops the program if a stop was requested.
        """
        ...


class Inline:
    """Computes in this process: a pipeline builds what it needs when it runs."""

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """Returns the runtime for this machine."""
        from ddbench.nn import device

        return device.resolve(runtime)

    @contextlib.contextmanager
    def computing(self, pipelines: Sequence[Any]) -> Iterator[WaitForArtifacts]:
        """Computes nothing in advance, so the yielded function does not wait."""
        yield lambda pipeline: None
