"""Where the stages of a grid are computed: in this process, or by the workers of a Ray cluster. Imports no torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ddbench.core import processes
from ddbench.core.errors import DDBenchError
from ddbench.execution.resources import resources_of
from ddbench.pipeline.executor import Executor, Inline

if TYPE_CHECKING:
    pass

NAMES = ("inline", "ray")


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
    if processes.is_distributed():
        raise DDBenchError("--executor ray in processes started together (torchrun): train with them first, inline")
    if find_spec("ray") is None:
        raise DDBenchError("--executor ray needs Ray, which is not installed: pip install 'ddbench[ray]'")
    from ddbench.execution.ray_executor import OnRay

    return OnRay(address, resources), others
