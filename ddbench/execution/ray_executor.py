"""Computes a grid on Ray: a unit of work is a task, which is retried if its worker is lost. Ray carries no tensors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ddbench.config.schema import RuntimeConfig
from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.core.events import PROGRESS_LINE_SECONDS, Event
from ddbench.execution import worker
from ddbench.execution.event_queue import STEP_SECONDS, EventQueue, decode_event
from ddbench.execution.resources import ResourceConfig
from ddbench.execution.task_group import RemoteFns, TaskGroup
from ddbench.execution.work_list import Failure, WorkItem, WorkList
from ddbench.nn import device
from ddbench.pipeline.executor import WaitForArtifacts
from ddbench.pipeline.pipeline import Pipeline

RETRIES = 3
"""How often an item is retried if its worker or node is lost."""
STARTS = 3
"""Number of attempts to start Ray on this machine. Ray allows 30 seconds, which is too short on a busy machine."""
TICK = 0.5
"""Seconds between two checks for finished tasks, events and stop requests."""
STORE_BYTES = 2**27
"""Memory for Ray's object store on this machine: no object is larger than a message."""


class RayExecutor:
    """Computes on a Ray cluster.

    Args:
        address: The address of the cluster; None: Ray is started with the cores and GPUs of this machine, and ends
            with this process.
        resources: The resources of the tasks of each stage.
    """

    def __init__(self, address: str | None, resources: ResourceConfig) -> None:
        self._address = address
        self._resources = resources
        self._resolved: dict[RuntimeConfig, RuntimeConfig] = {}

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """Returns the runtime with every `auto` decided: for the GPUs of the cluster, if it has any.

        All nodes are assumed to be alike, and their CPUs like this machine's.
        """
        if runtime.device.startswith("cuda:"):
            raise DDBenchError(f"--device {runtime.device}: Ray assigns the GPUs; write --device cuda")
        if runtime not in self._resolved:
            self._resolved[runtime] = self._resolve(runtime)
        return self._resolved[runtime]

    def _resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        if self._address is None or runtime.device == "cpu":
            return device.resolve(runtime)
        self._connect()
        if not ray.cluster_resources().get("GPU"):
            return device.resolve(runtime.model_copy(update={"device": "cpu" if runtime.device == "auto" else "cuda"}))
        share = self._resources.of("distill").gpus or 1
        answer = ray.get(ray.remote(num_gpus=share)(worker.resolve).remote(runtime.model_dump_json()))
        if reason := json.loads(answer).get("reason"):
            raise DDBenchError(reason)
        return RuntimeConfig.model_validate_json(answer)

    @contextlib.contextmanager
    def computing(self, pipelines: Sequence[Pipeline]) -> Iterator[WaitForArtifacts]:
        """Computes the missing artifacts in the order of the cells while the block runs."""
        work = WorkList(pipelines)
        if not work.remaining:
            yield lambda pipeline: None
            return
        self._connect()
        try:
            for dataset in {id(pipeline.dataset): pipeline.dataset for pipeline in pipelines}.values():
                # Decode the data here, so that not every node decodes them. An error is ignored here: it occurs again
                # in the workers, and the cells fail.
                with contextlib.suppress(DDBenchError):
                    dataset.decode()
            session = _Session(work, pipelines, self._resources)
            yield session.wait_for
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        if self._address not in (None, "auto"):
            _check_address(self._address)
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        local = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        with _restored_sigterm():
            for tries_left in range(0 if self._address else STARTS - 1, -1, -1):
                try:
                    ray.init(self._address or "local", **quiet, **({} if self._address else local))
                    return
                except Exception as error:  # Ray raises various exceptions; on a slow machine a plain Exception
                    if not tries_left:
                        where = f"--ray-address {self._address}" if self._address else "Ray on this machine"
                        raise DDBenchError(f"{where}: {error}") from error
                    ray.shutdown()


def _check_address(address: str) -> None:
    """Raises DDBenchError if nothing listens at HOST:PORT. Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and "/" not in host):
        raise DDBenchError(f"--ray-address {address}: write HOST:PORT, of the cluster's first node")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise DDBenchError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error


@contextlib.contextmanager
def _restored_sigterm() -> Iterator[None]:
    """Restores the handler of SIGTERM, which Ray replaces and `ddbench.core.interruption` needs."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if is_main:
        signal.signal(signal.SIGTERM, handler)


class _Session:
    """One grid in progress: the submitted tasks and their answers."""

    def __init__(self, work: WorkList, pipelines: Sequence[Pipeline], resources: ResourceConfig) -> None:
        self._work, self._workspace, self._resources = work, pipelines[0].workspace, resources
        self._contexts = {pipeline.context.record: pipeline.context for pipeline in pipelines}
        self._node_cores = min(int(node["Resources"].get("CPU", 0)) or sys.maxsize for node in ray.nodes())
        self._groups: list[TaskGroup] = []
        self._functions = RemoteFns(worker.run_work)
        self._deaths: Counter[WorkItem] = Counter()
        self._last_time: dict[str, float] = {}
        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = ray.remote(num_cpus=0)(EventQueue).options(scheduling_strategy=this_node).remote()
        self._emit_progress("started")

    def wait_for(self, pipeline: Pipeline) -> None:
        """Computes until the artifacts of this cell are in the cache.

        Raises:
            DDBenchError: An item of the cell failed.
        """
        while not (self._work.is_done(pipeline) or self._work.failure(pipeline)):
            self._advance()
        if failure := self._work.failure(pipeline):
            raise failure.error()

    def _advance(self) -> None:
        if interruption.requested():
            self._stop()
        # Submit at most twice as many tasks as can run. So few tasks wait in Ray's queue, and cells finish in their
        # order.
        limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while len(self._groups) < limit and (item := self._work.pop_ready()):
            self._submit(item)
        tasks = {reference: group for group in self._groups for reference in group.references}
        ended, _ = ray.wait(list(tasks), timeout=TICK)
        for reference in ended:
            tasks[reference].collect(reference)
        for group in [group for group in self._groups if group.has_ended()]:
            self._groups.remove(group)
            self._handle_answer(group.item, group.answer())
        self._relay_events()

    def _submit(self, item: WorkItem) -> None:
        runtime, processes = item.experiment.runtime, self._resources.processes(item.stage)
        threads = device.default_threads(torch.device(runtime.device))
        resources, threads = self._resources.of_task(item.stage, runtime, threads, self._node_cores)
        given = {
            "dataset": self._workspace.dataset_reference(item.experiment.dataset),
            "runtime": runtime.model_copy(update={"threads": threads}),
        }
        data = self._workspace.data_dir
        # A worker rebuilds forced artifacts only of its stage and of the on-demand stages within it, so that it does
        # not rebuild artifacts of another worker.
        forced = self._workspace.graph.built_within(item.stage) & self._workspace.cache.forced
        order = {
            "folder": str(Path.cwd()),
            "cache": self._workspace.cache.place,
            "data": str(data.absolute()) if data else None,
            "force": sorted(forced),
            "experiment": item.experiment.model_copy(update=given).model_dump(mode="json"),
            "stage": item.stage,
            "parts": item.parts,
            "inputs": sorted(item.inputs),
            "outputs": item.outputs,
        }
        group = TaskGroup(item, resources, processes, self._functions, json.dumps(order), self._queue)
        self._groups.append(group)

    def _handle_answer(self, item: WorkItem, answer: dict[str, str]) -> None:
        if "again" in answer:
            self._retry(item, answer["again"])
        elif answer:
            self._work.mark_failed(item, Failure(**answer))
        elif lost := [name for name in item.outputs if not self._is_visible(name)]:
            reason = f"{lost[0]} was built but is not visible here: {worker.NOT_SHARED}"
            self._work.mark_failed(item, Failure(reason, cause=worker.NOT_SHARED))
        else:
            self._work.mark_done(item)

    def _is_visible(self, name: str) -> bool:
        deadline = time.monotonic() + worker.VISIBLE_SECONDS
        while not (visible := self._workspace.cache.adopt(name)) and time.monotonic() < deadline:
            time.sleep(TICK)
        return visible

    def _retry(self, item: WorkItem, reason: str) -> None:
        self._deaths[item] += 1
        if self._deaths[item] > RETRIES:
            self._work.mark_failed(item, Failure(f"{item.name}: {reason}, {self._deaths[item]} times"))
            return
        self._work.requeue(item)
        message = f"{item.name}: {reason}: retry {self._deaths[item]} of {RETRIES}"
        self._workspace.emit(Event("note", "grid", message=message))

    def _relay_events(self) -> None:
        """Emits the events of the workers. Step events are emitted at most once per second for all workers."""
        try:
            payloads = ray.get(self._queue.take.remote(), timeout=10 * TICK)
        except RayError:
            return  # a lost queue only loses progress events
        for event in (decode_event(payload, self._contexts) for payload in payloads):
            if event.kind != "step" or self._is_due(event.kind, STEP_SECONDS):
                self._workspace.relay(event)
        if not self._work.remaining:
            self._emit_progress("finished")
        elif self._is_due("grid", PROGRESS_LINE_SECONDS):
            self._emit_progress("step")

    def _emit_progress(self, kind: Literal["started", "step", "finished"]) -> None:
        total = self._work.total
        done = total - self._work.remaining
        self._workspace.emit(Event(kind, "grid", step=done, total=total, counted="task"))

    def _is_due(self, name: str, interval: float) -> bool:
        now = time.monotonic()
        due = now - self._last_time.get(name, 0.0) >= interval
        if due:
            self._last_time[name] = now
        return due

    def _stop(self) -> None:
        """Requests the workers to end at their next checkpoint, then stops this process."""
        interruption.cancel_deadline()
        tasks = [reference for group in self._groups for reference in group.references]
        for reference in tasks:
            ray.cancel(reference)
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=interruption.GRACE_SECONDS + 2)
        interruption.raise_if_requested()
