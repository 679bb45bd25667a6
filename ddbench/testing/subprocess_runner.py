"""Runs functions of the conformance tests in one additional process, which is reused because torch imports slowly."""

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

Build = Callable[[Experiment, Path], None]

NOT_IMPORTABLE = "not importable"


class NotImportableError(Exception):
    """The second process cannot import the class of a method or protocol by its module and name."""


def run_in_subprocess(build: Build, experiment: Experiment, root: Path) -> None:
    """Calls `build(experiment, root)` in the second process, with the same number of threads.

    Args:
        build: A function at the top level of a module.
        experiment: The experiment. The second process imports the classes of its method and evaluator.
        root: Folder of a cache.

    Raises:
        NotImportableError: If the second process cannot import these classes.
        DDBenchError: If `build` fails there. The message holds the end of the traceback.
    """
    request = {
        "path": sys.path,
        "threads": torch.get_num_threads(),
        "build": _address(build),
        "classes": [_address(type(settings)) for settings in (experiment.method, experiment.evaluator)],
        "experiment": experiment.model_dump(mode="json"),
        "root": str(root),
    }
    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        _process.cache_clear()
        raise DDBenchError("the subprocess of the conformance tests ended without an answer")
    error = json.loads(line)
    if error == NOT_IMPORTABLE:
        raise NotImportableError
    if error:
        raise DDBenchError(f"the subprocess of the conformance tests failed: {error[-2000:]}")


def serve() -> None:
    """Handles requests until stdin ends: one JSON line per request, one JSON line with its error (empty: success)."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # prints of a plugin must not mix with the answers on stdout
    for line in sys.stdin:
        answers.write(json.dumps(_handle(line)) + "\n")


def _handle(line: str) -> str:
    request = json.loads(line)
    sys.path[:] = request["path"]
    torch.set_num_threads(request["threads"])
    fields = request["experiment"]
    try:
        for section, address in zip(("method_settings", "evaluator_settings"), request["classes"], strict=True):
            fields[section] = _find(address)(**fields[section])
    except (ModuleNotFoundError, AttributeError):
        return NOT_IMPORTABLE
    try:
        _find(request["build"])(Experiment(**fields), Path(request["root"]))
    except BaseException:
        return traceback.format_exc()
    return ""


@functools.cache
def _process() -> subprocess.Popen[str]:
    """Starts the second process, with another hash seed for strings. It ends when this process ends."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "29"}
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, text=True, start_new_session=True
    )


def _address(target: type | Build) -> tuple[str, str]:
    return target.__module__, target.__qualname__


def _find(address: tuple[str, str]) -> Callable[..., object]:
    module, name = address
    target: Callable[..., object] = getattr(import_module(module), name)
    return target
