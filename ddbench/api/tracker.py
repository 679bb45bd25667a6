"""The base class of experiment trackers: observers that keep the progress of a grid in another program. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ddbench.api.hookspecs import hookimpl

if TYPE_CHECKING:
    from ddbench.core.events import Event


class Tracker(ABC):
    """Keeps one run for each record: losses, learning rates, accuracies, a picture of the set, the record.

    Subclass it and register the class with the hook `ddbench_trackers`. `ddbench run --track NAME` creates it, and it
    then receives events and records as every observer does. What several cells share, such as a teacher, is in the run
    of the cell for which it is computed.

    Attributes:
        name: Name on the command line.

    Example:
        A tracker that prints each value:

            from ddbench.api import Tracker, hookimpl


            class Lines(Tracker):
                name = "lines"

                def start(self, run, configuration):
                    print(f"{run}: {configuration['method']} at IPC {configuration['ipc']}")

                def log(self, run, values, step):
                    print(f"{run}: step {step}: {values}")

                def finish(self, run, record):
                    print(f"{run}: top-1 {record['metrics']['top1_last']}" if record else f"{run}: no record")


            @hookimpl
            def ddbench_trackers():
                return [Lines]
    """

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        """Imports the tracker's library, and checks what it needs.

        Args:
            folder: A folder for the files of this tracker, in the results folder. It need not exist.

        Raises:
            ImportError: The library is not installed.
        """
        self.folder = folder
        self._open: set[str] = set()
        self._steps: dict[tuple[str, str, int], int] = {}

    @abstractmethod
    def start(self, run: str, configuration: Mapping[str, Any]) -> None:
        """Starts a run. Several runs can be open at a time.

        Args:
            run: The name of the run: that of the record.
            configuration: Method, dataset, IPC, protocol and settings, as in the record.
        """

    @abstractmethod
    def log(self, run: str, values: Mapping[str, float], step: int) -> None:
        """Keeps values of a step.

        Args:
            run: The name of an open run.
            values: Numbers by name, e.g. `distill/loss`; `distill/loss 2` for the second unit of the set.
            step: The step of the stage.
        """

    def image(self, run: str, path: Path) -> None:  # noqa: B027 (a tracker need not show images)
        """Keeps the picture of the distilled set.

        Args:
            run: The name of an open run.
            path: The PNG file.
        """

    @abstractmethod
    def finish(self, run: str, record: Mapping[str, Any] | None) -> None:
        """Ends a run.

        Args:
            run: The name of an open run.
            record: The record as JSON; None: there is none, because the cell failed or the grid was stopped.
        """

    def close(self) -> None:
        """Ends the runs without record. It is called at the end of the grid."""
        for run in sorted(self._open):
            self.finish(run, None)
        self._open.clear()

    @hookimpl
    def ddbench_event(self, event: Event) -> None:
        """Keeps the metrics of a step, the accuracy of a finished stage, and the picture of a set."""
        if event.context is None or event.kind not in ("step", "finished", "preview"):
            return
        run = event.context.record
        part = (run, event.stage, event.part)
        if event.kind == "step":
            self._steps[part] = event.step
            metrics = event.metrics
        else:
            metrics = {name: value for name, value in event.metrics.items() if name == "top1"}
        number = f" {event.part + 1}" if event.part else ""
        values = {f"{event.stage}/{name}{number}": value for name, value in metrics.items()}
        if values or event.image:
            self._ensure_started(run, event.context.configuration)
        if values:
            self.log(run, values, self._steps.get(part, 0))
        if event.image:
            self.image(run, event.image)

    @hookimpl
    def ddbench_record(self, record: Any) -> None:
        """Ends the run of a record."""
        run = next((run for run in self._open if record.name.startswith(run)), record.name)
        self._ensure_started(run, record.configuration)
        self.finish(run, record.model_dump(mode="json"))
        self._open.discard(run)

    def _ensure_started(self, run: str, configuration: Mapping[str, Any]) -> None:
        if run not in self._open:
            self.start(run, configuration)
            self._open.add(run)


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a record by name: accuracies, bytes and steps.

    Args:
        record: The record as JSON.

    Example:
        >>> metrics_of({"metrics": {"top1_last": 61.5, "top1_best": None, "per_class": [61.5]}})
        {'top1_last': 61.5}
    """
    return {name: float(value) for name, value in record["metrics"].items() if isinstance(value, int | float)}
