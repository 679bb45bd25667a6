"""The stage graph: teacher -> statistics -> distill -> evaluate, each step through the cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.config.schema import DataConfig
from ddbench.core.events import Event
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.executor import Executor, Inline
from ddbench.pipeline.graph import stage_graph
from ddbench.storage.cache import Cache
from ddbench.training.strategy import Strategy, current_strategy

if TYPE_CHECKING:
    from ddbench.config.experiment import Experiment
    from ddbench.registry.registry import PluginRegistry


StrategyFor = Callable[[str, "Experiment"], AbstractContextManager[Strategy]]
"""The strategy that trains a stage of an experiment; other processes take part while the block runs."""


def _one_process(stage: str, experiment: Experiment) -> AbstractContextManager[Strategy]:
    return nullcontext(current_strategy())


class Workspace:
    """Where stages read and write, and whom they tell: shared by all experiments of a grid.

    Keeps the dataset and the teacher that were used last, because the cells of a grid mostly share them. `executor`
    says where a grid is computed.
    """

    def __init__(
        self,
        registry: PluginRegistry,
        cache: Cache,
        data_dir: Path | None,
        download: bool = True,
        executor: Executor | None = None,
    ) -> None:
        self.executor = executor or Inline()
        self.registry = registry
        self.cache = cache
        self.graph = stage_graph(registry)
        cache.force(self.graph.downstream(cache.forced))
        self.emit: Callable[[Event], None] = registry.emit
        self.data_dir = data_dir
        self.strategy_for: StrategyFor = _one_process
        self._download = download
        self._datasets: dict[tuple[str, DataConfig], Dataset] = {}
        self._teachers: dict[str, TappedNetwork] = {}

    def dataset(self, name: str, config: DataConfig) -> Dataset:
        """The decoded dataset; decoding is a cached stage of its own."""
        if (name, config) not in self._datasets:
            self._datasets.clear()
            spec = self.registry.dataset(name)
            with self.registry.attribute_errors("dataset", name):
                self._datasets[name, config] = load_dataset(
                    spec, config, self.data_dir, self.cache, self.emit, download=self._download
                )
        return self._datasets[name, config]

    def teacher(self, key: str, load: Callable[[], TappedNetwork]) -> TappedNetwork:
        """The teacher with this key, on its device; `load` makes it where it is not the last one used."""
        if key not in self._teachers:
            self._teachers.clear()
            self._teachers[key] = load()
        return self._teachers[key]
