"""Small image folders, made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddbench.storage.cache import Cache

MakeFolder = Callable[..., Path]


def save_noise(path: Path, width: int, height: int, seed: int = 0) -> None:
    """An image of random coarse colour patches (smooth enough that JPEG keeps it)."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes train/CLASS/*.jpg and val/CLASS/*.jpg, every image of another shape, and returns their folder."""

    def make(root: Path | None = None, classes: tuple[str, ...] = ("ant", "bee"), train: int = 3, val: int = 2) -> Path:
        root = root or tmp_path / "pictures"
        seed = 0
        for split, count in (("train", train), ("val", val)):
            for name in classes:
                for number in range(count):
                    seed += 1
                    save_noise(root / split / name / f"{number}.jpg", 20 + 3 * seed, 50 - 2 * seed, seed)
        return root

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
