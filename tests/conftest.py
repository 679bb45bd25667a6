"""The command line in this process: what a person types, what they see, and what is on the disk afterwards."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ddbench.cli import main

# Few, large batches and no bf16: what these runs have to show does not depend on either.
FAST = ("--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--set", "teacher.batch_size=256")


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
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            try:
                main()
                code: object = 0
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        return Outcome(code, out.getvalue(), err.getvalue())

    def run(self, *arguments: str | Path) -> Outcome:
        """`ddbench run` with the quickest settings; must succeed."""
        outcome = self("run", *FAST, *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def files(self, folder: str = "") -> dict[str, int]:
        """Every file below `root`/`folder` and when it was written (ns); locks are no content."""
        paths = (path for path in (self.root / folder).rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(path.relative_to(self.root)): path.stat().st_mtime_ns for path in paths}


@dataclass(frozen=True)
class Finished:
    """A shell in which a grid of two methods and two IPCs on digits was run, and what it printed."""

    shell: Shell
    grid: tuple[str, ...]
    first: Outcome


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """wmdd and random at IPC 1 and 2 on digits, run once: read it, or copy its folder to change it."""
    shell = Shell(tmp_path_factory.mktemp("finished"))
    grid = ("--method", "wmdd", "--method", "random", "--dataset", "digits", "--ipc", "1", "--ipc", "2")
    return Finished(shell, grid, shell.run(*grid))


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes train/ and val/ of small JPEGs, each class of its own brightness."""

    def make(name: str = "pictures", classes: Sequence[str] = ("cat", "dog"), train: int = 4, val: int = 2) -> Path:
        random = np.random.default_rng(0)
        root = tmp_path / name
        for split, count in (("train", train), ("val", val)):
            for number, title in enumerate(classes):
                folder = root / split / title
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = random.integers(0, 100, (40, 48, 3)) + 70 * number
                    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg")
        return root

    return make
