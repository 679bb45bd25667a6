"""The graph of the stages: their order, and which stages depend on which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ddbench.api.stage import Stage
from ddbench.core.errors import DDBenchError, unknown

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


def stage_graph(registry: PluginRegistry) -> StageGraph:
    """Returns the graph of all registered stages."""
    return StageGraph(stage() for stage in registry.stages())


class StageGraph:
    """All stages in topological order: each stage follows the stages that it reads.

    Args:
        stages: The stages. Stages that do not depend on each other keep this order.

    Raises:
        DDBenchError: A stage reads a stage that does not exist, or the graph has a cycle.
    """

    def __init__(self, stages: Iterable[Stage[Any]]) -> None:
        by_name = {stage.name: stage for stage in stages}
        inputs = {name: dict.fromkeys(stage.inputs) for name, stage in by_name.items()}
        for name, stage in by_name.items():
            for other in (*stage.inputs, *stage.outputs):
                if other not in by_name:
                    raise DDBenchError(f"stage '{name}' names another stage: {unknown('stage', other, by_name)}")
            for output in stage.outputs:
                inputs[output][name] = None
        order: list[str] = []
        while len(order) < len(inputs):
            ready = (name for name in inputs if name not in order and inputs[name].keys() <= set(order))
            if (first := next(ready, None)) is None:
                circle = ", ".join(name for name in inputs if name not in order)
                raise DDBenchError(f"the stages form a cycle: {circle}")
            order.append(first)
        self._stages = {name: by_name[name] for name in order}
        self._inputs = inputs

    def __iter__(self) -> Iterator[Stage[Any]]:
        return iter(self._stages.values())

    def __getitem__(self, name: str) -> Stage[Any]:
        if name not in self._stages:
            raise unknown("stage", name, self._stages)
        return self._stages[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stages, in order."""
        return tuple(self._stages)

    def inputs(self, name: str) -> frozenset[str]:
        """Returns the names of the stages that this one reads."""
        return frozenset(self._inputs[name])

    def downstream(self, names: Iterable[str]) -> frozenset[str]:
        """Returns these stages and all that depend on them, which must be rebuilt too if these stages are forced.

        Keys cover settings, not file contents, so they do not change if an input is rebuilt.
        """
        stages = {self[name].name for name in names}
        for name in self._stages:
            if not stages.isdisjoint(self._inputs[name]):
                stages.add(name)
        return frozenset(stages)

    def built_within(self, name: str) -> frozenset[str]:
        """Returns the stage and the on-demand stages that it reads, which are built during its build."""
        return frozenset({name, *(each for each in self._inputs[name] if self._stages[each].on_demand)})
