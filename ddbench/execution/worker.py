"""What a Ray worker does: one unit of work through the cache, with a short JSON answer. No tensor leaves it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ddbench.config.experiment import Experiment
from ddbench.config.schema import RuntimeConfig
from ddbench.core import interruption
from ddbench.core import processes as processes_module
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.core.events import Event
from ddbench.execution import launch
from ddbench.execution.event_queue import EventSender
from ddbench.execution.work import build_artifacts
from ddbench.nn import device
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.storage.remote_cache import open_cache

VISIBLE_SECONDS = 60.0
"""How long what another node wrote may take to be seen here: so long NFS may remember that a file was not there."""

_tell = EventSender()
_registry = functools.cache(PluginRegistry)


def run_work(order: str, mailbox: Any, address: str = "", rank: int = 0, processes: int = 1) -> str:
    """Does the unit of work of `order`; both texts are JSON. Events go to `mailbox`, a handle of a Mailbox actor.

    One of several `processes` that do it together meets the others at `address`, HOST:PORT of the first one's node.

    The answer is {} where it is done, {"again": why} where it ended at a checkpoint because it was asked to or the
    others are gone, else {"reason": one line, "traceback": text or ""}. Nothing that goes wrong is raised.
    """
    asked = json.loads(order)
    if processes > 1:
        host, _, port = address.rpartition(":")
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": host, "MASTER_PORT": port}
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # Ray shows each its own devices alone
    with contextlib.suppress(OSError):
        os.chdir(asked["folder"])  # where relative paths are meant
    _tell.mailbox = mailbox
    torch.set_num_threads(asked["threads"])
    pipeline = None

    def work() -> None:
        nonlocal pipeline
        pipeline = Pipeline(workspace, experiment_of(asked["experiment"], workspace.registry))
        build_artifacts(pipeline, asked["stage"], asked["parts"])

    try:
        with interruption.handle_signals(), threadpool_limits(asked["threads"]):
            workspace = _workspace(asked["cache"], asked["data"], tuple(asked["force"]))
            _wait_for(workspace.cache, asked["needs"])
            launch.together(work, workspace)
            lost = [
                name
                for name in asked["makes"]
                if processes_module.is_rank_zero() and not workspace.cache.made_elsewhere(name)
            ]
    except (interruption.Stopped, KeyboardInterrupt):
        return json.dumps({"again": "its worker was stopped"})
    except processes_module.LostProcessError:
        return json.dumps({"again": "its processes lost each other"})
    except PluginError as error:
        return _failed(str(error), error.__cause__)
    except DDBenchError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename or 'the cache'}: {error.strerror or error}")
    except Exception as error:
        return _failed(str(pipeline.blamed(error) if pipeline else error), error)
    if lost:
        return _failed("a worker knows it by another key: the same ddbench, plugins and data must be on every node")
    return "{}"


def resolve(runtime: str) -> str:
    """`ddbench.nn.device.resolve` where the workers are, JSON in and out; {"reason": ...} where it cannot be."""
    try:
        return device.resolve(RuntimeConfig.model_validate_json(runtime)).model_dump_json()
    except DDBenchError as error:
        return _failed(str(error))


def experiment_of(tree: dict[str, Any], registry: PluginRegistry) -> Experiment:
    """An experiment from its JSON. Raises DDBenchError for a method or protocol that is not installed here."""
    own = {
        "method_settings": registry.distiller(tree["method"])(**tree["method_settings"]),
        "evaluator_settings": registry.evaluator(tree["evaluator"])(**tree["evaluator_settings"]),
    }
    return Experiment(**{**tree, **own})


@functools.lru_cache(maxsize=1)
def _workspace(cache: str, data_dir: str | None, force: tuple[str, ...]) -> Workspace:
    """Kept from one unit of work to the next, with the dataset and the teacher that were used last."""
    opened = open_cache(cache, frozenset(force), _warn)
    workspace = Workspace(_registry(), opened, Path(data_dir) if data_dir else None)
    workspace.emit = _tell
    return workspace


def _warn(text: str) -> None:
    _tell(Event("note", "data", message=text))


def _wait_for(cache: Cache, names: list[str]) -> None:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while lost := [name for name in names if not cache.made_elsewhere(name)]:
        if time.monotonic() > deadline:
            raise DDBenchError(f"{lost[0]} is not to be seen on every node: --cache-dir must be on shared storage")
        time.sleep(0.5)


def _failed(reason: str, cause: BaseException | None = None) -> str:
    told = "".join(traceback.format_exception(cause)) if cause else ""
    return json.dumps({"reason": reason, "traceback": told})
