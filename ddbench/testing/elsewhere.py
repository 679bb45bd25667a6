"""Another process that makes what the kit asks for; it is started once, because importing torch takes seconds."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError

Make = Callable[[Experiment, Path], None]


class NotImportable(Exception):
    """Another process cannot import the class of a method or protocol by its module and name."""


def make_elsewhere(make: Make, experiment: Experiment, root: Path) -> None:
    """Calls `make(experiment, root)`, a module's function, in another process, with as many threads.

    Raises NotImportable; DDBenchError with the end of the traceback where it fails there.
    """
    settings = (experiment.method, experiment.evaluator)
    order = {
        "path": sys.path,
        "threads": torch.get_num_threads(),
        "make": _address(make),
        "classes": [_address(type(part)) for part in settings],
        "experiment": experiment.model_dump(mode="json"),
        "root": str(root),
    }
    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        _process.cache_clear()
        raise DDBenchError("the other process ended without an answer")
    said = json.loads(answer)
    if said == "not importable":
        raise NotImportable
    if said:
        raise DDBenchError(f"in another process: {said[-2000:]}")


def serve() -> None:
    """What the other process does: an order a line on stdin, an answer a line on stdout (empty: done)."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a plugin prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(_carry_out(line)) + "\n")


def _carry_out(line: str) -> str:
    order = json.loads(line)
    sys.path[:] = order["path"]
    torch.set_num_threads(order["threads"])
    settings = order["experiment"]
    try:
        for section, address in zip(("method_settings", "evaluator_settings"), order["classes"], strict=True):
            settings[section] = _find(address)(**settings[section])
    except (ModuleNotFoundError, AttributeError):
        return "not importable"
    try:
        _find(order["make"])(Experiment(**settings), Path(order["root"]))
    except BaseException:
        return traceback.format_exc()
    return ""


@functools.cache
def _process() -> subprocess.Popen[str]:
    """The other process; it ends when this one does. Strings hash otherwise there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "29"}
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, text=True, start_new_session=True
    )


def _address(thing: type | Make) -> tuple[str, str]:
    return thing.__module__, thing.__qualname__


def _find(address: tuple[str, str]) -> Callable[..., object]:
    module, name = address
    found: Callable[..., object] = getattr(import_module(module), name)
    return found
