"""The experiment trackers of a run: `ddbench run --track NAME`. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddbench.api.tracker import Tracker
from ddbench.core.errors import DDBenchError
from ddbench.registry.registry import PluginRegistry


@contextlib.contextmanager
def tracking(registry: PluginRegistry, classes: Sequence[type[Tracker]], results_dir: Path) -> Iterator[None]:
    """Creates trackers, which observe the events and records of the block.

    Args:
        registry: The registered plugins.
        classes: The trackers.
        results_dir: Folder of the results. The files of a tracker are in `tracking/NAME` in it.

    Raises:
        DDBenchError: The library of a tracker is not installed.
    """
    with contextlib.ExitStack() as stack:
        for cls in classes:
            owner = registry.distribution_of("tracker", cls.name)
            try:
                tracker = cls(results_dir / "tracking" / cls.name)
            except ImportError as error:
                install = f"pip install '{owner}[{cls.name}]'"
                raise DDBenchError(f"--track {cls.name}: {error.name or error} is not installed: {install}") from error
            stack.callback(tracker.close)
            registry.register(tracker, owner)
        yield
