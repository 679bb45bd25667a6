"""The function of a Ray worker: builds one unit of work into the cache and returns short JSON without tensors."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from ddbench.config.schema import RuntimeConfig
from ddbench.core import interruption, processes
from ddbench.core.errors import DDBenchError, PluginError, os_error_line
from ddbench.core.events import Event
from ddbench.execution import launch
from ddbench.execution.event_queue import EventSender
from ddbench.nn import device
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import experiment_of
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.storage.remote_cache import open_cache

VISIBLE_SECONDS = 60.0
"""Seconds until a file of another node appears here. NFS may cache for this time that the file did not exist."""
NOT_SHARED = "--cache-dir must be on shared storage"
"""What to do if a file of another node does not appear."""

_send = EventSender()
_registry = functools.cache(PluginRegistry)


def run_work(order: str, queue: Any, address: str = "", rank: int = 0, world_size: int = 1) -> str:
    """Builds the artifacts of one unit of work.

    Args:
        order: The unit of work as JSON.
        queue: The handle of an `EventQueue` actor.
        address: HOST:PORT at which several processes that train together connect.
        rank: The number of this process among them.
        world_size: The number of these processes.

    Returns:
        JSON: {} for success; {"again": reason} if a stop was requested and the work ended at a checkpoint, or if the
        other processes were lost; else the fields of `ddbench.execution.work_list.Failure`. No exception is raised.
    """
    request = json.loads(order)
    if world_size > 1:
        host, _, port = address.rpartition(":")
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": host, "MASTER_PORT": port}
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # Ray shows a process only its own devices
    with contextlib.suppress(OSError):
        os.chdir(request["folder"])  # relative paths refer to this folder
    _send.queue = queue
    pipeline = None

    def build() -> None:
        nonlocal pipeline
        pipeline = Pipeline(workspace, experiment_of(request["experiment"], workspace.registry))
        for part in request["parts"]:
            pipeline.graph[request["stage"]].ensure(pipeline, part)

    try:
        with interruption.handle_signals(), device.use_threads(request["experiment"]["runtime"]["threads"]):
            workspace = _workspace(request["cache"], request["data"], tuple(request["force"]))
            _wait_for(workspace.cache, request["inputs"])
            launch.run_distributed(build, workspace)
            lost = [name for name in request["outputs"] if processes.is_rank_zero() and not workspace.cache.adopt(name)]
    except (interruption.Stopped, KeyboardInterrupt):
        return json.dumps({"again": "its worker was stopped"})
    except processes.LostProcessError:
        return json.dumps({"again": "its processes lost their connection"})
    except PluginError as error:
        return _failure(str(error), error.__cause__)
    except DDBenchError as error:
        return _failure(str(error), cause=error.cause)
    except OSError as error:
        return _failure(os_error_line(error, "the cache"))
    except Exception as error:
        return _failure(str(pipeline.attribute(error) if pipeline else error), error)
    if lost:
        return _failure("a worker computes a different cache key: every node needs the same ddbench, plugins and data")
    return "{}"


def resolve(runtime: str) -> str:
    """Runs `ddbench.nn.device.resolve` on a worker, with JSON input and output; {"reason": ...} if it fails."""
    try:
        return device.resolve(RuntimeConfig.model_validate_json(runtime)).model_dump_json()
    except DDBenchError as error:
        return _failure(str(error))


@functools.lru_cache(maxsize=1)
def _workspace(cache: str, data_dir: str | None, force: tuple[str, ...]) -> Workspace:
    """Returns a workspace that is kept for the next item, with the last dataset and teacher."""
    opened = open_cache(cache, frozenset(force), _warn)
    workspace = Workspace(_registry(), opened, Path(data_dir) if data_dir else None)
    workspace.emit = _send
    return workspace


def _warn(text: str) -> None:
    _send(Event("note", "data", message=text))


def _wait_for(cache: Cache, names: list[str]) -> None:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while lost := [name for name in names if not cache.adopt(name)]:
        if time.monotonic() > deadline:
            raise DDBenchError(f"{lost[0]} is not visible on every node: {NOT_SHARED}", cause=NOT_SHARED)
        time.sleep(0.5)


def _failure(reason: str, exception: BaseException | None = None, cause: str = "") -> str:
    text = "".join(traceback.format_exception(exception)) if exception else ""
    return json.dumps({"reason": reason, "traceback": text, "cause": cause})
