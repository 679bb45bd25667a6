"""The experiment trackers of a run: `ddbench run --track NAME`. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddbench.api.tracker import Tracker
from ddbench.core.errors import DDBenchError
from ddbench.registry.attribution import print_warning
from ddbench.registry.registry import PluginRegistry


@contextlib.contextmanager
def tracking(registry: PluginRegistry, classes: Sequence[type[Tracker]], results_dir: Path) -> Iterator[None]:
    """Creates trackers, which observe the events and records of the block.

    Args:
        registry: The registered plugins.
        classes: The trackers.
        results_dir: Folder of the results. The files of a tracker are in `tracking/NAME` in it.

    Raises:
        DDBenchError: The library of a tracker is not installed, or the tracker refuses to start.
    """
    with contextlib.ExitStack() as stack:
        for cls in classes:
            tracker = _create(registry, cls, results_dir / "tracking" / cls.name)
            stack.callback(_close, registry, tracker)
            registry.register(tracker, registry.distribution_of("tracker", cls.name))
        yield


def _create(registry: PluginRegistry, cls: type[Tracker], folder: Path) -> Tracker:
    with registry.attribute_errors("tracker", cls.name):
        try:
            return cls(folder)
        except ImportError as error:
            install = f"pip install '{registry.distribution_of('tracker', cls.name)}[{cls.name}]'"
            raise DDBenchError(f"--track {cls.name}: {error.name or error} is not installed: {install}") from error


def _close(registry: PluginRegistry, tracker: Tracker) -> None:
    """Closes a tracker. A tracker that raises cannot end a run, and causes a warning."""
    try:
        with registry.attribute_errors("tracker", tracker.name):
            tracker.close()
    except DDBenchError as error:
        print_warning(str(error))
