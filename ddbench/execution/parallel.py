"""Several processes of one run: rank 0 runs all stages, and the other ranks take part in the stages that train.

Rank 0 posts each of these stages in the store, with the configuration of its experiment as JSON. Every rank builds the
artifact, and rank 0 stores it. Between two stages the other ranks poll the store, so no collective operation can time
out.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.core.processes import LostProcessError
from ddbench.execution.rendezvous import PATIENCE, POLL_SECONDS, Rendezvous
from ddbench.execution.watchdog import Watchdog, watchdog
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import experiment_of
from ddbench.pipeline.workspace import Workspace
from ddbench.storage.artifacts import Artifact, Built
from ddbench.storage.cache import Accept, Cache, accept_all
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import strategy
from ddbench.training.ddp import translate_collective_errors

T = TypeVar("T")


def run_distributed(command: Callable[[], T], workspace: Workspace) -> T | None:
    """Runs `command` in rank 0; see `ddbench.execution.launch.run_distributed`."""
    rendezvous = Rendezvous()
    if rendezvous.rank > 0:
        with translate_collective_errors(), watchdog(rendezvous) as dog:
            _follow(rendezvous, workspace, dog)
        return None
    leader = _Leader(rendezvous)
    try:
        workspace.strategy_for = partial(leader.strategy_for, workspace)
        return command()
    finally:
        leader.end()


class _Leader:
    """Rank 0, which posts the stages that all ranks train together."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self._rendezvous = rendezvous
        self._count = 0
        self._lost_ranks = False

    @contextlib.contextmanager
    def strategy_for(self, workspace: Workspace, stage: str, experiment: Experiment) -> Iterator[strategy.Strategy]:
        """Yields the strategy of a stage. After another rank is lost, rank 0 trains alone."""
        loaded = stage == "teacher" and experiment.teacher.checkpoint is not None
        if not workspace.graph[stage].distributed or loaded or self._lost_ranks:
            yield strategy.current_strategy()
            return
        self._count += 1
        dataset = workspace.dataset_reference(experiment.dataset)
        order = {"stage": stage, "experiment": {**experiment.model_dump(mode="json"), "dataset": dataset}}
        self._rendezvous.set(f"stage/{self._count}", json.dumps(order))
        try:
            yield self._rendezvous.strategy(torch.device(experiment.runtime.device))
        except Exception as error:
            self._rendezvous.set(f"finished/{self._count}")
            self._lost_ranks = isinstance(error, LostProcessError) or not self._rendezvous.wait_for_ranks(
                f"left/{self._count}"
            )
            if self._lost_ranks:
                message = f"{stage}: this process trains the following stages alone"
                workspace.emit(Event("note", stage, message=message))
            raise
        self._rendezvous.set(f"finished/{self._count}", "done")

    def end(self) -> None:
        """Ends the other ranks and waits for them, because the store may be in this process."""
        with contextlib.suppress(RuntimeError):  # the other ranks have ended, and the store with them
            self._rendezvous.set("end")
            if not self._lost_ranks:
                self._rendezvous.wait_for_ranks("exited")


def _follow(rendezvous: Rendezvous, workspace: Workspace, dog: Watchdog) -> None:
    """Takes part in every stage that rank 0 posts, until rank 0 ends.

    Raises:
        DDBenchError: Training fails in this rank only.
    """
    number = 1
    while True:
        while not rendezvous.has(f"stage/{number}"):
            if rendezvous.has("end"):
                rendezvous.set(f"exited/{rendezvous.rank}")
                return
            time.sleep(POLL_SECONDS)
        dog.running = number
        left = f"left/{number}/{rendezvous.rank}"
        try:
            _take_part(rendezvous, workspace, number)
        except Exception as error:
            # A numerical error occurs in every rank, so all ranks leave the stage. An error in this rank only ends the
            # run.
            rendezvous.set(left)
            deadline = time.monotonic() + PATIENCE
            while not rendezvous.has(f"finished/{number}"):
                if time.monotonic() > deadline:
                    sys.stderr = sys.__stderr__
                    raise DDBenchError(f"process {rendezvous.rank} of {rendezvous.world_size}: {error}") from error
                time.sleep(POLL_SECONDS)
        else:
            rendezvous.set(left)
        dog.running = None
        number += 1


def _take_part(rendezvous: Rendezvous, workspace: Workspace, number: int) -> None:
    order = json.loads(rendezvous.get(f"stage/{number}"))
    stage, experiment = order["stage"], experiment_of(order["experiment"], workspace.registry)
    cache = _FollowerCache(workspace.cache, stage, lambda: rendezvous.has(f"finished/{number}"))
    follower = Workspace(workspace.registry, cast(Cache, cache), workspace.data_dir)
    follower.emit = lambda event: None

    @contextlib.contextmanager
    def strategy_for(name: str, _: Experiment) -> Iterator[strategy.Strategy]:
        joint = name == stage
        yield rendezvous.strategy(torch.device(experiment.runtime.device)) if joint else strategy.current_strategy()

    follower.strategy_for = strategy_for
    Pipeline(follower, experiment).build(stage)


class _NoCheckpoint(Checkpoint):
    """Saves nothing, because rank 0 saves the checkpoint for all ranks."""

    def load(self) -> Built | None:
        return None

    def save(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        pass


class _FollowerCache:
    """Reads the cache of rank 0. The stage that all ranks train is also built here, but not stored."""

    def __init__(self, cache: Cache, stage: str, is_finished: Callable[[], bool]) -> None:
        self._cache, self._stage, self._is_finished = cache, stage, is_finished

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get(
        self,
        stage: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Checkpoint], Built],
        accept: Accept = accept_all,
    ) -> Artifact:
        path = self._cache.path(stage, depends_on)
        if stage == self._stage:
            tensors, meta = build(_NoCheckpoint(Path(os.devnull) / "none"))
            return Artifact(stage, path.stem, path, tensors, meta, "")
        if stage == "data":  # each node may have its own copy of the data
            return self._cache.get(stage, depends_on, build, accept)
        artifact = self._cache.read(stage, path.stem)
        while artifact is None and stage == "labels" and not self._is_finished():  # rank 0 is building the artifact
            time.sleep(1)
            artifact = self._cache.read(stage, path.stem)
        if artifact is None:
            raise DDBenchError(f"{path} does not exist on this node: all nodes need the same cache (--cache-dir)")
        return artifact
