"""A grid on Ray: units of work as tasks, tried again where a worker dies; only names and progress pass through it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ddbench.config.schema import RuntimeConfig
from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.core.events import PROGRESS_LINE_SECONDS, Event
from ddbench.execution import worker
from ddbench.execution.event_queue import STEP_SECONDS, EventQueue, decode_event
from ddbench.execution.resources import ResourcesConfig
from ddbench.execution.task_group import RemoteFns, TaskGroup
from ddbench.execution.work import Failure, Plan, Work
from ddbench.nn import device
from ddbench.pipeline.executor import WaitForArtifacts
from ddbench.pipeline.pipeline import Pipeline

RETRIES = 3
"""How often a unit of work whose worker or node died is tried again."""
STARTS = 3
"""How often Ray is started on this machine: it gives itself 30 seconds, which a busy machine may not have."""
TICK = 0.5
"""Seconds between two looks at what the workers said, and whether a stop is asked for."""
STORE_BYTES = 2**27
"""Ray's memory for objects on this machine: nothing larger than a message goes through it."""


class OnRay:
    """The cluster at `address`, or one of this machine's cores and GPUs that lives as long as this process."""

    def __init__(self, address: str | None, resources: ResourcesConfig) -> None:
        self._address = address
        self._resources = resources
        self._resolved: dict[RuntimeConfig, RuntimeConfig] = {}

    def resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """For the cluster's GPUs where it has some; all nodes are taken to be alike. Its CPUs are taken to be ours."""
        if runtime.device.startswith("cuda:"):
            raise DDBenchError(f"--device {runtime.device}: Ray gives out the GPUs; write --device cuda")
        if runtime not in self._resolved:
            self._resolved[runtime] = self._resolve(runtime)
        return self._resolved[runtime]

    def _resolve(self, runtime: RuntimeConfig) -> RuntimeConfig:
        if self._address is None or runtime.device == "cpu":
            return device.resolve(runtime)
        self._connect()
        if not ray.cluster_resources().get("GPU"):
            return device.resolve(runtime.model_copy(update={"device": "cpu" if runtime.device == "auto" else "cuda"}))
        share = self._resources.distill.gpus or 1
        answer = ray.get(ray.remote(num_gpus=share)(worker.resolve).remote(runtime.model_dump_json()))
        if reason := json.loads(answer).get("reason"):
            raise DDBenchError(reason)
        return RuntimeConfig.model_validate_json(answer)

    @contextlib.contextmanager
    def computing(self, pipelines: Sequence[Pipeline]) -> Iterator[WaitForArtifacts]:
        """Sends what is missing, in the order of the cells, as workers become free."""
        plan = Plan(pipelines)
        if not plan.left:
            yield lambda pipeline: None
            return
        self._connect()
        try:
            for data in {id(pipeline.dataset): pipeline.dataset for pipeline in pipelines}.values():
                with contextlib.suppress(DDBenchError):  # the workers find it, and it is the failure of its cells
                    _ = data.train  # decoded by one, not by every node at once
            session = _Session(plan, pipelines[0], self._resources)
            yield session.bring
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        if self._address not in (None, "auto"):
            _answers(self._address)
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        here = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        with _signals_kept():
            for left in range(0 if self._address else STARTS - 1, -1, -1):
                try:
                    ray.init(self._address or "local", **quiet, **({} if self._address else here))
                    return
                except Exception as error:  # Ray raises many kinds, where a slow machine is too slow the bare one
                    if not left:
                        where = f"--ray-address {self._address}" if self._address else "Ray on this machine"
                        raise DDBenchError(f"{where}: {error}") from error
                    ray.shutdown()


def _answers(address: str) -> None:
    """Raises DDBenchError where nobody listens at HOST:PORT: Ray itself would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and "/" not in host):
        raise DDBenchError(f"--ray-address {address}: write HOST:PORT, of the cluster's first node")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise DDBenchError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray would take SIGTERM for itself: it is `ddbench.core.interruption`'s."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    yield
    if main:
        signal.signal(signal.SIGTERM, before)


class _Session:
    """One grid under way: what was sent, what came back."""

    def __init__(self, plan: Plan, first: Pipeline, resources: ResourcesConfig) -> None:
        self._plan, self._workspace, self._resources = plan, first.workspace, resources
        self._sent: list[TaskGroup] = []
        self._does = RemoteFns(worker.run_work)
        self._deaths: Counter[Work] = Counter()
        self._last: dict[str, float] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(num_cpus=0)(EventQueue).options(scheduling_strategy=here).remote()
        self._tell("started")

    def bring(self, pipeline: Pipeline) -> None:
        """Goes on with the grid until this pipeline is in the cache. Raises DDBenchError where a part of it failed."""
        while not (self._plan.is_done(pipeline) or self._plan.failure(pipeline)):
            self._go_on()
        if failure := self._plan.failure(pipeline):
            raise failure.error()

    def _go_on(self) -> None:
        if interruption.requested():
            self._stop()
        # As many again as can run wait at the workers' doors: cells are finished in their order.
        room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while len(self._sent) < room and (work := self._plan.next()):
            self._send(work)
        tasks = {reference: gang for gang in self._sent for reference in gang.references}
        done, _ = ray.wait(list(tasks), timeout=TICK)
        for reference in done:
            tasks[reference].take(reference)
        for gang in [gang for gang in self._sent if gang.ended()]:
            self._sent.remove(gang)
            self._take(gang.work, gang.answer())
        self._relay()

    def _send(self, work: Work) -> None:
        held, processes = self._resources.of(work.stage), self._resources.processes(work.stage)
        data = self._workspace.data_dir
        order = {
            "folder": str(Path.cwd()),
            "cache": self._workspace.cache.place,
            "data": str(data.absolute()) if data else None,
            "force": self._forced(work.stage),
            "experiment": work.experiment.model_dump(mode="json"),
            "stage": work.stage,
            "parts": work.parts,
            "threads": held.cpus,
            "needs": sorted(work.needs),
            "makes": work.makes,
        }
        self._sent.append(TaskGroup(work, held, processes, self._does, json.dumps(order), self._mailbox))

    def _forced(self, stage: str) -> list[str]:
        """What a worker makes anew: its own stage with what only that asks for, never what another worker made."""
        forced = self._workspace.cache.forced
        own = {"distill": ("method", "distill"), "evaluate": ("labels", "evaluate")}.get(stage, (stage,))
        return [each for each in own if each in forced]

    def _take(self, work: Work, answer: dict[str, str]) -> None:
        if "again" in answer:
            self._again(work, answer["again"])
        elif answer:
            self._plan.fail(work, Failure(**answer))
        elif lost := [name for name in work.makes if not self._is_here(name)]:
            reason = f"{lost[0]} was made but is not to be seen here: --cache-dir must be on shared storage"
            self._plan.fail(work, Failure(reason))
        else:
            self._plan.done(work)

    def _is_here(self, name: str) -> bool:
        deadline = time.monotonic() + worker.VISIBLE_SECONDS
        while not (there := self._workspace.cache.made_elsewhere(name)) and time.monotonic() < deadline:
            time.sleep(TICK)
        return there

    def _again(self, work: Work, why: str) -> None:
        self._deaths[work] += 1
        if self._deaths[work] > RETRIES:
            self._plan.fail(work, Failure(f"{work.name}: {why}, {self._deaths[work]} times"))
            return
        self._plan.again(work)
        message = f"{work.name}: {why}: tried again ({self._deaths[work]} of {RETRIES})"
        self._workspace.emit(Event("note", "grid", message=message))

    def _relay(self) -> None:
        """Hands on what the workers said; of steps one a second, whoever's it is."""
        try:
            letters = ray.get(self._mailbox.take.remote(), timeout=10 * TICK)
        except RayError:
            return  # progress alone
        for event in map(decode_event, letters):
            if event.kind != "step" or self._is_time(event.kind, STEP_SECONDS):
                self._workspace.emit(event)
        if not self._plan.left:
            self._tell("finished")
        elif self._is_time("grid", PROGRESS_LINE_SECONDS):
            self._tell("step")

    def _tell(self, kind: Literal["started", "step", "finished"]) -> None:
        total = self._plan.total
        self._workspace.emit(Event(kind, "grid", step=total - self._plan.left, total=total, message="units of work"))

    def _is_time(self, what: str, every: float) -> bool:
        now = time.monotonic()
        due = now - self._last.get(what, 0.0) >= every
        if due:
            self._last[what] = now
        return due

    def _stop(self) -> None:
        """Workers end at their next checkpoint, and this process when they have. Raises Stopped."""
        interruption.cancel_deadline()
        tasks = [reference for gang in self._sent for reference in gang.references]
        for reference in tasks:
            ray.cancel(reference)
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=interruption.GRACE_SECONDS + 2)
        interruption.raise_if_requested()
