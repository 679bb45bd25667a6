"""Several processes of one run: the leading one runs all stages and calls the others to what it trains.

They meet at a store of short texts (that of torchrun, else one that the leading process keeps). Between two calls
nothing is pending that could run out of time: the others look every now and then whether they are called. A stage is
given as the plain configuration of its experiment, and each process makes its own part of the cache's artifacts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy as FabricDDPStrategy
from torch.distributed.rendezvous import rendezvous

from ddbench.config.experiment import Experiment
from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.core.processes import LostProcessError
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.workspace import Workspace
from ddbench.storage.cache import Artifact, Built, Cache, Checkpoint
from ddbench.training import strategy
from ddbench.training.ddp import DDPStrategy, translate_collective_errors

T = TypeVar("T")

TRAINED = ("teacher", "evaluate")
"""The stages that several processes compute together."""
MEETING = timedelta(minutes=10)
"""How long they wait for each other at the start."""
PENDING = timedelta(days=7)
"""How long one waits for another in a step: not less than any stage may keep one busy. Who dies is noticed at once."""
PATIENCE = 15.0
"""Seconds in which all must have left a stage that failed; who has not is stuck in it."""
LOOK = 0.1
"""Seconds between two looks at the store."""


def together(work: Callable[[], T], workspace: Workspace) -> T | None:
    """See `launched.together`."""
    meeting = _Meeting()
    if meeting.rank > 0:
        with translate_collective_errors(), _watching(meeting) as watch:
            _follow(meeting, workspace, watch)
        return None
    try:
        workspace.strategy_for = partial(meeting.call, workspace)
        return work()
    finally:
        meeting.end()


class _Meeting:
    """Where the processes of a run leave word for each other, and the team that they make."""

    def __init__(self) -> None:
        os.environ.setdefault("LOCAL_RANK", "0")
        os.environ.setdefault("LOCAL_WORLD_SIZE", "1")
        with translate_collective_errors():
            self._store, self.rank, self.size = next(rendezvous("env://", timeout=MEETING))
        self._team: DDPStrategy | None = None
        self._calls = 0
        self._stuck = False

    # -- words ------------------------------------------------------------------------------------------------

    def say(self, word: str, text: str = "") -> None:
        """For all to read."""
        self._store.set(word, text)

    def said(self, *words: str) -> bool:
        """Whether all of these were said."""
        return bool(self._store.check(list(words)))

    def read(self, word: str) -> str:
        """What was said."""
        return str(self._store.get(word).decode())

    def await_all(self, word: str) -> bool:
        """Whether every other process says its `word` within PATIENCE."""
        deadline, words = time.monotonic() + PATIENCE, [f"{word}/{rank}" for rank in range(1, self.size)]
        while not self.said(*words):
            if time.monotonic() > deadline or interruption.requested():
                return False
            time.sleep(LOOK)
        return True

    # -- the leading process ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def call(self, workspace: Workspace, stage: str, experiment: Experiment) -> Iterator[strategy.Strategy]:
        """The others take part in the block, where it trains. Once one is stuck, the leading process trains alone."""
        given = stage == "teacher" and experiment.teacher.checkpoint is not None
        if stage not in TRAINED or given or self._stuck:
            yield strategy.current_strategy()
            return
        pipeline = Pipeline(workspace, experiment)
        _ = pipeline.dataset.train, pipeline.dataset.val  # decoded once, and shown here
        needed = stage == "evaluate" and pipeline.protocol.needs_teacher
        if needed and not workspace.cache.has("teacher", pipeline.keys.teacher()):
            pipeline.teacher()
        self._calls += 1
        order = {"stage": stage, "experiment": experiment.model_dump(mode="json")}
        self.say(f"call/{self._calls}", json.dumps(order))
        try:
            yield self.team_on(torch.device(experiment.runtime.device))
        except Exception as error:
            self.say(f"over/{self._calls}")
            self._stuck = isinstance(error, LostProcessError) or not self.await_all(f"left/{self._calls}")
            if self._stuck:
                workspace.emit(Event("note", stage, message=f"{stage}: what follows is trained by this process alone"))
            raise
        self.say(f"over/{self._calls}", "done")

    def end(self) -> None:
        """Sends the others home. What they say goodbye to may be a store that this process keeps: it waits for it."""
        with contextlib.suppress(RuntimeError):  # where they are gone with the store
            self.say("end")
            if not self._stuck:
                self.await_all("home")

    def team_on(self, device: torch.device) -> DDPStrategy:
        """The processes, each on its device. Raises DDBenchError where there is none for each."""
        if self._team is None:
            local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
            if device.index is not None:
                raise DDBenchError(f"--device {device}: one for each of several processes is chosen by --device cuda")
            if device.type == "cuda" and torch.cuda.device_count() < here:
                raise DDBenchError(
                    f"{here} processes were started on a node with {torch.cuda.device_count()} CUDA devices: "
                    "one process a device (torchrun --nproc-per-node)"
                )
            if device.type == "cuda":
                torch.cuda.set_device(local)
            store = dist.PrefixStore("training", self._store)
            backend = "nccl" if device.type == "cuda" else "gloo"
            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # what replaces it is too new
            with translate_collective_errors():
                dist.init_process_group(backend, timeout=PENDING, store=store, rank=self.rank, world_size=self.size)
            fabric = Fabric(
                accelerator=device.type,
                devices=here,
                num_nodes=self.size // here,
                # Without this DDP orders gradients anew after its first step: the sums of three and more processes
                # would be other ones after a resume. BatchNorm's buffers are the same everywhere.
                strategy=FabricDDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
                plugins=[TorchElasticEnvironment()],
            )
            fabric.launch()
            self._team = DDPStrategy(fabric)
        return self._team


# -- the other processes ----------------------------------------------------------------------------------------


def _follow(meeting: _Meeting, workspace: Workspace, watch: _Watch) -> None:
    """Takes part in every stage that is called, until the leading process ends. Raises DDBenchError as `together`."""
    number = 1
    while True:
        while not meeting.said(f"call/{number}"):
            if meeting.said("end"):
                meeting.say(f"home/{meeting.rank}")
                return
            time.sleep(LOOK)
        watch.busy_with = number
        try:
            _take_part(meeting, workspace, number)
        except Exception as error:
            # What is wrong with the numbers is wrong everywhere: all leave. What is wrong here alone ends the run.
            meeting.say(f"left/{number}/{meeting.rank}")
            deadline = time.monotonic() + PATIENCE
            while not meeting.said(f"over/{number}"):
                if time.monotonic() > deadline:
                    sys.stderr = sys.__stderr__
                    raise DDBenchError(f"process {meeting.rank} of {meeting.size}: {error}") from error
                time.sleep(LOOK)
        else:
            meeting.say(f"left/{number}/{meeting.rank}")
        watch.busy_with = None
        number += 1


def _take_part(meeting: _Meeting, workspace: Workspace, number: int) -> None:
    order = json.loads(meeting.read(f"call/{number}"))
    registry, stage, settings = workspace.registry, order["stage"], order["experiment"]
    chosen = {
        "method_settings": registry.distiller(settings["method"])(**settings["method_settings"]),
        "evaluator_settings": registry.evaluator(settings["evaluator"])(**settings["evaluator_settings"]),
    }
    experiment = Experiment(**{**settings, **chosen})
    cache = _OthersCache(workspace.cache, stage, lambda: meeting.said(f"over/{number}"))
    mine = Workspace(registry, cast(Cache, cache), workspace.data_dir)
    mine.emit = lambda event: None

    @contextlib.contextmanager
    def joined(asked: str, _: Experiment) -> Iterator[strategy.Strategy]:
        yield (
            meeting.team_on(torch.device(experiment.runtime.device)) if asked == stage else strategy.current_strategy()
        )

    mine.strategy_for = joined
    pipeline = Pipeline(mine, experiment)
    pipeline.teacher() if stage == "teacher" else pipeline.evaluation()


class _Nowhere(Checkpoint):
    """The leading process's checkpoint is that of all."""

    def load(self) -> Built | None:
        return None

    def save(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        pass


class _OthersCache:
    """The leading process's cache, read: what is trained together is built here too, and stored there alone."""

    def __init__(self, cache: Cache, stage: str, over: Callable[[], bool]) -> None:
        self._cache, self._stage, self._over = cache, stage, over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get(self, stage: str, depends_on: Mapping[str, Any], build: Callable[[Checkpoint], Built]) -> Artifact:
        path = self._cache.path(stage, depends_on)
        if stage == self._stage:
            tensors, meta = build(_Nowhere(Path(os.devnull) / "none"))
            return Artifact(stage, path.stem, path, tensors, meta, "")
        if stage == "data":  # a node's own, perhaps
            return self._cache.get(stage, depends_on, build)
        found = self._cache.read(stage, path.stem)
        while found is None and stage == "labels" and not self._over():  # the leading process is making them
            time.sleep(1)
            found = self._cache.read(stage, path.stem)
        if found is None:
            raise DDBenchError(f"{path} is not found here: all nodes need the same cache (--cache-dir)")
        return found


@contextlib.contextmanager
def _watching(meeting: _Meeting) -> Iterator[_Watch]:
    """A watch that hears of signals, and of the end of the block."""
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    watch = _Watch(meeting, hears)
    thread = threading.Thread(target=watch.look, name="watch", daemon=True)
    thread.start()
    in_main = threading.current_thread() is threading.main_thread()
    before = {}
    if in_main:
        signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield watch
    finally:
        if in_main:
            signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        tells.close()
        thread.join()
        hears.close()


class _Watch:
    """Ends this process where it hangs in a step that the leading process has left, or when that one is gone.

    A step may be waited for in a library, where Python's signal handlers do not run: so a thread looks. Ctrl-C and
    SIGTERM come to all processes at once; this one goes on until the leading one has saved, and ends with it.
    """

    def __init__(self, meeting: _Meeting, hears: socket.socket) -> None:
        self.busy_with: int | None = None
        self._meeting, self._hears = meeting, hears

    def look(self) -> None:
        """Until the block ends, or the process."""
        deadline = float("inf")
        while True:
            if select.select([self._hears], [], [], 1.0)[0]:
                if not self._hears.recv(100):
                    return
                deadline = min(deadline, time.monotonic() + interruption.GRACE_SECONDS + PATIENCE)
            try:
                left = self.busy_with is not None and self._left(self.busy_with)
            except RuntimeError:  # no store: the leading process is gone
                os._exit(1)
            if left:
                with contextlib.suppress(RuntimeError):
                    self._meeting.say(f"home/{self._meeting.rank}")
                os._exit(0)
            if time.monotonic() > deadline:
                os._exit(1)

    def _left(self, number: int) -> bool:
        """Whether the run has ended in the middle of this call."""
        return self._meeting.said("end") and not (
            self._meeting.said(f"over/{number}") and self._meeting.read(f"over/{number}") == "done"
        )
