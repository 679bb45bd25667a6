"""A worker in this process: its answers and its events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit
from ddbench.core.errors import PluginError
from ddbench.execution import worker
from ddbench.execution.event_queue import decode_event
from ddbench.execution.work_list import WorkList
from ddbench.pipeline.pipeline import Pipeline
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api.context import DistillTask


class RecordedQueue:
    """Stands for the handle of an event queue: records the payloads."""

    def __init__(self) -> None:
        self.payloads: list[str] = []
        self.put = SimpleNamespace(remote=self.payloads.append)


def test_a_worker_answers_with_the_reason_that_inline_gives(
    grid: Callable[..., list[Pipeline]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_registry", lambda: registry)
    monkeypatch.setattr(worker, "VISIBLE_SECONDS", 0.0)

    class Broken(Distiller):
        name, version, needs_teacher = "broken", "1", False

        def distill(self, task: DistillTask, unit: Unit) -> Tensor:
            raise KeyError("no such thing")

    registry = PluginRegistry()
    plugin = SimpleNamespace(ddbench_distillers=hookimpl(specname="ddbench_distillers")(lambda: [Broken]))
    registry.register(plugin, "ddbench-broken")
    (cell,) = grid(registry=registry, methods=("broken",), assignments=(), evaluators=("hard",))
    with pytest.raises(PluginError) as inline:
        cell.run()
    item = WorkList([cell]).pop_ready()
    assert item is not None
    experiment = item.experiment.model_dump(mode="json")
    experiment["runtime"]["threads"] = 1
    assert item.stage == "distill"
    order = {
        **{"folder": str(tmp_path), "cache": str(tmp_path), "data": None, "force": [], "inputs": []},
        **{"experiment": experiment, "stage": "distill", "parts": [0]},
        "outputs": item.outputs,
    }
    queue = RecordedQueue()
    answer = json.loads(worker.run_work(json.dumps(order), queue))
    assert answer["reason"] == str(inline.value)
    assert "raise KeyError" in answer["traceback"]
    event = decode_event(queue.payloads[-1], {cell.context.record: cell.context})
    assert (event.kind, event.stage, event.context) == ("started", "distill", cell.context)
    # What another node made cannot be seen here.
    answer = json.loads(worker.run_work(json.dumps({**order, "inputs": ["teacher/" + 32 * "0"]}), queue))
    assert "must be on shared storage" in answer["reason"]
