"""A grid whose cells meet faults of the machine."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.pipeline.executor import Inline, WaitForArtifacts
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.run import run
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.results.records import Record
from ddbench.storage.cache import Cache

SMALL = ("data.image_size=8", "data.stored_size=8", "evaluator.epochs=1")
FAULT = f"/pixels.bin: {os.strerror(errno.EIO)}"


class OnFailingDisk(Inline):
    """Cannot read what the cells of IPC 1 and 2 need."""

    @contextlib.contextmanager
    def computing(self, pipelines: Sequence[Any]) -> Iterator[WaitForArtifacts]:
        def wait(pipeline: Any) -> None:
            if pipeline.experiment.ipc < 3:
                raise OSError(errno.EIO, os.strerror(errno.EIO), "/pixels.bin")

        yield wait


def run_grid(root: Path, ipcs: tuple[int, ...], out: list[str], err: list[str]) -> list[Record]:
    registry = PluginRegistry()
    options: dict[str, Any] = {"students": ("convnet-bn-d2",), "evaluators": ("hard",), "device": "cpu"}
    request = Request(("random",), ("digits",), ipcs, ("smoke",), assignments=SMALL, precision="fp32", **options)
    workspace = Workspace(registry, Cache(root / "cache"), None, executor=OnFailingDisk())
    return run(experiments(request, registry), workspace, root / "results", out.append, err.append)


def test_a_fault_of_the_machine_fails_its_cells_and_the_others_go_on(tmp_path: Path) -> None:
    out: list[str] = []
    err: list[str] = []
    records = run_grid(tmp_path, (1, 2, 3), out, err)
    assert [record.ipc for record in records] == [3]
    (line,) = [line for line in out + err if line.startswith("failed:   ")]
    assert line.startswith("failed:   random, digits, IPC 1, ")
    assert line.endswith(FAULT)
    assert sum(FAULT in line for line in err) == 1
    assert out[-1].startswith("          for the same reason: random, digits, IPC 2, ")


def test_a_single_cell_with_a_fault_of_the_machine_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match=f"^{FAULT}$"):
        run_grid(tmp_path, (1,), [], [])
