"""Siamese augmentation: every operation in closed form, the same for both halves, ranges, gradients, seeds."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import Tensor
from torch.nn import functional

from ddbench.api.settings import DSA_STRATEGY, OPERATIONS, Strategy
from ddbench.augment.siamese import Augmentation, augment, draw_augmentation
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError

SIZE = 8


def images(count: int = 3, size: int = SIZE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, size, size, dtype=dtype, generator=seeds.generator("images", count, size))


def of(operation: str, *rows: tuple[float, ...]) -> Augmentation:
    return Augmentation(operation, torch.tensor(rows, dtype=torch.float64))


def exactly(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_color_is_brightness_then_saturation_then_contrast() -> None:
    for image, seen in zip(images(), augment(images(), of("color", (0.3, 1.5, 0.7))), strict=True):
        bright = image + 0.3
        grey = (bright[0] + bright[1] + bright[2]) / 3
        saturated = torch.stack([grey + 1.5 * (channel - grey) for channel in bright])
        level = saturated.sum() / (3 * SIZE**2)
        exactly(seen, level + 0.7 * (saturated - level))
    exactly(augment(images(), of("color", (0.0, 1.0, 1.0))), images())


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, -1), (-1, 1), (3, 0), (0, -8)])
def test_a_crop_is_a_window_of_the_image_on_zeros(down: int, right: int) -> None:
    expected = torch.zeros_like(images())
    for row in range(SIZE):
        for column in range(SIZE):
            if 0 <= row + down < SIZE and 0 <= column + right < SIZE:
                expected[:, :, row, column] = images()[:, :, row + down, column + right]
    assert torch.equal(augment(images(), of("crop", (down, right))), expected)


def test_a_flip_exchanges_left_and_right_of_the_images_that_were_drawn() -> None:
    seen = augment(images(), of("flip", (1,), (0,), (1,)))
    assert torch.equal(seen, torch.stack([images()[0].flip(2), images()[1], images()[2].flip(2)]))


@pytest.mark.parametrize("size", [8, 9])
def test_a_cutout_is_a_square_of_half_the_side_cut_at_the_borders(size: int) -> None:
    side = round(size / 2 + 0.01)
    seen = augment(images(3, size), of("cutout", (4, 4), (0, 0), (size - size % 2, 3)))
    for image, actual, (row, column) in zip(images(3, size), seen, [(4, 4), (0, 0), (size - size % 2, 3)], strict=True):
        expected, top, left = image.clone(), row - side // 2, column - side // 2
        expected[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0
        assert torch.equal(actual, expected)
    assert int((seen[0, 0] == 0).sum()) == side**2


def test_scale_1_and_rotation_0_change_nothing() -> None:
    assert torch.equal(augment(images(), of("scale", (1.0, 1.0))), images())
    assert torch.equal(augment(images(), of("rotate", (0.0,))), images())


def test_a_quarter_turn_is_anticlockwise_and_exact() -> None:
    exactly(augment(images(), of("rotate", (-math.pi / 2,))), images().rot90(1, (2, 3)))


def test_scale_and_rotation_are_affine_grids() -> None:
    """PyTorch's own sampling, as in the source: bilinear, zeros outside, corners not aligned."""
    turn = 0.2
    for augmentation, map_ in (
        (of("scale", (1.15, 0.9)), [[0.9, 0, 0], [0, 1.15, 0]]),
        (of("rotate", (turn,)), [[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0]]),
    ):
        theta = torch.tensor([map_], dtype=torch.float64).expand(3, 2, 3)
        grid = functional.affine_grid(theta, [3, 3, SIZE, SIZE], align_corners=False)
        exactly(augment(images(), augmentation), functional.grid_sample(images(), grid, align_corners=False))


def bilinear(image: np.ndarray, row: float, column: float) -> np.ndarray:
    """The channels of an image [3, H, W] at a position in pixels, 0 outside."""
    total = np.zeros(3)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < image.shape[1] and 0 <= c < image.shape[2]:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * image[:, r, c]
    return total


@pytest.mark.parametrize("size", [8, 9])
def test_scale_and_rotation_read_each_pixel_at_its_place(size: int) -> None:
    """Pixel by pixel from the formulas: the position about the centre, scaled, or turned by the angle."""
    rows = ((1.15, 0.9), (0.84, 1.2), (1.0, 1.1)), ((0.26,), (-0.1,), (0.2,))
    middle = (size - 1) / 2
    for operation, parameters in zip(("scale", "rotate"), rows, strict=True):
        seen = augment(images(3, size), of(operation, *parameters))
        for image, actual, own in zip(images(3, size).numpy(), seen.numpy(), parameters, strict=True):
            for row, column in product(range(size), range(size)):
                down, right = row - middle, column - middle
                if operation == "scale":
                    down, right = own[0] * down, own[1] * right
                else:
                    sine, cosine = math.sin(own[0]), math.cos(own[0])
                    down, right = cosine * down - sine * right, sine * down + cosine * right
                expected = bilinear(image, middle + down, middle + right)
                np.testing.assert_allclose(actual[:, row, column], expected, rtol=0, atol=1e-12)


def test_a_larger_scale_shrinks_the_image() -> None:
    ones = torch.ones(1, 3, 20, 20)
    seen = augment(ones, of("scale", (1.2, 1.0)))
    assert float(seen[0, 0, :, 10].sum()) == pytest.approx(20 / 1.2, abs=0.2)
    assert seen[0, 0, 10].tolist() == pytest.approx([1.0] * 20)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_draw_does_the_same_to_both_halves(operation: str) -> None:
    drawn = draw_augmentation(operation, SIZE, seeds.generator("halves", operation))
    real, synthetic = images(5, dtype=torch.float32), images(2, dtype=torch.float32)
    both = augment(torch.cat([real, synthetic]), drawn)
    assert torch.equal(both, torch.cat([augment(real, drawn), augment(synthetic, drawn)]))
    assert torch.equal(augment(real[:1].expand(4, -1, -1, -1), drawn), augment(real[:1], drawn).expand(4, -1, -1, -1))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_parameters_of_each_image_are_done_to_that_image(operation: str) -> None:
    drawn = draw_augmentation(operation, SIZE, seeds.generator("each", operation), count=6)
    assert not torch.equal(drawn.parameters, drawn.parameters[:1].expand_as(drawn.parameters))
    seen = augment(images(6), drawn)
    for number in range(6):
        alone = Augmentation(operation, drawn.parameters[number : number + 1])
        exactly(seen[number : number + 1], augment(images(6)[number : number + 1], alone))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_the_right_gradient(operation: str, count: int) -> None:
    drawn = draw_augmentation(operation, 5, seeds.generator("gradient"), count)
    inputs = images(2, 5).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda pixels: augment(pixels, drawn), inputs)


@given(
    size=st.integers(4, 65), count=st.integers(1, 40), seed=st.integers(0, 2**40), operation=st.sampled_from(OPERATIONS)
)
def test_parameters_are_in_their_ranges(size: int, count: int, seed: int, operation: str) -> None:
    drawn = draw_augmentation(operation, size, seeds.generator(seed), count)
    low: Any
    high: Any
    shift = int(size * 0.125 + 0.5)
    side = int(size * 0.5 + 0.5)
    low, high = {
        "color": ([-0.5, 0.0, 0.5], [0.5, 2.0, 1.5]),
        "crop": ([-shift] * 2, [shift] * 2),
        "cutout": ([0, 0], [size - side % 2] * 2),
        "flip": ([0], [1]),
        "rotate": ([-math.pi / 12], [math.pi / 12]),
        "scale": ([1 / 1.2] * 2, [1.2] * 2),
    }[operation]
    assert drawn.operation == operation
    assert drawn.parameters.shape == (count, len(low))
    assert bool((drawn.parameters >= torch.tensor(low)).all())
    assert bool((drawn.parameters <= torch.tensor(high)).all())
    if operation in ("crop", "cutout", "flip"):
        assert torch.equal(drawn.parameters, drawn.parameters.round())


@pytest.mark.parametrize(
    ("operation", "means"),
    [
        ("color", [0.0, 1.0, 1.0]),
        ("crop", [0.0, 0.0]),
        ("cutout", [16.0, 16.0]),
        ("flip", [0.5]),
        ("rotate", [0.0]),
        ("scale", [(1.2 + 1 / 1.2) / 2] * 2),
    ],
)
def test_draws_reach_both_ends_evenly(operation: str, means: list[float]) -> None:
    parameters = draw_augmentation(operation, 32, seeds.generator("ends"), 4000).parameters
    low, high = parameters.amin(0), parameters.amax(0)
    torch.testing.assert_close((low + high) / 2, torch.tensor(means, dtype=torch.float64), rtol=0, atol=0.01)
    spread = (high - low) / 4000**0.5  # the mean of a uniform draw deviates by 0.29 of this, of a coin by 0.5
    assert bool(((parameters.mean(0) - torch.tensor(means)).abs() < 4 * spread).all())
    ends = {"crop": (-4, 4), "cutout": (0, 32), "flip": (0, 1)}
    if operation in ends:
        assert (set(low.tolist()), set(high.tolist())) == ({ends[operation][0]}, {ends[operation][1]})


def test_operations_of_a_strategy_are_equally_likely() -> None:
    generator = seeds.generator("likely")
    drawn = [draw_augmentation("flip_crop_color", 32, generator).operation for _ in range(3000)]
    assert set(drawn) == {"flip", "crop", "color"}
    assert all(abs(drawn.count(name) - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for name in set(drawn))


def test_the_generator_fixes_everything() -> None:
    def drawn(seed: int) -> list[Augmentation]:
        generator = seeds.generator("fixed", seed)
        return [draw_augmentation(DSA_STRATEGY, 32, generator, 3) for _ in range(20)]

    for first, again in zip(drawn(0), drawn(0), strict=True):
        assert first.operation == again.operation
        assert torch.equal(first.parameters, again.parameters)
    assert [each.operation for each in drawn(0)] != [each.operation for each in drawn(1)]


def test_type_and_global_random_state_stay() -> None:
    state = torch.get_rng_state()
    for operation in OPERATIONS:
        drawn = draw_augmentation(operation, SIZE, seeds.generator("type"))
        seen = augment(images(dtype=torch.float32), drawn)
        assert (seen.dtype, seen.shape) == (torch.float32, (3, 3, SIZE, SIZE))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(augment(images(dtype=torch.float32), drawn), seen)
    assert torch.equal(torch.get_rng_state(), state)


def test_unknown_operations_and_other_numbers_of_images_are_refused() -> None:
    with pytest.raises(DDBenchError, match=r"unknown operation of siamese augmentation 'flop'; did you mean 'flip'\?"):
        draw_augmentation("crop_flop", 8, seeds.generator())
    with pytest.raises(DDBenchError, match="drawn for 2 images cannot be applied to 3"):
        augment(images(3), of("flip", (1,), (0,)))

    class Settings(BaseModel):
        strategy: Strategy = None

    assert Settings(strategy=DSA_STRATEGY).strategy == DSA_STRATEGY
    assert Settings(strategy=None).strategy is None
    with pytest.raises(ValidationError, match="did you mean 'flip'"):
        Settings(strategy="crop_flop")
