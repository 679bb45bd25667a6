"""CutMix against a loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from ddbench.augment import mixing, views
from ddbench.core import seeds


def test_cutmix_is_the_loop() -> None:
    images = torch.rand(5, 3, 8, 8, generator=seeds.generator("cutmix"))
    partner, (top, left, height, width) = torch.tensor([3, 0, 2, 4, 1]), (2, 1, 4, 6)
    expected = images.clone()
    for b in range(5):
        for row in range(top, top + height):
            for column in range(left, left + width):
                expected[b, :, row, column] = images[partner[b], :, row, column]
    before = images.clone()
    assert torch.equal(mixing.cutmix(images, partner, (top, left, height, width)), expected)
    assert torch.equal(images, before)
    assert torch.equal(mixing.cutmix(images, partner, (3, 3, 0, 0)), images)


def test_cutmix_box_is_cut_at_the_borders() -> None:
    assert mixing.cutmix_box(64, 0.75, 32, 32) == (16, 16, 32, 32)
    assert mixing.cutmix_box(64, 0.75, 0, 63) == (0, 47, 16, 17)
    assert mixing.cutmix_box(64, 1.0, 10, 20)[2:] == (0, 0)
    assert mixing.kept_share((16, 16, 32, 32), 64) == 0.75


@given(size=st.integers(1, 40), kept=st.floats(0, 1), row=st.integers(0, 39), column=st.integers(0, 39))
def test_a_cutmix_box_holds_the_pixels_near_its_centre(size: int, kept: float, row: int, column: int) -> None:
    row, column = row % size, column % size
    half = math.floor(size * math.sqrt(1 - kept)) // 2
    inside = [
        (r, c) for r in range(size) for c in range(size) if -half <= r - row < half and -half <= c - column < half
    ]
    box = mixing.cutmix_box(size, kept, row, column)
    top, left, height, width = box
    assert inside == [(r, c) for r in range(top, top + height) for c in range(left, left + width)]
    assert mixing.kept_share(box, size) == pytest.approx(1 - len(inside) / size**2)


def test_cutmix_shares_have_the_distribution_of_the_released_rule() -> None:
    """Beta(1, 1), side int(S sqrt(1 - lambda)), half of it each way from a uniform centre, clipped."""
    size, epochs, generator = 32, 3000, seeds.generator("reference")
    expected = []
    for _ in range(epochs):
        side = int(size * math.sqrt(1 - float(torch.rand((), generator=generator))))
        row, column = torch.randint(0, size, (2,), generator=generator).tolist()
        spans = [min(max(c + side // 2, 0), size) - min(max(c - side // 2, 0), size) for c in (row, column)]
        expected.append(1 - spans[0] * spans[1] / size**2)
    actual = [
        views.epoch_views(4, torch.tensor([8, 8]), 0, epoch, 4, cutmix_alpha=1.0, image_size=size).mixes[0].share
        for epoch in range(epochs)
    ]
    assert stats.ks_2samp(actual, expected).pvalue > 1e-3
