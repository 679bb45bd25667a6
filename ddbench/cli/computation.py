"""The options of the commands that compute a grid: `run`, `tune` and `evaluate`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.cli import options
from ddbench.core import interruption
from ddbench.execution import choose

if TYPE_CHECKING:
    from ddbench.pipeline.executor import Executor
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry


@dataclass(frozen=True)
class Computation:
    """The values of the options, by their names."""

    executor: str
    ray_address: str | None
    time_limit: float | None
    data_dir: Path | None
    results_dir: Path
    cache_dir: Path | str
    dry_run: bool
    verbose: bool
    strict: bool
    wide: bool
    force: tuple[str, ...]

    def choose(self, assignments: tuple[str, ...], registry: PluginRegistry) -> tuple[Executor, tuple[str, ...]]:
        """Returns the executor, and the assignments of `--set` that it does not use."""
        return choose.choose(self.executor, self.ray_address, assignments, registry)

    def workspace(self, registry: PluginRegistry, executor: Executor) -> Workspace:
        """Returns the workspace. A plan downloads nothing."""
        from ddbench.pipeline.workspace import Workspace

        cache = options.open_cache(self.cache_dir, self.force)
        return Workspace(registry, cache, self.data_dir, download=not self.dry_run, executor=executor)

    def stop_requests(self) -> AbstractContextManager[None]:
        """Returns a block in which signals, and the time limit, request a stop."""
        return interruption.handle_signals(self.time_limit and self.time_limit * 60)


def computation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which receives their values as `computation`."""

    @functools.wraps(command)
    def collect(*arguments: Any, **values: Any) -> Any:
        own = {field.name: values.pop(field.name) for field in fields(Computation)}
        return command(*arguments, computation=Computation(**own), **values)

    return options.all_of(
        options.executor,
        options.time_limit,
        options.data,
        options.results,
        options.cache,
        options.dry_run,
        options.strict,
        options.wide,
        options.force,
    )(collect)
