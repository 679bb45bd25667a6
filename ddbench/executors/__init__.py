"""Where the stages of a grid are computed: in this process, or by the workers of a Ray cluster. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from ddbench import launched
from ddbench.errors import DDBenchError
from ddbench.executors.resources import resources_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ddbench.config import RuntimeConfig
    from ddbench.stages import Pipeline

NAMES = ("inline", "ray")
Bring = Callable[["Pipeline"], None]


class Executor(Protocol):
    """Brings what the cells of a grid need into the cache; records, pictures and tables are made of what is there."""

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """The runtime with every `auto` decided for where it is computed. Raises as `ddbench.device.resolve`."""
        ...

    def computing(self, pipelines: Sequence[Pipeline]) -> AbstractContextManager[Bring]:
        """While the block runs, `pipelines` are computed. Gives what waits until one of them is in the cache.

        That raises DDBenchError with the reason where a part of it failed, and stops where a stop is `requested`.
        """
        ...


class Inline:
    """This process: a pipeline computes what it is asked for, there is nothing to bring."""

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """For this machine."""
        from ddbench import device

        return device.resolve(runtime)

    @contextlib.contextmanager
    def computing(self, pipelines: Sequence[Pipeline]) -> Iterator[Bring]:
        """Nothing to do and nothing to wait for."""
        yield lambda pipeline: None


def choose(name: str, address: str | None, assignments: tuple[str, ...]) -> tuple[Executor, tuple[str, ...]]:
    """The executor of NAMES that is asked for, and the `--set` that are left when `resources.` are taken out.

    `address`: of a Ray cluster; None: Ray is started on this machine. Raises DDBenchError for resources that cannot
    be, where Ray is not installed, and where this is one of several processes.
    """
    others = tuple(text for text in assignments if not text.strip().startswith("resources."))
    mine = tuple(text for text in assignments if text not in others)
    resources = resources_of(mine)
    if name == "inline":
        if mine:
            raise DDBenchError(f"--set {mine[0]}: resources are given out by Ray alone (--executor ray)")
        return Inline(), others
    if launched.several():
        raise DDBenchError("--executor ray in processes started together (torchrun): train with them first, inline")
    if find_spec("ray") is None:
        raise DDBenchError("--executor ray needs Ray, which is not installed: pip install 'ddbench[ray]'")
    from ddbench.executors.on_ray import OnRay

    return OnRay(address, resources), others
