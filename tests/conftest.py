"""What several tests share: a grid that was run once, and folders of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from conftest import Outcome, Shell


@dataclass(frozen=True)
class Finished:
    """A shell in which a grid of two methods and two IPCs on digits was run, and what it printed."""

    shell: Shell
    grid: tuple[str, ...]
    first: Outcome


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Finished:
    """wmdd and random at IPC 1 and 2 on digits, run once: read it, or copy its folder to change it."""
    shell = shell_in(tmp_path_factory.mktemp("finished"))
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
