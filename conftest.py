"""Settings of every test, also of the plugins', and the command line in this process: what a person types and sees."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, settings

from ddbench.cli.main import main
from ddbench.config.schema import DataConfig
from ddbench.storage.cache import Cache, Checkpoint

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset

# Programs that tests start; and, for doctests, modules of ddbench whose optional package is not installed.
ROOT = Path(__file__).parent
OPTIONAL = [name for name in ("ray", "lightning_fabric", "s3fs") if importlib.util.find_spec(name) is None]
collect_ignore = ["tests/s3_server.py", "tests/faults/fork_server.py", "tests/faults/failing_disk.py"]
if OPTIONAL:
    needs = re.compile(rf"^(import|from) ({'|'.join(OPTIONAL)})\b", re.MULTILINE)
    paths = (ROOT / "ddbench").rglob("*.py")
    collect_ignore += [str(path.relative_to(ROOT)) for path in paths if needs.search(path.read_text(encoding="utf-8"))]

# An example's time says nothing on a machine that does other things too; how many examples there are does.
settings.register_profile("ddbench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ddbench")

# A job that a shell starts in the background ignores Ctrl-C, and would hand that on to the commands under test.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest-xdist sets the width of a terminal, and what is printed would depend on it.
os.environ.pop("COLUMNS", None)

# Few, large batches of small images and no bf16: what these runs have to show does not depend on any of that.
FAST = (
    *("--recipe", "smoke", "--device", "cpu", "--precision", "fp32"),
    *("--image-size", "8", "--set", "teacher.batch_size=256"),
)


def pytest_collection() -> None:
    """Collects no garbage while modules are imported."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the modules with the longest tests to the front, so that no worker runs such a test alone at the end."""
    longest: dict[Path, float] = {}
    for item in items:
        seconds = (mark.args[0] for mark in item.iter_markers("slow") if mark.args)
        longest[item.path] = max(longest.get(item.path, 0), *seconds, 0)
    items.sort(key=lambda item: -longest[item.path])


def pytest_collection_finish() -> None:
    """Exempts the modules and collected tests, over a million objects, from the collections of garbage that follow."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Includes them again: extension modules report objects that are left at the exit."""
    gc.unfreeze()
    gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the counts of tests that count what they did."""
    reports = [report for actual in ("passed", "failed") for report in terminalreporter.stats.get(actual, [])]
    lines = [str(value) for report in reports for name, value in report.user_properties if name == "counts"]
    if lines:
        terminalreporter.section("counts")
        for line in sorted(lines):
            terminalreporter.line(line)


def install(site: Path, distribution: str, source: str) -> None:
    """Writes a distribution with one module and one entry point of the group `ddbench` into an import folder."""
    module = distribution.replace("-", "_")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(dedent(source))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ddbench]\nplug = {module}\n")


@pytest.fixture(scope="session")
def install_plugin() -> Callable[[Path, str, str], None]:
    """`install`, for test modules."""
    return install


STOPPER = """
    import os
    import signal
    from ddbench.api import hookimpl

    stage, kind, number, name = os.environ["DDTEST_STOP"].split()
    seen = 0

    @hookimpl
    def ddbench_event(event):
        global seen
        if (event.stage, event.kind) != (stage, kind) or seen < 0:
            return
        seen = event.step if kind == "step" else seen + 1
        if seen >= int(number):
            seen = -1
            os.kill(os.getpid(), signal.Signals[name])
"""


@pytest.fixture
def stop_at(tmp_path: Path) -> Callable[[str, str, int, str], dict[str, str]]:
    """Makes an environment in which `ddbench` sends itself a signal, once, at the same place on any machine.

    The place is the first event of a stage and kind whose step (kind "step") or count (other kinds) reaches a number.
    """
    site = tmp_path / "stopper"
    install(site, "ddtest_stopper", STOPPER)

    def environment(stage: str, kind: str, number: int, signal_name: str) -> dict[str, str]:
        return {"PYTHONPATH": str(site), "DDTEST_STOP": f"{stage} {kind} {number} {signal_name}"}

    return environment


SEVERAL = """
import shlex
import sys
from ddbench.cli.main import main

for command in sys.argv[1:]:
    sys.argv = shlex.split(command)
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(scope="session")
def in_one_process() -> Callable[..., list[str]]:
    """Arguments of Python that run several `ddbench` commands in one process, up to the first that fails."""
    return lambda *commands: ["-c", SEVERAL, *commands]


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, and the text on stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of a printed table, by column: columns are as wide as the rule below the heading says."""
        lines = self.out.splitlines()
        rule = next(number for number, line in enumerate(lines) if re.fullmatch(r"-+(  -+)+", line))
        spans = [match.span() for match in re.finditer("-+", lines[rule])]
        names = [lines[rule - 1][start:end].strip() for start, end in spans]
        body = lines[rule + 1 :]
        body = body[: body.index("")] if "" in body else body
        return [dict(zip(names, (line[start:end].strip() for start, end in spans), strict=True)) for line in body]

    def refused(self, *parts: str) -> None:
        """Asserts that it ended with one line on stderr that holds these parts, exit code 2 and nothing on stdout.

        Lines of progress may come before that line.
        """
        assert (self.code, self.out) == (2, ""), self.err
        assert "Traceback" not in self.err
        (line,) = [line for line in self.errors if line.startswith("ddbench: ")]
        assert line == self.errors[-1]
        assert len(line) < 1000
        for part in parts:
            assert part in line


@dataclass(frozen=True)
class Shell:
    """Runs `ddbench ARGUMENTS` in this process, with `root` as working directory and its `cache` as cache."""

    root: Path

    @property
    def cache(self) -> Path:
        """The cache folder."""
        return self.root / "cache"

    @property
    def results(self) -> Path:
        """The default results folder."""
        return self.root / "results"

    def __call__(self, *arguments: str | Path) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.chdir(self.root))
            stack.enter_context(mock.patch.dict(os.environ, {"DDBENCH_CACHE": str(self.cache)}))
            for name in ("DDBENCH_DATA", "XDG_CACHE_HOME"):
                os.environ.pop(name, None)
            stack.enter_context(mock.patch.object(sys, "argv", ["ddbench", *map(str, arguments)]))
            # As a console script: click names a program that `python -m` started after its package.
            stack.enter_context(mock.patch.object(sys.modules["__main__"], "__package__", None))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            try:
                main()
                code: object = 0
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        return Outcome(code, out.getvalue(), err.getvalue())

    def quick_run(self, *arguments: str | Path) -> Outcome:
        """`ddbench run` with the quickest settings, except for those that the arguments give."""
        given = {*map(str, arguments)} - {"--recipe", "--set"}
        fast = [
            word
            for option, value in zip(FAST[::2], FAST[1::2], strict=True)
            if option not in given
            for word in (option, value)
        ]
        return self("run", *fast, *arguments)

    def run(self, *arguments: str | Path) -> Outcome:
        """`quick_run`; must succeed."""
        outcome = self.quick_run(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def files(self, folder: str = "") -> dict[str, int]:
        """Every file below `root`/`folder` and when it was written (ns); locks are no content."""
        paths = (path for path in (self.root / folder).rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(path.relative_to(self.root)): path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="session")
def shell_in() -> Callable[[Path], Shell]:
    """Makes a shell in a folder."""
    return Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell(tmp_path)


@pytest.fixture(scope="session")
def digits_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dataset]:
    """The digits at a size in pixels and, where it is another one, a stored size; each decoded once a session."""
    from ddbench.data.dataset import load_dataset
    from ddbench.data.registry import ddbench_datasets

    @functools.cache
    def at(image_size: int, stored_size: int | None = None) -> Dataset:
        spec = next(spec for spec in ddbench_datasets() if spec.name == "digits")
        config = DataConfig(image_size=image_size, stored_size=stored_size or image_size)
        return load_dataset(spec, config, None, Cache(tmp_path_factory.mktemp("digits")))

    return at


@pytest.fixture
def bare_task(tmp_path: Path) -> Callable[..., Any]:
    """Makes the task of a unit of a dataset and a teacher, without a run: nothing is cached, statistics are refused.

    `slot` names its checkpoint, `kind` is DistillContext or a class of it, `more` are other fields.
    """
    from ddbench.distillation.context import DistillContext

    def make(dataset: Dataset, teacher: object, slot: str = "slot", kind: Any = DistillContext, **more: Any) -> Any:
        given: dict[str, Any] = {
            "dataset": dataset,
            "ipc": 1,
            "seed": 4,
            "device": torch.device("cpu"),
            "precision": "fp32",
            "checkpoint": Checkpoint(tmp_path / f"{slot}.safetensors"),
            "checkpoint_every": 1000,
            "report": lambda step, total, **metrics: None,
            "cached": lambda name, depends_on, fn: fn(),
            "statistics": lambda label: pytest.fail("not asked for"),
            "timing": {},
            "_teacher": lambda: teacher,
        }
        return kind(**{**given, **more})

    return make
