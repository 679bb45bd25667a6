"""The graph of the stages: order, what a stage forces, and what it refuses."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from ddbench.api.stage import Stage
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.graph import StageGraph, stage_graph
from ddbench.registry.hooks import CORE
from ddbench.registry.registry import PluginRegistry


def stage(
    name: str, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), on_demand: bool = False
) -> Stage[Any]:
    fields = {"name": name, "version": "1", "inputs": inputs, "outputs": outputs, "on_demand": on_demand}
    return type(name, (Stage,), {**fields, "build": lambda self, run, part, checkpoint: ({}, {})})()  # type: ignore[no-any-return]


def test_the_built_in_stages_are_in_the_order_of_the_method() -> None:
    registered = PluginRegistry()
    built_in = [stage() for stage in registered.stages() if registered.distribution_of("stage", stage.name) == CORE]
    names = [name for name in StageGraph(built_in).names if name != "dynamics"]  # of the coresets
    assert names == [
        *("data", "given", "teacher", "statistics", "method", "distill", "labels", "evaluate", "measure", "measures")
    ]


def test_every_stage_stands_after_the_stages_that_it_reads_however_they_are_registered() -> None:
    stages = [stage("a"), stage("b", ("a",)), stage("c", ("b",)), stage("plugin", ("a",), ("c",))]
    for order in permutations(stages):
        graph = StageGraph(order)
        position = {name: number for number, name in enumerate(graph.names)}
        assert position["a"] < position["b"] < position["c"]
        assert position["a"] < position["plugin"] < position["c"]


def test_a_forced_stage_forces_those_that_depend_on_it_and_no_others() -> None:
    graph = stage_graph(PluginRegistry())
    assert graph.downstream(["teacher"]) == {"teacher", "statistics", "method", *graph.downstream(["distill"])}
    assert graph.downstream(["distill"]) == {"distill", "labels", "evaluate", "measure", "measures"}
    assert graph.downstream(["labels"]) == {"labels", "evaluate", "measures"}
    assert graph.downstream([]) == frozenset()
    with pytest.raises(DDBenchError, match="unknown stage 'distil'; did you mean 'distill'"):
        graph.downstream(["distil"])


def test_on_demand_stages_are_built_within_the_stage_that_reads_them() -> None:
    graph = stage_graph(PluginRegistry())
    assert graph.built_within("distill") == {"distill", "method"}
    assert graph.built_within("evaluate") == {"evaluate", "labels"}
    assert graph.built_within("teacher") == {"teacher"}


def test_circles_and_unknown_stages_are_refused() -> None:
    with pytest.raises(DDBenchError, match="form a cycle: a, b"):
        StageGraph([stage("a", ("b",)), stage("b", ("a",))])
    with pytest.raises(DDBenchError, match=r"stage 'a' names another stage: unknown stage 'bb'; did you mean 'b'"):
        StageGraph([stage("a", ("bb",)), stage("b")])
