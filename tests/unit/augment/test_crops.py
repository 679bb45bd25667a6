"""Crops and flips against torchvision, and against their formulas in float64."""

import math

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import resized_crop

from ddbench.augment import crops
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError

BOXES = [
    (0, 0, 40, 56, 24),  # downscale of the whole image, both ratios non-integer
    (3, 5, 9, 7, 32),  # upscale
    (10, 0, 30, 11, 20),  # down in height, up in width
    (39, 55, 1, 1, 8),  # one pixel
    (7, 9, 16, 16, 16),  # the identity
    (0, 50, 40, 6, 1),  # to one pixel
]


@pytest.mark.parametrize(("top", "left", "height", "width", "size"), BOXES)
def test_crop_resize_is_torchvisions(top: int, left: int, height: int, width: int, size: int) -> None:
    images = torch.rand(2, 3, 40, 56, generator=seeds.generator("crop"))
    expected = resized_crop(images, top, left, height, width, [size, size], antialias=True)
    ours = crops.crop_resize(images, torch.tensor([top, left, height, width]), size)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_crop_resize_of_different_boxes_and_flips_in_one_batch() -> None:
    generator = seeds.generator("crop batch")
    images = torch.rand(64, 3, 50, 41, generator=generator)
    boxes = crops.random_boxes(torch.tensor([[50, 41]]).expand(64, 2), (0.01, 1.0), generator=generator)
    flips = torch.rand(64, generator=generator) < 0.5
    ours = crops.crop_resize(images, boxes, 24, flips)
    for image, box, flip, crop in zip(images, boxes.tolist(), flips, ours, strict=True):
        expected = resized_crop(image, *box, [24, 24], antialias=True)
        torch.testing.assert_close(crop, expected.flip(-1) if flip else expected, atol=1e-5, rtol=0)


def triangle_filter(length: int, size: int) -> np.ndarray:
    """The weights [size, length] of an antialiased linear resize of `length` to `size` pixels, weight by weight."""
    weights, step = np.zeros((size, length)), length / size
    for i in range(size):
        for j in range(length):
            distance = abs((j + 0.5) - (i + 0.5) * step)
            weights[i, j] = max(0.0, 1 - distance / max(step, 1.0))
        weights[i] /= weights[i].sum()
    return weights


@pytest.mark.parametrize("flip", [False, True])
def test_crop_resize_and_flip_are_a_triangle_filter_on_each_axis(flip: bool) -> None:
    images = torch.rand(len(BOXES), 3, 40, 56, dtype=torch.float64, generator=seeds.generator("triangle"))
    boxes = torch.tensor([box[:4] for box in BOXES])
    ours = crops.crop_resize(images, boxes, 9, torch.full((len(BOXES),), flip))
    for image, (top, left, height, width), crop in zip(images.numpy(), boxes.tolist(), ours.numpy(), strict=True):
        inside = image[:, top : top + height, left : left + width]
        expected = triangle_filter(height, 9) @ inside @ triangle_filter(width, 9).T
        np.testing.assert_allclose(crop, expected[:, :, ::-1] if flip else expected, rtol=0, atol=1e-12)


def test_random_boxes_are_the_first_of_ten_that_fits() -> None:
    """Area uniform in `scale`, logarithm of the aspect ratio uniform, place uniform; the draws are of one stream."""
    sizes = [(30, 40), (9, 70), (64, 64), (50, 12), (3, 3)] * 20
    ours = crops.random_boxes(torch.tensor(sizes), (0.2, 1.0), generator=seeds.generator("first"))
    draws = torch.rand(len(sizes), 22, dtype=torch.float64, generator=seeds.generator("first")).tolist()
    tries = []
    for (height, width), box, u in zip(sizes, ours.tolist(), draws, strict=True):
        for number in range(10):
            area = height * width * (0.2 + 0.8 * u[number])
            aspect = math.exp((2 * u[10 + number] - 1) * math.log(4 / 3))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                tries.append(number)
                assert box == [int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w]
                break
    assert len(set(tries)) > 3


def test_crop_resize_ignores_what_is_outside_the_box() -> None:
    padded = torch.full((1, 3, 30, 30), 1e6)
    padded[..., :20, :17] = torch.rand(1, 3, 20, 17, generator=seeds.generator("pad"))
    full_box = torch.tensor([0, 0, 20, 17])
    torch.testing.assert_close(
        crops.crop_resize(padded, full_box, 16), crops.crop_resize(padded[..., :20, :17].contiguous(), full_box, 16)
    )


def test_crop_resize_has_the_right_gradient() -> None:
    images = torch.rand(3, 3, 6, 7, dtype=torch.float64, generator=seeds.generator("gradient"), requires_grad=True)
    boxes = torch.tensor([[0, 0, 6, 7], [1, 2, 3, 2], [2, 0, 4, 5]])
    flips = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda x: crops.crop_resize(x, boxes, 4, flips), images)
    assert torch.autograd.gradcheck(lambda x: crops.crop_resize(x, boxes[1], 5), images)


def test_crop_resize_stays_exact_under_autocast() -> None:
    images = torch.rand(2, 3, 20, 20, generator=seeds.generator("autocast"))
    box = torch.tensor([1, 2, 15, 17])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = crops.crop_resize(images, box, 16)
    assert torch.equal(inside, crops.crop_resize(images, box, 16))


def test_crop_resize_refuses_other_shapes() -> None:
    with pytest.raises(DDBenchError, match="boxes"):
        crops.crop_resize(torch.rand(3, 3, 8, 8), torch.zeros(2, 4, dtype=torch.long), 4)
    with pytest.raises(DDBenchError, match="float images"):
        crops.crop_resize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 8, 8]), 4)


@pytest.mark.parametrize(("size", "scale"), [((72, 96), (0.08, 1.0)), ((40, 200), (0.5, 1.0)), ((64, 64), (0.08, 0.3))])
def test_random_boxes_have_torchvisions_distribution(size: tuple[int, int], scale: tuple[float, float]) -> None:
    count = 4000
    ours = crops.random_boxes(torch.tensor([size]).expand(count, 2), scale, generator=seeds.generator("boxes"))
    crop = v2.RandomResizedCrop(size[0], scale=scale)
    image = torch.empty(3, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [crop.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3


@pytest.mark.parametrize("size", [(5, 400), (400, 5), (1, 1)])
def test_random_boxes_fall_back_to_the_centre(size: tuple[int, int]) -> None:
    actual = crops.random_boxes(torch.tensor([size]).expand(50, 2), (1.0, 1.0), generator=seeds.generator("fallback"))
    height, width = min(size[0], round(size[1] * 4 / 3)), min(size[1], round(size[0] * 4 / 3))
    expected = [(size[0] - height) // 2, (size[1] - width) // 2, height, width]
    assert actual.tolist() == [expected] * 50


def test_random_boxes_lie_inside_ragged_images_and_begin_alike() -> None:
    generator = seeds.generator("sizes")
    sizes = torch.randint(1, 90, (3000, 2), generator=generator)
    boxes = crops.random_boxes(sizes, (0.01, 1.0), generator=seeds.generator("ragged"))
    assert bool((boxes[:, :2] >= 0).all())
    assert bool((boxes[:, 2:] >= 1).all())
    assert bool((boxes[:, :2] + boxes[:, 2:] <= sizes).all())
    shorter = crops.random_boxes(sizes[:7], (0.01, 1.0), generator=seeds.generator("ragged"))
    assert torch.equal(shorter, boxes[:7])


def test_random_boxes_refuse_an_impossible_scale() -> None:
    with pytest.raises(DDBenchError, match="scale"):
        crops.random_boxes(torch.tensor([[8, 8]]), (0.0, 1.0), generator=seeds.generator("x"))


def test_normalise_and_back() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8, generator=seeds.generator("pixels"))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    seen = crops.normalise(pixels, mean, std)
    for channel in range(3):
        expected = (pixels[:, channel].double() / 255 - float(mean[channel])) / float(std[channel])
        torch.testing.assert_close(seen[:, channel].double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(seen, crops.normalise(pixels.float() / 255, mean, std))
    assert torch.equal((crops.denormalise(seen, mean, std) * 255).round().to(torch.uint8), pixels)
