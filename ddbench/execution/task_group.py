"""A unit of work on Ray: one task, or one task per process if several processes train together. Imports no torch."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

if TYPE_CHECKING:
    from ddbench.execution.resources import Resources
    from ddbench.execution.work_list import WorkItem

GRACE = 20.0
"""Seconds in which all tasks of a group must end after one has ended. They notice the loss of a task in less time."""


class RemoteFns:
    """The remote functions of a driver.

    A task that trains together with others ends its process, because PyTorch's process group belongs to the process.
    """

    def __init__(self, run_work: Callable[..., str]) -> None:
        self.single = ray.remote(max_retries=0)(run_work)
        self.distributed = ray.remote(max_retries=0, max_calls=1)(run_work)
        self.address = ray.remote(num_cpus=0, max_retries=0)(free_address)


class TaskGroup:
    """The tasks of one unit of work.

    Several tasks are placed on one node if it has room for all. They connect at an address of the first task's node.

    Args:
        item: The unit of work.
        resources: The resources of each task.
        processes: The number of tasks.
        functions: The remote functions.
        order: The unit of work as JSON, for the worker.
        queue: The handle of the event queue.
    """

    def __init__(
        self, item: WorkItem, resources: Resources, processes: int, functions: RemoteFns, order: str, queue: Any
    ) -> None:
        self.item = item
        self._answers: dict[int, dict[str, str]] = {}
        self._deadline: float | None = None
        on_gpu = item.experiment.runtime.device.startswith("cuda")
        cpus, gpus = resources.cpus, float(on_gpu) if resources.gpus is None else resources.gpus
        memory = int(resources.memory * 2**30) if resources.memory else None
        options = {"num_cpus": cpus, "num_gpus": gpus, "memory": memory, "name": item.name}
        self._placement = None
        if processes == 1:
            self._ranks = {functions.single.options(**options).remote(order, queue): 0}
            return
        bundle = {name: amount for name, amount in {"CPU": cpus, "GPU": gpus, "memory": memory}.items() if amount}
        self._placement = placement_group([bundle] * processes)
        places = [PlacementGroupSchedulingStrategy(self._placement, number) for number in range(processes)]
        address = functions.address.options(scheduling_strategy=places[0]).remote()
        self._ranks = {}
        for rank, place in enumerate(places):
            task = functions.distributed.options(**options, scheduling_strategy=place)
            self._ranks[task.remote(order, queue, address, rank, processes)] = rank

    @property
    def references(self) -> list[Any]:
        """The tasks that have not ended."""
        return list(self._ranks)

    def collect(self, reference: Any) -> None:
        """Collects the answer of a task that has ended."""
        rank = self._ranks.pop(reference)
        try:
            self._answers[rank] = json.loads(ray.get(reference))
        except RayTaskError as error:  # the worker could not start
            line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self._answers[rank] = {"reason": f"{self.item.name}: {line}"}
        except RayError as error:
            self._answers[rank] = {"again": f"its worker was lost ({type(error).__name__})"}
        self._deadline = self._deadline or time.monotonic() + GRACE
        if self._placement is not None and not self._ranks:
            remove_placement_group(self._placement)

    def has_ended(self) -> bool:
        """Returns whether all tasks have ended. After the deadline it kills the remaining tasks."""
        if self._ranks and self._deadline and time.monotonic() > self._deadline:
            for reference in self._ranks:
                ray.cancel(reference, force=True)
        return not self._ranks

    def answer(self) -> dict[str, str]:
        """Returns {} if the first task succeeded, else the reason of the failure in the form of `worker.run_work`."""
        answers = [self._answers[rank] for rank in sorted(self._answers)]
        failures = [answer for answer in answers if answer]
        return answers[0] and next((answer for answer in failures if "reason" in answer), failures[0])


def free_address() -> str:
    """Returns HOST:PORT of this node with a free port."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{listener.getsockname()[1]}"
