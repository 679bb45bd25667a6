"""Injected faults. `make test-all` runs a short form, `make faults` (DDBENCH_FAULTS=full) the full counts."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ddbench.api.hookspecs import hookimpl
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.artifacts import digest_of, read_tensors

if TYPE_CHECKING:
    from conftest import Outcome, Shell

IN_EVERY_RUN = (
    "test_a_network_is_trained_by_several_as_by_one[convnet-d3",
    "test_a_grid_that_loses_a_worker_its_driver_and_a_node_ends_as_inline",
)
FULL = os.environ.get("DDBENCH_FAULTS") == "full"
FORK_SERVER = Path(__file__).with_name("fork_server.py")
MEASURED = {"created", "seconds", "seconds_per_iteration", "built", "peak_memory", "git_commit", "digest"}
"""What a record says of times, memory and the checkout, and the digest of all that it says."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder as slow, except one each that runs `ddbench.execution` on Ray and distributed."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.name.startswith(IN_EVERY_RUN):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def counted() -> Callable[[int, int], int]:
    """How many faults to inject: `counted(short, full)`."""
    return lambda short, full: full if FULL else short


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Prints a line of counts ("killed 50 times: 50 same records") at the end of the whole test run."""
    return lambda line: record_property("counts", line)


@pytest.fixture
def kill_moments() -> random.Random:
    """Draws when to kill; other moments in every test run, and the same again with the printed DDBENCH_KILL_SEED."""
    seed = int(os.environ.get("DDBENCH_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"kill moments of DDBENCH_KILL_SEED={seed}")
    return random.Random(seed)


class Place:
    """Where runs keep their cache and their results: below `root`, the cache where another place has it if given."""

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root, self.cache, self.results = root, cache or root / "cache", root / "results"
        self.root.mkdir(parents=True, exist_ok=True)

    @property
    def options(self) -> list[str]:
        """For the command line."""
        return ["--cache-dir", str(self.cache), "--results-dir", str(self.results)]

    def lines(self) -> list[str]:
        """The messages of the run."""
        return (self.root / "log").read_text().splitlines()

    def records(self) -> dict[str, Any]:
        """Every record by name, without what is MEASURED."""
        records = {path.stem: json.loads(path.read_text()) for path in (self.results / "records").glob("*.json")}
        return {name: {k: v for k, v in record.items() if k not in MEASURED} for name, record in records.items()}

    def digests(self) -> dict[str, str]:
        """The tensors' digest of every artifact."""
        digests = {}
        for path in self.cache.glob("*/[!.]*.safetensors"):
            read = read_tensors(path)
            assert read is not None, path
            digests[f"{path.parent.name}/{path.stem}"] = digest_of(read[0])
        return digests

    def left_over(self) -> list[str]:
        """Half-written files, checkpoints, and what was set aside."""
        paths = [path for folder in (self.cache, self.results) for path in folder.rglob("*")]
        wrong = [path for path in paths if path.name.startswith(".") or ".damaged" in path.name]
        saved = [path for path in paths if "checkpoints" in path.parts and path.is_file()]
        return sorted(map(str, {*wrong, *saved}))


@pytest.fixture(scope="session")
def place_at() -> Callable[..., Place]:
    """Makes a place in a folder."""
    return Place


class BadPlugin:
    """A plugin with faults, and runs with it."""

    name = "ddbench-bad"
    fast = ("--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32")
    small = (*fast, "--image-size", "8", "--student", "convnet-d2")

    def registry(self, **hooks: object) -> PluginRegistry:
        """What is installed, and a plugin whose hooks give these values."""
        registry = PluginRegistry()
        made = {f"ddbench_{name}": hookimpl(lambda value=value: value) for name, value in hooks.items()}
        registry.register(SimpleNamespace(**made), self.name)
        return registry

    def run(self, shell: Shell, registry: PluginRegistry, *words: str) -> Outcome:
        """A command with this registry."""
        with mock.patch("ddbench.cli.main.PluginRegistry", return_value=registry):
            return shell(*words)


@pytest.fixture(scope="session")
def bad_plugin() -> BadPlugin:
    """A plugin that misbehaves."""
    return BadPlugin()


class Forked:
    """One `ddbench` process, its messages in a file: a line for every event."""

    def __init__(self, ask: Callable[..., Any], log: Path, **order: Any) -> None:
        self._ask, self.log = ask, log
        self.number = ask(log=str(log), **order)
        self.code: int | None = None

    def lines(self) -> list[str]:
        """Its messages so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def end(self, block: bool = True) -> int | None:
        """The exit code, minus the signal that ended it; None where it still runs."""
        if self.code is None:
            self.code = self._ask(wait=self.number, block=block)
        return self.code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it."""
        os.kill(self.number, number)

    def resume(self) -> None:
        """Continues a process that has stopped itself."""
        self.signal(signal.SIGCONT)

    def kill(self) -> int | None:
        """`kill -9`: its exit code is then -9, or that of a run that was quicker."""
        if self.code is None:
            self.signal(signal.SIGKILL)
        return self.end()

    def wait_for(self, message: str) -> None:
        """Waits for a line with these words."""
        deadline = time.monotonic() + 900
        while not any(message in line for line in self.lines()):
            assert self.end(block=False) is None, f"it ended without '{message}': {self.lines()}"
            assert time.monotonic() < deadline, f"no '{message}': {self.lines()}"
            time.sleep(0.002)


class Small:
    """A really small experiment that has every stage, stored labels too; run in forked processes.

    `alone` is where it was run once, in a process of its own that nobody touched.
    """

    def __init__(self, images: Path, alone: Place, ask: Callable[..., Any]) -> None:
        self.arguments, self.alone, self.ask = small_run(images), alone, ask

    def variant(self, instead: dict[str, str]) -> Small:
        """The same, with other words in its arguments."""
        other = copy.copy(self)
        other.arguments = [instead.get(word, word) for word in self.arguments]
        return other

    def start(self, place: Place, *more: str, **how: Any) -> Forked:
        """Begins a run of the experiment; `more` are arguments, `how` as in `command`."""
        return self.command(place, *self.arguments, *place.options, *more, **how)

    def command(
        self,
        place: Place,
        *arguments: str,
        threads: int = 1,
        flock: int | None = None,
        pause: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> Forked:
        """Begins `ddbench ARGUMENTS`; `flock` is what the kernel answers to who asks for a lock.

        With `pause`, the process stops itself at the first message that contains this text, until `resume`.

        Of several processes that are started together (RANK in `environment`) each has a log of its own.
        """
        environment = environment or {}
        log = place.root / ("log" if environment.get("RANK", "0") == "0" else f"log {environment['RANK']}")
        how = {"threads": threads, "flock": flock, "pause": pause, "environment": environment}
        return Forked(self.ask, log, run=[*arguments], **how)


def small_run(images: Path) -> list[str]:
    """Arguments of a run of a second or two: every setting is the smallest that a fault can still hit."""
    settings = {
        **{"data.stored_size": 8, "teacher.batch_size": 16, "teacher.epochs": 8, "distill.checkpoint_every": 5},
        **{"method.steps": 30, "evaluator.labels": "stored", "evaluator.epochs": 15},
    }
    command = ["run", "--method", "wmdd", "--dataset", f"imagefolder:{images}", "--ipc", "2", "--recipe", "smoke"]
    command += ["--device", "cpu", "--precision", "fp32", "--image-size", "8", "--arch", "convnet-bn-d2"]
    return command + [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes, each of its own brightness."""
    draw, root = np.random.default_rng(0), tmp_path_factory.mktemp("small") / "images"
    for split, count in (("train", 12), ("val", 6)):
        for number, name in enumerate(("cat", "dog", "owl")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 100, (12, 14, 3), dtype=np.uint8) + np.uint8(70 * number)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def small(small_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """The small experiment, and the process that forks its runs (fork_server.py)."""
    alone = Place(tmp_path_factory.mktemp("alone"))
    command = [sys.executable, str(FORK_SERVER), *small_run(small_images), *alone.options]
    log = alone.root / "log"
    with log.open("w") as messages:
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n", log.read_text()

    def ask(**order: Any) -> Any:
        print(json.dumps(order), file=server.stdin, flush=True)
        assert server.stdout is not None
        return json.loads(server.stdout.readline())

    yield Small(small_images, alone, ask)
    server.stdin.close()
    server.wait(60)
