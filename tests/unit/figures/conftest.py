"""Distilled sets of digits, for the figures that show them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Shell:
    """A folder with real and distilled sets of digits, two images a class; WMDD's with two values of lambda."""
    shell = shell_in(tmp_path_factory.mktemp("sets"))
    shell.run("--method", "random", "--dataset", "digits", "--ipc", "2", "--repeats", "2")
    for value in ("1", "50"):
        settings = ("--set", "method.steps=2", "--set", f"method.bn_weight={value}")
        shell.run("--method", "wmdd", "--dataset", "digits", "--ipc", "2", *settings)
    return shell


@pytest.fixture
def copied(made: Shell, shell: Shell) -> Shell:
    """The same in a folder of its own."""
    shutil.copytree(made.root, shell.root, dirs_exist_ok=True)
    return shell


@pytest.fixture(scope="session")
def heights() -> Callable[[str, str], list[float]]:
    """The y of the points of a line of an SVG, from above."""

    def read(svg: str, line: str) -> list[float]:
        path = re.search(rf'<g id="{line}">\s*<path d="([^"]*)"', svg)
        assert path is not None, line
        return [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path[1])]

    return read
