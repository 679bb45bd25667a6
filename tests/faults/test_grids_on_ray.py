"""Grids on Ray: the bytes of inline with any number of workers; workers, nodes and the driver lost on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import pytest
import torch

if TYPE_CHECKING:
    from conftest import Outcome, Place, Shell

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ddbench[ray]'")

SMALL = (
    *("--dataset", "digits", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--image-size", "8"),
    *("--arch", "convnet-bn-d1", "--set", "teacher.batch_size=256", "--set", "teacher.epochs=2"),
    *("--set", "distill.checkpoint_every=5"),
)
BROKEN = '''
from ddbench import hookimpl
from ddbench.distiller import Distiller


class Broken(Distiller):
    """Breaks at its second unit."""

    name, version, needs_teacher = "broken", "1", False

    def units(self, num_classes, ipc):
        from ddbench.distiller import units_of_whole_classes

        return units_of_whole_classes(num_classes, ipc, 5)

    def distill(self, task, unit):
        import torch

        if unit.index:
            raise KeyError("no such thing")
        return torch.zeros(len(unit.slots), 3, task.info.image_size, task.info.image_size)


@hookimpl
def ddbench_distillers():
    return [Broken]
'''


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the workers have: another number of threads adds up in another order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def failures(outcome: Outcome) -> list[str]:
    return [line for line in outcome.errors if line.startswith("failed:")]


def test_any_number_of_workers_gives_the_bytes_of_inline(
    tmp_path: Path,
    shell_in: Callable[[Path], Shell],
    place_at: Callable[[Path], Place],
    monkeypatch: pytest.MonkeyPatch,
    counted: Callable[[Any, Any], Any],
    tell: Callable[[str], None],
) -> None:
    if not counted(False, True):
        pytest.skip("it starts Ray three times: with DDBENCH_FAULTS=full")
    site = tmp_path / "site"
    info = site / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "broken.py").write_text(BROKEN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ddbench]\nplug = broken\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))

    methods = ("--method", "broken", "--method", "wmdd", "--method", "random")
    settings = ("--ipc", "2", "--set", "wmdd.batch_size=4", "--set", "wmdd.steps=20", "--set", "evaluator.epochs=5")
    command = ("run", *methods, *SMALL, *settings)

    def in_folder(name: str, *more: str) -> tuple[Outcome, Place]:
        (tmp_path / name).mkdir()
        outcome = shell_in(tmp_path / name)(*command, *more)
        assert outcome.code == 1, outcome.err  # one cell cannot be
        return outcome, place_at(tmp_path / name)

    inline, expected = in_folder("inline")
    assert len(expected.records()) == 2
    (reason,) = failures(inline)
    assert "method 'broken' of broken: KeyError: 'no such thing' (traceback: results/failures/" in reason
    for workers in (1, 2, 5):
        monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": workers}))
        outcome, found = in_folder(f"{workers} workers", "--executor", "ray")
        assert found.digests() == expected.digests()
        assert found.records() == expected.records()
        assert failures(outcome) == failures(inline)
        assert sorted(outcome.out.splitlines()[-1:]) == sorted(inline.out.splitlines()[-1:])
        (told,) = (found.results / "failures").iterdir()
        assert "raise KeyError" in told.read_text()
        assert found.left_over() == []
        sets = {record["method"]: record["distilled_digest"][:12] for record in found.records().values()}
        tell(f"inline and Ray with {workers} workers: {len(found.digests())} artifacts of the same bytes; sets {sets}")


class Driver:
    """`ddbench` in a process of its own, on a cluster."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as messages:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ddbench", *command], stdout=subprocess.DEVNULL, stderr=messages
            )

    def until(self, what: Callable[[], Any]) -> Any:
        """Waits for something that is true."""
        deadline = time.monotonic() + 240
        while not (found := what()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return found

    def said(self, text: str) -> bool:
        """Whether it said this."""
        return text in self.log.read_text()

    def end(self) -> int:
        """Its exit code."""
        return self.process.wait(300)


def busy(raylet: int, stage: str) -> list[psutil.Process]:
    """The workers of a node that are at a stage: Ray calls them by the unit of work."""
    found = []
    for process in psutil.Process(raylet).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{stage}"):
                found.append(process)
        except psutil.Error:
            continue
    return found


class TwoNodes:
    """Two Ray nodes on this machine, a core each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._options = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=self._options)
        self.nodes = [self.cluster.head_node, self.cluster.add_node(num_cpus=1, object_store_memory=2**27)]

    @property
    def raylets(self) -> list[int]:
        """The process of each node that starts the workers."""
        return [node.all_processes["raylet"][0].process.pid for node in self.nodes]

    def remove_the_second(self) -> None:
        """At once, without a word to what runs there."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)


@pytest.fixture
def two_nodes(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    """A cluster of two nodes."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for trial in range(3):
        try:
            nodes = TwoNodes()
            break
        except Exception:  # Ray gives a node 30 seconds to start, which a busy machine may not have
            if trial == 2:
                raise
    yield nodes
    nodes.cluster.shutdown()


def test_a_grid_that_loses_a_worker_its_driver_and_a_node_ends_as_inline(
    two_nodes: TwoNodes,
    tmp_path: Path,
    shell_in: Callable[[Path], Shell],
    place_at: Callable[[Path], Place],
    counted: Callable[[Any, Any], Any],
    tell: Callable[[str], None],
) -> None:
    command = ["table", "ablation", *SMALL, "--ipc", "1", "--set", "wmdd.steps=60", "--set", "evaluator.epochs=20"]
    command += ["--format", "csv", "--output", "table.csv"]
    (tmp_path / "inline").mkdir()
    outcome = shell_in(tmp_path / "inline")(*command)
    assert outcome.code == 0, outcome.err
    expected, place = place_at(tmp_path / "inline"), place_at(tmp_path / "grid")
    place.results.mkdir()
    table = place.root / "table.csv"
    command = [*command[:-1], str(table), *place.options, "--executor", "ray"]
    command += ["--ray-address", two_nodes.cluster.address]

    def under_way() -> list[psutil.Process]:
        """The workers at a distilled unit that has been saved at least once."""
        saved = list((place.cache / "checkpoints" / "distill").glob("*.safetensors"))
        return [worker for raylet in two_nodes.raylets for worker in busy(raylet, "distill")] if saved else []

    def artifacts() -> dict[str, int]:
        """Every artifact and when it was written."""
        found = place.cache.glob("[!c]*/[!.]*.safetensors")
        return {str(path): path.stat().st_mtime_ns for path in found if "checkpoints" not in path.parts}

    def made_again(before: dict[str, int]) -> int:
        after = artifacts()
        return sum(after[path] != written for path, written in before.items())

    there = repeated = 0
    codes = {signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}
    faults = counted((), tuple(codes))
    for number, fault in enumerate(faults):
        driver = Driver(command, tmp_path / f"log {number}")
        driver.until(under_way)
        before = artifacts()
        driver.process.send_signal(fault)
        assert driver.end() == codes[fault], driver.log.read_text()
        repeated, there = repeated + made_again(before), len(before)
    driver, before = Driver(command, tmp_path / "log of the last"), artifacts()
    driver.until(under_way)[0].kill()
    driver.until(lambda: driver.said("tried again (1 of 3)"))
    driver.until(lambda: driver.said("distill wmdd 1/1: resumed"))
    before |= artifacts()
    driver.until(lambda: busy(two_nodes.raylets[1], "distill") or busy(two_nodes.raylets[1], "evaluate"))
    two_nodes.remove_the_second()
    assert driver.end() == 0, driver.log.read_text()
    assert driver.log.read_text().count("tried again") >= 2
    assert repeated + made_again(before) == 0
    assert place.digests() == expected.digests()
    assert place.records() == expected.records()
    assert place.left_over() == []
    ours, theirs = pd.read_csv(table), pd.read_csv(expected.root / "table.csv")
    measured = [name for name in ours if "seconds" in name or "memory" in name]
    assert list(ours["state"]) == ["measured"] * 4
    pd.testing.assert_frame_equal(ours.drop(columns=measured), theirs.drop(columns=measured))
    tell(
        f"ablation on two Ray nodes: the driver stopped or killed {len(faults)} times ({there} artifacts were there "
        f"before the last), a worker killed, a node removed: frame of inline, no artifact made again"
    )
