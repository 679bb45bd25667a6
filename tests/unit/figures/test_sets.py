"""Figures of distilled sets: the pixels shown are the pixels stored, and every image has its place among real ones."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from ddbench.figures import sets
from ddbench.figures.embedding import REAL, tsne
from ddbench.results.preview import GAP

if TYPE_CHECKING:
    from conftest import Shell

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
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


def rasters(svg: str) -> list[Pixels]:
    """The images embedded in an SVG, [H, W, 3] each, in order, right way up."""
    found = re.findall(r'xlink:href="data:image/png;base64,([^"]*)"', svg)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in found]


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
    found = [first] + [
        next(name for name in names if f'"bn_weight": {value},' in names[name].read_text()) for value in ("1.0", "50.0")
    ]
    shown = rasters(svg)
    assert len(shown) == 3
    for picture, name in zip(shown, found, strict=True):
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


@pytest.mark.slow
def test_the_embedding_places_every_image(copied: Shell) -> None:
    drawn = copied("figure", "embedding", "--methods", "random,wmdd")
    assert drawn.code == 0, drawn.err
    svg = (copied.results / "figures" / "embedding.svg").read_text(encoding="utf-8")
    for text in ("random", "wmdd, bn_weight 1", "wmdd, bn_weight 50", "t-SNE 1", "t-SNE 2"):
        assert text in texts(svg)
    assert any(text.startswith("Features of the teacher: convnet-bn-d3, ") for text in texts(svg))
    told = " ".join(texts(svg))
    assert "training images, the same in every panel" in " ".join(told.split())
    assert "(section 5.8)" in told
    # Three panels with every class: its real images, and its two distilled ones.
    for label in range(10):
        groups = re.findall(rf'<g id="(real|set)-{label}">(.*?)</g>\s*</g>', svg, re.DOTALL)
        counts = [(kind, body.count("<use ")) for kind, body in groups]
        assert counts == [("real", REAL), ("set", 2)] * 3
    assert copied("figure", "embedding", "--output", "again").code == 0
    for form in ("svg", "png"):
        mine = (copied.results / "figures" / f"embedding.{form}").read_bytes()
        assert mine == (copied.root / f"again.{form}").read_bytes()


def test_tsne_keeps_far_clusters_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator) + 50 * torch.arange(3).repeat_interleave(20).unsqueeze(1)
    found = torch.from_numpy(tsne(features))
    nearest = torch.cdist(found, found).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(nearest // 20, torch.arange(60) // 20)
    assert torch.equal(found, torch.from_numpy(tsne(features)))


def test_what_is_missing_is_said_with_the_command_that_makes_it(copied: Shell) -> None:
    shutil.rmtree(copied.cache / "teacher")
    lost = copied("figure", "embedding")
    assert lost.code == 2
    assert "figure 'embedding' needs the teacher" in lost.errors[-1]
    assert "ddbench run --method" in lost.errors[-1]
    shutil.rmtree(copied.cache / "distill")
    lost = copied("figure", "grid", "--methods", "wmdd")
    assert lost.code == 2
    assert re.fullmatch(
        r"ddbench: the set of wmdd-digits-ipc2-\w+ is not in the cache; make it again: ddbench run --method wmdd"
        r" --dataset digits --ipc 2 --image-size 8 --recipe smoke .*--set method.bn_weight=(1|50).0.*",
        lost.errors[-1],
    )


def test_one_lost_set_of_several_is_left_out_and_said(copied: Shell) -> None:
    record = next(
        path for path in (copied.results / "records").glob("wmdd*.json") if '"bn_weight": 50.0,' in path.read_text()
    )
    key = re.search(r'"distill": \[\s*"(\w+)"', record.read_text())
    assert key is not None
    (copied.cache / "distill" / f"{key[1]}.safetensors").unlink()
    drawn = copied("figure", "grid")
    assert drawn.code == 0, drawn.err
    assert f"left out: the set of {record.stem} is not in the cache" in drawn.errors
    svg = (copied.results / "figures" / "grid.svg").read_text(encoding="utf-8")
    assert len(rasters(svg)) == 2
    assert "wmdd" in texts(svg)


def test_sets_side_by_side_are_of_one_kind(copied: Shell) -> None:
    copied.run("--method", "random", "--dataset", "digits", "--ipc", "1")
    mixed = copied("figure", "grid")
    assert mixed.errors == ["ddbench: there are records of 1, 2: choose one with --ipc"]
    assert mixed.code == 2
    assert copied("figure", "grid", "--ipc", "1").code == 0


def test_more_sets_than_can_be_told_apart_are_refused(made: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "MAX_SETS", 2)
    refused = made("figure", "grid", "--output", "none")
    assert refused.code == 2
    assert refused.errors[-1] == (
        "ddbench: 3 sets, but 2 fit side by side: choose with --methods or --recipe: "
        "random; wmdd, bn_weight 1; wmdd, bn_weight 50"
    )
    assert not (made.root / "none.svg").exists()


def test_without_records_it_says_what_to_run(shell: Shell) -> None:
    empty = shell("figure", "grid")
    assert empty.code == 2
    assert "run something first, e.g. ddbench run" in empty.errors[-1]
