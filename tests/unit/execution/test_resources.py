"""The resources of tasks: `--set resources.STAGE.WHAT=VALUE`."""

from __future__ import annotations

from typing import Any

import pytest

from ddbench.config.schema import RuntimeConfig
from ddbench.core.errors import DDBenchError
from ddbench.execution.resources import DistributedResources, ResourceConfig, Resources
from ddbench.pipeline.graph import stage_graph
from ddbench.registry.registry import PluginRegistry


def test_resources_belong_to_a_stage_and_errors_are_one_line() -> None:
    graph = stage_graph(PluginRegistry())
    texts = ("resources.distill.gpus=0.5", "resources.distill.cpus=4", "resources.evaluate.memory=1.5")
    resources = ResourceConfig(texts, graph)
    assert resources.of("distill") == Resources(cpus=4, gpus=0.5)
    assert resources.of("evaluate") == DistributedResources(memory=1.5)
    assert resources.of("measure") == Resources()
    assert resources.of("statistics") == Resources(cpus=None)
    distributed = ResourceConfig(("resources.teacher.processes=4", "resources.evaluate.processes=2"), graph)
    assert {stage: distributed.processes(stage) for stage in ("teacher", "distill", "evaluate", "measure")} == {
        **{"teacher": 4, "distill": 1, "evaluate": 2, "measure": 1}
    }
    wrong = {
        "resources.distil.gpus=1": "no stage 'distil'; did you mean 'distill'?",
        "resources.distill.gpu=1": "no resource 'gpu'; did you mean 'gpus'?",
        "resources.distill.processes=2": "distill has no resource 'processes'",
        "resources.teacher.processes=0": "resources.teacher.processes",
        "resources.distill=1": "write it as resources.STAGE.WHAT=VALUE",
        "resources.distill.cpus=": "write it as resources.STAGE.WHAT=VALUE",
        "resources.distill.cpus=0": "resources.distill.cpus",
        "resources.distill.cpus=[1]": "resources.distill.cpus",
        "resources.distill.gpus=1.5": "a fraction of one GPU, or a whole number",
        "resources.distill.memory=!!python/name:os.system": "is not a plain value",
    }
    for text, line in wrong.items():
        with pytest.raises(DDBenchError) as caught:
            ResourceConfig((text,), graph)
        assert line in str(caught.value)
    with pytest.raises(DDBenchError, match="processes: several processes need a whole GPU each"):
        ResourceConfig(("resources.teacher.gpus=0.5", "resources.teacher.processes=2"), graph)


@pytest.mark.parametrize(
    ("setting", "runtime", "threads", "cores"),
    [
        ("", {}, 8, 8),  # as inline, so that the numbers are equal
        ("", {"device": "cuda"}, 8, 1),  # units that share a node's GPUs do not wait for its cores
        ("", {"threads": 2}, 2, 2),
        ("cpus=4", {"threads": 2}, 4, 4),
        ("cpus=4", {"device": "cuda"}, 4, 4),
        ("", {"threads": 64}, 64, 16),  # no node would ever have 64 free cores
        ("processes=4", {}, 2, 2),  # processes share them
        ("processes=32", {}, 1, 1),
    ],
)
def test_threads_are_those_of_inline(setting: str, runtime: dict[str, Any], threads: int, cores: int) -> None:
    resources = ResourceConfig([f"resources.teacher.{setting}"] if setting else [], stage_graph(PluginRegistry()))
    settings = RuntimeConfig(**{"device": "cpu", **runtime})
    task, actual = resources.of_task("teacher", settings, default_threads=8, node_cores=16)
    assert (actual, task.cpus) == (threads, cores)
