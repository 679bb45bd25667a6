"""The figure of distilled sets: the pixels shown are the pixels stored."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from ddbench.results.preview import GAP

if TYPE_CHECKING:
    from conftest import Shell


Pixels = npt.NDArray[np.uint8]


def rasters(svg: str) -> list[Pixels]:
    """The images embedded in an SVG, [H, W, 3] each, in order, right way up."""
    actual = re.findall(r'xlink:href="data:image/png;base64,([^"]*)"', svg)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in actual]


def exported(shell: Shell, name: str) -> Tensor:
    """The images of a record, uint8 [m, 3, S, S], class by class."""
    target = shell.root / "exported" / name
    assert shell("export", name, "--format", "safetensors", "--output", target).code == 0
    with safe_open(target / "distilled.safetensors", framework="pt") as file:
        return file.get_tensor("images")[file.get_tensor("labels").argsort(stable=True)]


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</(?:text|tspan)>", svg)


def test_the_grid_shows_the_stored_pixels_by_method_and_by_setting(copied: Shell) -> None:
    drawn = copied("figure", "grid")
    assert drawn.code == 0, drawn.err
    svg = (copied.results / "figures" / "grid.svg").read_text(encoding="utf-8")
    heads = ["random", "wmdd,", "bn_weight 1", "bn_weight 50"]
    assert [text for text in texts(svg) if text in heads] == ["random", "wmdd,", "bn_weight 1", "wmdd,", "bn_weight 50"]
    assert [text for text in texts(svg) if text.isdigit()] == [str(digit) for digit in range(10)]

    names = {path.stem: path for path in (copied.results / "records").glob("*.json")}
    first = next(name for name in names if name.startswith("random") and '"repeat": 0' in names[name].read_text())
    actual = [first] + [
        next(name for name in names if f'"bn_weight": {value},' in names[name].read_text()) for value in ("1.0", "50.0")
    ]
    shown = rasters(svg)
    assert len(shown) == 3
    for picture, name in zip(shown, actual, strict=True):
        images = exported(copied, name).permute(0, 2, 3, 1).numpy()
        side = images.shape[1] * 8  # 8 px are enlarged to 64
        assert picture.shape == (10 * (side + GAP) - GAP, 2 * (side + GAP) - GAP, 3)
        for number, image in enumerate(images):
            top, left = (number // 2) * (side + GAP), (number % 2) * (side + GAP)
            tile = picture[top : top + side, left : left + side]
            assert np.array_equal(tile, np.kron(image, np.ones((8, 8, 1), np.uint8)))


def test_the_grid_is_the_same_file_twice(copied: Shell) -> None:
    for name in ("one.svg", "two.png"):
        assert copied("figure", "grid", "--methods", "wmdd", "--output", name).code == 0
    for form in ("svg", "png"):
        assert (copied.root / f"one.{form}").read_bytes() == (copied.root / f"two.{form}").read_bytes()
    assert "random" not in texts((copied.root / "one.svg").read_text(encoding="utf-8"))
