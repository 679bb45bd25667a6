"""The objects that the cells of a grid share: registry, stages, cache, data, executor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.api.settings import RecoverSettings
from ddbench.config.given_sets import SET_PREFIX, digest_in
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.core.files import expand_user
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.executor import Executor, Inline
from ddbench.pipeline.given_sets import GivenSet, open_set
from ddbench.pipeline.graph import stage_graph
from ddbench.storage.cache import Cache
from ddbench.training.strategy import Strategy, current_strategy

if TYPE_CHECKING:
    from ddbench.api.distiller import Distiller
    from ddbench.config.experiment import Experiment
    from ddbench.registry.registry import PluginRegistry


StrategyFor = Callable[[str, "Experiment"], AbstractContextManager[Strategy]]
"""Yields the strategy that trains a stage of an experiment. Other processes take part while the block runs."""


def _one_process(stage: str, experiment: Experiment) -> AbstractContextManager[Strategy]:
    return nullcontext(current_strategy())


class Workspace:
    """The objects that the cells of a grid share.

    It keeps the last dataset and the last teachers, because most cells use the same ones.

    Args:
        registry: The installed methods, protocols, datasets and stages.
        cache: The cache. If it recomputes a stage (`--force`), all stages that depend on it are recomputed too.
        data_dir: The folder of the datasets; None: the default one.
        download: Whether missing datasets are downloaded.
        executor: Computes the grid; default: in this process.

    Attributes:
        graph: The stages.
        emit: Emits an event to the observers.
        strategy_for: Yields the strategy that trains a stage.
        given_sets: The distilled sets that the user gives, by digest.
    """

    def __init__(
        self,
        registry: PluginRegistry,
        cache: Cache,
        data_dir: Path | None,
        download: bool = True,
        executor: Executor | None = None,
    ) -> None:
        self.registry = registry
        self.graph = stage_graph(registry)
        self.cache = cache
        self.cache.force(self.graph.downstream(cache.forced))
        self.data_dir = data_dir
        self.executor = executor or Inline()
        self.emit: Callable[[Event], None] = registry.emit
        self.strategy_for: StrategyFor = _one_process
        self.given_sets: dict[str, GivenSet] = {}
        self._opened_sets: dict[tuple[str, str, DataConfig], str] = {}
        self._notes: set[str] = set()
        self._download = download
        self._datasets: dict[tuple[str, DataConfig], Dataset] = {}
        self._references: dict[str, str] = {}
        self._teachers: dict[str, TappedNetwork] = {}

    def note_once(self, text: str, stage: str = "cache") -> None:
        """Prints a line for the user about a stage, once for the whole grid."""
        self.relay(Event("note", stage, message=text))

    def relay(self, event: Event) -> None:
        """Emits an event. A note is emitted once for the whole grid, however often a dataset is opened."""
        if event.kind == "note":
            if event.message in self._notes:
                return
            self._notes.add(event.message)
        self.emit(event)

    def dataset(self, reference: str, config: DataConfig) -> Dataset:
        """Returns a dataset. Its images are decoded when the first one is read.

        Args:
            reference: Its name, `imagefolder:PATH`, or the name of an image folder in a record.
            config: Sizes, resize filter, fraction that is held out.
        """
        reference = self.dataset_reference(reference)
        if (reference, config) not in self._datasets:
            self._datasets.clear()
            spec = self.registry.dataset(reference)
            with self.registry.attribute_errors("dataset", reference):
                dataset = load_dataset(spec, config, self.data_dir, self.cache, self.relay, download=self._download)
            self._datasets[reference, config] = dataset
            self._references[dataset.name] = reference
        return self._datasets[reference, config]

    @property
    def has_several_datasets(self) -> bool:
        """Whether the cells use several datasets, so that progress lines name them."""
        return len(self._references) > 1

    def dataset_reference(self, name: str) -> str:
        """Returns how the command line gave a dataset, from its name in records. Other names are returned unchanged.

        An experiment in a pipeline has the name in records. Other processes need the path of an image folder.
        """
        return self._references.get(name, name)

    def add_given_set(self, given: GivenSet) -> None:
        """Adds a set that the user gives, and prints what was converted or left out when it was read."""
        self.given_sets[given.digest] = given
        for note in given.notes:
            self.note_once(f"{given.origin['name']}: {note}", "given")

    def with_digest(self, method: Distiller, dataset: Dataset) -> Distiller:
        """Returns a method with the digest of the set in `initial`, which keys and records contain, instead of a path.

        Args:
            method: The method of an experiment.
            dataset: Its dataset.

        Raises:
            DDBenchError: There is no such set.
        """
        reference = method.given_set()
        if reference is None or digest_in(reference):
            return method
        key = (reference, dataset.name, dataset.config)
        if key not in self._opened_sets:
            path = expand_user(Path(reference))
            if isinstance(method, RecoverSettings) and not path.exists():
                raise DDBenchError(f"method.initial: {reference} is not {', '.join(method.starts)}, a file or a folder")
            try:
                given = open_set(path, dataset)
            except DDBenchError as error:
                raise DDBenchError(f"method.initial: {error}") from error
            self.add_given_set(given)
            self._opened_sets[key] = given.digest
        return method.model_copy(update={"initial": f"{SET_PREFIX}{self._opened_sets[key]}"})

    def teacher(self, key: str, load: Callable[[], TappedNetwork], count: int) -> TappedNetwork:
        """Returns the teacher with this key on its device. Calls `load` unless it is kept.

        Args:
            key: Identifies the weights and the device.
            load: Loads the teacher.
            count: The number of teachers that the cell uses. As many are kept, those that were loaded last.
        """
        if key not in self._teachers:
            for oldest in list(self._teachers)[: max(0, len(self._teachers) - count + 1)]:
                del self._teachers[oldest]
            self._teachers[key] = load()
        return self._teachers[key]

    def discard_teachers(self) -> None:
        """Discards the loaded teachers, so that they are loaded from their artifacts at the next use."""
        self._teachers.clear()
