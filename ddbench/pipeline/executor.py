"""Where the stages of a grid are computed: in this process, or by the workers of a Ray cluster. Imports no torch."""

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
    """Brings what the cells of a grid need into the cache; records, pictures and tables are made of what is there."""

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """The runtime with every `auto` decided for where it is computed. Raises as `ddbench.nn.device.resolve`."""
        ...

    def computing(self, pipelines: Sequence[Any]) -> AbstractContextManager[WaitForArtifacts]:
        """While the block runs, `pipelines` are computed. Gives what waits until one of them is in the cache.

        That raises DDBenchError with the reason where a part of it failed, and stops where a stop is `requested`.
        """
        ...


class Inline:
    """This process: a pipeline computes what it is asked for, there is nothing to bring."""

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """For this machine."""
        from ddbench.nn import device

        return device.resolve(runtime)

    @contextlib.contextmanager
    def computing(self, pipelines: Sequence[Any]) -> Iterator[WaitForArtifacts]:
        """Nothing to do and nothing to wait for."""
        yield lambda pipeline: None
