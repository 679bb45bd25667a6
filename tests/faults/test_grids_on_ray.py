"""Grids on Ray: the bytes of inline with any number of workers; workers, nodes and the driver lost on the way.

They share a cluster: Ray takes longer to start than what is computed on it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import psutil
import pytest
import torch

from ddbench.storage.artifacts import read_tensors

if TYPE_CHECKING:
    from conftest import Outcome, Place, Shell, Storage

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ddbench[ray]'")

SMALL = (
    *("--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--image-size", "8", "--arch", "convnet-bn-d1"),
    *("--set", "data.stored_size=8", "--set", "teacher.batch_size=16", "--set", "distill.checkpoint_every=5"),
)
Ended = TypeVar("Ended")
PLUGIN = '''
import os

from ddbench.api import hookimpl
from ddbench.api import Distiller

if "SAVES_EVERY_EPOCH" in os.environ:
    from ddbench.training import loop

    loop.SAVE_SECONDS = 0.0


class Broken(Distiller):
    """Breaks, at every unit: which of the others are made before a cell fails depends on the workers."""

    name, version, needs_teacher = "broken", "1", False

    def units(self, num_classes, ipc):
        from ddbench.api import units_of_whole_classes

        return units_of_whole_classes(num_classes, ipc, 5)

    def distill(self, task, unit):
        raise KeyError("no such thing")


@hookimpl
def ddbench_distillers():
    return [Broken]
'''


class Nodes:
    """A cluster of Ray nodes on this machine, a core each; to each of them its own `home` is the person's."""

    def __init__(self, root: Path) -> None:
        from ray.cluster_utils import Cluster

        self._root, self._homes = root, 0
        self.cluster = Cluster()
        self.nodes: list[Any] = []
        self.homes: list[Path] = []

    def have(self, count: int) -> None:
        """Adds and removes nodes until there are so many."""
        while len(self.nodes) > count:
            self.remove_the_last()
        while len(self.nodes) < count:
            self._add()

    def _add(self) -> None:
        home = self._root / f"home {self._homes}"
        home.mkdir()
        self._homes += 1
        options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 2**27, "include_log_monitor": False}
        if not self.nodes:
            options |= {"include_dashboard": False, "no_monitor": True}
        for trial in range(3):
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("HOME", str(home))
                    patch.setenv("SAVES_EVERY_EPOCH", "")
                    node = self.cluster.add_node(**options)
                break
            except Exception:  # Ray gives a node 30 seconds to start, which a busy machine may not have
                if trial == 2:
                    raise
        self.nodes.append(node)
        self.homes.append(home)

    @property
    def address(self) -> tuple[str, str]:
        """For the command line."""
        return "--ray-address", self.cluster.address

    @property
    def raylets(self) -> list[int]:
        """The process of each node that starts the workers."""
        return [node.all_processes["raylet"][0].process.pid for node in self.nodes]

    def busy(self, stage: str, node: int | None = None) -> list[psutil.Process]:
        """The workers (of all nodes, or of one) that are at a stage: Ray calls them by the unit of work."""
        processes = []
        for raylet in self.raylets if node is None else [self.raylets[node]]:
            for process in psutil.Process(raylet).children(recursive=True):
                try:
                    if " ".join(process.cmdline()).startswith(f"ray::{stage}"):
                        processes.append(process)
                except psutil.Error:
                    continue
        return processes

    def remove_the_last(self) -> None:
        """At once, without a word to what runs there."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
        self.homes.pop()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, storage_server: Storage, install_plugin: Callable[[Path, str, str], None]
) -> Iterator[Nodes]:
    """Nodes whose workers compute with one thread, know the storage and the plugin that breaks, and inherit all that.

    Another number of threads adds up in another order: so this process has one too.
    """
    root = tmp_path_factory.mktemp("nodes")
    site = root / "site"
    install_plugin(site, "broken", PLUGIN)
    environment = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(site)}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        for name, value in {**environment, **storage_server.environment}.items():
            patch.setenv(name, value)
        nodes = Nodes(root)
        nodes.have(1)
        yield nodes
        nodes.cluster.shutdown()
    torch.set_num_threads(before)


def failures(outcome: Outcome) -> list[str]:
    return [line for line in outcome.errors if line.startswith("failed:")]


def wait_until(what: Callable[[], Any], over: Callable[[], Any] = lambda: None) -> Any:
    """Waits for something that is true."""
    deadline = time.monotonic() + 240
    while not (result := what()):
        assert not over(), over()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


def meanwhile(run: Callable[[], Ended], do: Callable[[Callable[..., Any]], None]) -> Ended:
    """How `run` ends, while another thread does what is to be done; that waits by the function that it is given."""
    ended: list[Ended] = []
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(do, lambda what: wait_until(what, lambda: ended))
        ended.append(run())
        doing.result()
    return ended[0]


def test_a_teacher_is_trained_by_two_processes_one_of_which_is_killed(
    cluster: Nodes,
    small_images: Path,
    tmp_path: Path,
    shell_in: Callable[[Path], Shell],
    place_at: Callable[..., Place],
    counted: Callable[[Any, Any], Any],
    tally: Callable[[str], None],
) -> None:
    """One on each node. What is in the cache beside the teacher is that of inline, so that only they are started."""
    cluster.have(2)
    command = ["run", "--method", "random", "--dataset", f"imagefolder:{small_images}", *SMALL, "--ipc", "1"]
    command += ["--set", "teacher.epochs=12", "--set", "teacher.learning_rate=0.002", "--set", "evaluator.epochs=1"]
    inline = place_at(tmp_path / "inline")
    assert shell_in(inline.root)(*command).code == 0
    together = ("--executor", "ray", *cluster.address, "--set", "resources.teacher.processes=2")

    def teacher(place: Place) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        (path,) = (place.cache / "teacher").glob("[!.]*.safetensors")
        content = read_tensors(path)
        assert content is not None
        return content[0], content[1]["meta"]

    for victim in counted((None,), (None, 0, 1)):
        place = place_at(tmp_path / f"killed {victim}")
        shutil.copytree(inline.cache, place.cache, ignore=shutil.ignore_patterns("teacher", "*.lock"))

        def kill(until: Callable[..., Any], victim: int | None = victim, place: Place = place) -> None:
            if victim is not None:
                until(lambda: list((place.cache / "checkpoints" / "teacher").glob("*.safetensors")))
                (worker,) = cluster.busy("teacher", victim)
                worker.kill()

        outcome = meanwhile(lambda place=place: shell_in(place.root)(*command, *together), kill)
        assert outcome.code == 0, outcome.err
        assert ("retry 1 of 3" in outcome.err) == (victim is not None)
        assert "retry 2 of 3" not in outcome.err
        assert any(": resumed" in line for line in outcome.errors) == (victim is not None), outcome.err
        (weights, meta), (expected, of_inline) = teacher(place), teacher(inline)
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
        assert meta["device"] == {**of_inline["device"], "processes": 2}
        (record,), (expected_record,) = place.records().values(), inline.records().values()
        assert record["keys"] == expected_record["keys"]
        assert record["device"] == {**expected_record["device"], "processes": 2}
        assert [path for path in place.left_over() if "outdated" not in path] == []
        tally(f"a teacher of two processes on two Ray nodes, {'none' if victim is None else victim} killed: as inline")


@pytest.mark.slow(20)
def test_any_number_of_workers_gives_the_bytes_of_inline(
    cluster: Nodes,
    storage: Storage,
    small_images: Path,
    tmp_path: Path,
    shell_in: Callable[[Path], Shell],
    place_at: Callable[..., Place],
    counted: Callable[[Any, Any], Any],
    tally: Callable[[str], None],
) -> None:
    """Workers in a shared folder; and two on an object store, each with a local copy of its own, one of them lost."""
    methods = ("--method", "broken", "--method", "wmdd", "--method", "random")
    settings = ("--ipc", "4", "--set", "wmdd.batch_size=2", "--set", "wmdd.steps=150", "--set", "evaluator.epochs=3")
    command = ("run", *methods, "--dataset", f"imagefolder:{small_images}", *SMALL, *settings)

    def in_folder(name: str, *more: str) -> tuple[Outcome, Place]:
        (tmp_path / name).mkdir(exist_ok=True)
        outcome = shell_in(tmp_path / name)(*command, *more)
        assert outcome.code == 1, outcome.err  # one cell cannot be
        return outcome, place_at(tmp_path / name)

    inline, expected = in_folder("inline")
    assert len(expected.records()) == 2
    (reason,) = failures(inline)
    assert "method 'broken' of broken: KeyError: 'no such thing' (traceback: results/failures/" in reason

    def check(outcome: Outcome, actual: Place, what: str) -> None:
        assert actual.digests() == expected.digests()
        assert actual.records() == expected.records()
        assert failures(outcome) == failures(inline)
        assert sorted(outcome.out.splitlines()[-1:]) == sorted(inline.out.splitlines()[-1:])
        (failure,) = (actual.results / "failures").iterdir()
        assert "raise KeyError" in failure.read_text()
        assert actual.left_over() == []
        sets = {record["method"]: record["distilled_digest"][:12] for record in actual.records().values()}
        tally(f"inline and Ray, {what}: {len(actual.digests())} artifacts of the same bytes; sets {sets}")

    for workers in counted((), (1, 2, 5)):
        cluster.have(workers)
        check(*in_folder(f"{workers}", "--executor", "ray", *cluster.address), f"{workers} in a folder")

    cluster.have(2)
    homes = list(cluster.homes)

    def copies() -> list[dict[str, str]]:
        caches = [next(home.glob(".cache/ddbench/shared/*/cache"), home / "none") for home in homes]
        return [place_at(tmp_path, folder).digests() for folder in caches]

    def lose(until: Callable[..., Any]) -> None:
        until(lambda: cluster.busy("distill wmdd", 1) and copies()[1])
        cluster.remove_the_last()

    storing = ("--executor", "ray", *cluster.address, "--cache-dir", storage.url())
    outcome, outcome_place = meanwhile(lambda: in_folder("stored", *storing), lose)
    assert "retry 1 of 3" in outcome.err
    there = place_at(outcome_place.root, tmp_path / "there")
    storage.files.get(storage.url().removeprefix("s3://"), str(there.cache), recursive=True)
    own = copies()
    assert own[0] | own[1] == expected.digests()
    counts = " and ".join(str(len(each)) for each in own)
    check(outcome, there, f"2 on S3 with local copies of {counts} artifacts, one lost")


class Driver:
    """`ddbench` in a process of its own."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as messages:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ddbench", *command], stdout=subprocess.DEVNULL, stderr=messages
            )

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Waits for something that is true."""
        return wait_until(what, lambda: self.process.poll() is not None and self.log.read_text())

    def end(self) -> int:
        """Its exit code."""
        return self.process.wait(300)


def test_a_fault_of_the_cache_is_reported_once_for_all_cells(cluster: Nodes, small_images: Path, shell: Shell) -> None:
    """As inline, in tests/cli/test_bad_storage.py: each cell needs another file of a folder that cannot be written."""
    cluster.have(1)
    shell.cache.mkdir()
    (shell.cache / "distill").write_text("a file")
    grid = ("--method", "random,kmeans", "--dataset", f"imagefolder:{small_images}", *SMALL, "--ipc", "1", "--ipc", "2")
    outcome = shell("run", *grid, "--executor", "ray", *cluster.address)
    outcome.refused("every cell failed: random, imagefolder:", "; kmeans, imagefolder:")
    (line,) = [line for line in outcome.errors if f"cannot write to {shell.cache / 'distill'}" in line]
    assert line.startswith("failed: random, imagefolder:")


def test_a_search_on_ray_ends_as_inline(
    cluster: Nodes,
    small_images: Path,
    tmp_path: Path,
    shell_in: Callable[[Path], Shell],
    place_at: Callable[..., Place],
) -> None:
    """Trials on the cluster, then the winner."""
    cluster.have(1)
    command = ("tune", "--method", "random", "--dataset", f"imagefolder:{small_images}", *SMALL, "--ipc", "1")
    command += ("--evaluator", "hard", "--over", "evaluator.epochs=1,3")
    for name, more in (("inline", ()), ("ray", ("--executor", "ray", *cluster.address))):
        (tmp_path / name).mkdir()
        outcome = shell_in(tmp_path / name)(*command, *more)
        assert outcome.code == 0, outcome.err
    inline, on_ray = place_at(tmp_path / "inline"), place_at(tmp_path / "ray")
    assert len(inline.records()) == 2 + 1
    assert on_ray.records() == inline.records()


def test_a_grid_that_loses_a_worker_its_driver_and_a_node_ends_as_inline(
    cluster: Nodes,
    small_images: Path,
    tmp_path: Path,
    shell_in: Callable[[Path], Shell],
    place_at: Callable[..., Place],
    counted: Callable[[Any, Any], Any],
    tally: Callable[[str], None],
) -> None:
    """The short form has one worker and loses nothing."""
    cluster.have(counted(1, 2))
    command = ["table", "ablation", "--run", "--dataset", f"imagefolder:{small_images}", *SMALL, "--ipc", "1"]
    command += ["--set", f"wmdd.steps={counted(10, 60)}", "--set", "evaluator.epochs=3"]
    command += ["--format", "csv", "--output", "table.csv"]
    (tmp_path / "inline").mkdir()
    outcome = shell_in(tmp_path / "inline")(*command)
    assert outcome.code == 0, outcome.err
    expected, place = place_at(tmp_path / "inline"), place_at(tmp_path / "grid")
    place.results.mkdir()
    table = place.root / "table.csv"
    command = [*command[:-1], str(table), *place.options, "--executor", "ray", *cluster.address]

    def under_way() -> list[psutil.Process]:
        """The workers at a distilled unit that has been saved at least once."""
        saved = list((place.cache / "checkpoints" / "distill").glob("*.safetensors"))
        return cluster.busy("distill") if saved else []

    def artifacts() -> dict[str, int]:
        """Every artifact and when it was written."""
        paths = place.cache.glob("[!c]*/[!.]*.safetensors")
        return {str(path): path.stat().st_mtime_ns for path in paths if "checkpoints" not in path.parts}

    def made_again(before: dict[str, int]) -> int:
        after = artifacts()
        return sum(after[path] != written for path, written in before.items())

    there = repeated = 0
    codes = {signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}
    faults = counted((), tuple(codes))
    for number, fault in enumerate(faults):
        driver = Driver(command, tmp_path / f"log {number}")
        driver.wait_for(under_way)
        before = artifacts()
        driver.process.send_signal(fault)
        assert driver.end() == codes[fault], driver.log.read_text()
        repeated, there = repeated + made_again(before), len(before)

    before = {}

    def lose(until: Callable[..., Any]) -> None:
        victim = until(under_way)[0]
        victim.kill()
        until(lambda: victim not in cluster.busy("distill") and under_way())
        until(lambda: cluster.busy("distill", 1) or cluster.busy("evaluate", 1))
        before.update(artifacts())
        cluster.remove_the_last()

    outcome = meanwhile(lambda: shell_in(place.root)(*command), counted(lambda until: None, lose))
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("retry ") >= counted(0, 2)
    assert outcome.err.count("distill wmdd IPC 1 1/1: resumed") >= counted(0, 1)
    assert repeated + made_again(before) == 0
    assert place.digests() == expected.digests()
    assert place.records() == expected.records()
    assert place.left_over() == []
    ours, theirs = pd.read_csv(table), pd.read_csv(expected.root / "table.csv")
    measured = [name for name in ours if "seconds" in name or "memory" in name]
    assert list(ours["state"]) == ["measured"] * 4
    pd.testing.assert_frame_equal(ours.drop(columns=measured), theirs.drop(columns=measured))
    lost = f"the driver stopped or killed {len(faults)} times ({there} artifacts were there before the last)"
    lost = counted("one", f"two, {lost}, a worker killed, a node removed")
    tally(f"ablation on Ray nodes: {lost}: frame of inline, no artifact made again")
