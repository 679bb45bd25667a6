"""A unit of work on Ray: one task, or one for each of the processes that train it together. Imports no torch."""

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
    from ddbench.execution.work import Work

GRACE = 20.0
"""Seconds in which all must end when one has: more than they take to notice it themselves (`parallel.PATIENCE`)."""


class RemoteFns:
    """`carry_out` as Ray's tasks. One of several that train together takes its process with it when it ends."""

    def __init__(self, carry_out: Callable[..., str]) -> None:
        self.alone = ray.remote(max_retries=0)(carry_out)
        self.together = ray.remote(max_retries=0, max_calls=1)(carry_out)
        self.address = ray.remote(num_cpus=0, max_retries=0)(free_address)


class TaskGroup:
    """The tasks of one unit of work. Each of several holds `held`, on one node where that has room for all.

    They find each other at an address of the first one's node.
    """

    def __init__(self, work: Work, held: Resources, processes: int, do: RemoteFns, order: str, mailbox: Any) -> None:
        self.work = work
        self._answers: dict[int, dict[str, str]] = {}
        self._ending: float | None = None
        on_gpu = work.experiment.runtime.device.startswith("cuda")
        cpus, gpus = held.cpus, float(on_gpu) if held.gpus is None else held.gpus
        memory = int(held.memory * 2**30) if held.memory else None
        options = {"num_cpus": cpus, "num_gpus": gpus, "memory": memory, "name": work.name}
        self._places = None
        if processes == 1:
            self._ranks = {do.alone.options(**options).remote(order, mailbox): 0}
            return
        bundle = {"CPU": cpus, "GPU": gpus, "memory": memory}
        self._places = placement_group([{name: much for name, much in bundle.items() if much}] * processes)
        places = [PlacementGroupSchedulingStrategy(self._places, number) for number in range(processes)]
        address = do.address.options(scheduling_strategy=places[0]).remote()
        self._ranks = {}
        for rank, place in enumerate(places):
            task = do.together.options(**options, scheduling_strategy=place)
            self._ranks[task.remote(order, mailbox, address, rank, processes)] = rank

    @property
    def references(self) -> list[Any]:
        """The tasks that have not ended."""
        return list(self._ranks)

    def take(self, reference: Any) -> None:
        """One of them has ended."""
        rank = self._ranks.pop(reference)
        try:
            self._answers[rank] = json.loads(ray.get(reference))
        except RayTaskError as error:  # the worker could not even begin
            line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self._answers[rank] = {"reason": f"{self.work.name}: {line}"}
        except RayError as error:
            self._answers[rank] = {"again": f"its worker died ({type(error).__name__})"}
        self._ending = self._ending or time.monotonic() + GRACE
        if self._places is not None and not self._ranks:
            remove_placement_group(self._places)

    def ended(self) -> bool:
        """Whether all have; those that hang when another has ended are killed."""
        if self._ranks and self._ending and time.monotonic() > self._ending:
            for reference in self._ranks:
                ray.cancel(reference, force=True)
        return not self._ranks

    def answer(self) -> dict[str, str]:
        """Of all that have ended: {} where the first process is done, else why not, as `worker.run_work` says it."""
        answers = [self._answers[rank] for rank in sorted(self._answers)]
        wrong = [answer for answer in answers if answer]
        return answers[0] and next((answer for answer in wrong if "reason" in answer), wrong[0])


def free_address() -> str:
    """HOST:PORT of this node, where nobody listens in this moment."""
    with socket.socket() as found:
        found.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{found.getsockname()[1]}"
