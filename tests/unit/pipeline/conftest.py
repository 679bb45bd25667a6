"""Cells of a request, and runs of a cell in a cache of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddbench.api.hookspecs import hookimpl
from ddbench.config.experiment import Experiment
from ddbench.core.events import Event
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.record import build_record
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.results.records import Record
from ddbench.storage.cache import Cache

TINY = (
    *("teacher.arch=convnet-bn-d2", "teacher.batch_size=256", "teacher.learning_rate=0.1"),
    *("data.image_size=8", "data.stored_size=8", "evaluator.epochs=2"),
)
WMDD = ("method.steps=4", "method.iterations=1", "method.jitter=1")


class Desk:
    """One cache folder and what happened in it: every `run` is a new process's view of it."""

    def __init__(self, folder: Path, plugins: Iterable[object] = ()) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.warnings: list[str] = []
        self._plugins = [SimpleNamespace(ddbench_event=hookimpl(lambda event: self.events.append(event))), *plugins]

    def cell(self, *assignments: str, method: str = "wmdd", **request: Any) -> Experiment:
        registry = self._registry()
        own = WMDD if method == "wmdd" else ()
        options: dict[str, Any] = {"ipcs": (2,), "recipes": ("smoke",), "device": "cpu", "precision": "fp32"}
        options |= request
        options["assignments"] = (*TINY, *own, *assignments)
        (cell,) = experiments(Request(methods=(method,), datasets=("digits",), **options), registry)
        return cell

    def pipeline(self, cell: Experiment, force: frozenset[str] = frozenset()) -> Pipeline:
        cache = Cache(self.folder, force, self.warnings.append)
        return Pipeline(Workspace(self._registry(), cache, None), cell)

    def run(self, *assignments: str, force: frozenset[str] = frozenset(), **request: Any) -> Record:
        self.events.clear()
        pipeline = self.pipeline(self.cell(*assignments, **request), force)
        pipeline.run()
        return build_record(pipeline)

    def _registry(self) -> PluginRegistry:
        registry = PluginRegistry()
        for plugin in self._plugins:
            registry.register(plugin)
        return registry

    def computed(self) -> dict[str, int]:
        """How many artifacts of each stage the last run built."""
        names = [event.stage for event in self.events if event.kind in ("started", "resumed")]
        return {name: names.count(name) for name in names}

    def times(self, stage: str) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (self.folder / stage).glob("*.safetensors")}


@pytest.fixture(scope="session")
def desk_in(tmp_path_factory: pytest.TempPathFactory) -> type[Desk]:
    """Makes a desk in a folder. All have the same decoded images, a third of the work of a small run."""
    decoded = tmp_path_factory.mktemp("decoded")

    class Sharing(Desk):
        def __init__(self, folder: Path, plugins: Iterable[object] = ()) -> None:
            super().__init__(folder, plugins)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "data").exists():
                (folder / "data").symlink_to(decoded)

    return Sharing


class FinishedDesk(Desk):
    """A desk on which the plain experiment was run: its record, and what it built."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.first = self.run()
        self.built = self.computed()


@pytest.fixture(scope="session")
def finished_desk(tmp_path_factory: pytest.TempPathFactory) -> FinishedDesk:
    """One for all tests, which only add to it."""
    return FinishedDesk(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def ask() -> Callable[..., list[Experiment]]:
    """Makes the cells of a request: WMDD on digits at IPC 1 with `smoke`, but for the options."""
    registry = PluginRegistry()

    def ask(**options: Any) -> list[Experiment]:
        usual: dict[str, Any] = {"methods": ("wmdd",), "datasets": ("digits",), "ipcs": (1,), "recipes": ("smoke",)}
        return experiments(Request(**{**usual, **options}), registry)

    return ask


@pytest.fixture(scope="session")
def one(ask: Callable[..., list[Experiment]]) -> Callable[..., Experiment]:
    """Makes the only cell of a request."""

    def one(**options: Any) -> Experiment:
        (cell,) = ask(**options)
        return cell

    return one
