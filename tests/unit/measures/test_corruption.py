"""Corruptions by hand, by other libraries, and their order of severity on real images."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from ddbench.distillation.context import MeasureContext
from ddbench.measures.corruption import (
    BLUR_SMOOTHING,
    CORRUPTIONS,
    brightness,
    contrast,
    corrupt,
    corrupted_accuracies,
    defocus_blur,
    disk,
    gaussian_noise,
)


@pytest.fixture
def pixels() -> Tensor:
    """Smooth colour images in [0, 1], with a black one."""
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
    images[2] = 0
    return images


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_noise_has_its_deviation() -> None:
    noise = gaussian_noise(torch.zeros(8, 3, 32, 32), 0.1, generator())
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)


def test_contrast_scales_the_distance_to_the_mean_of_a_channel() -> None:
    image = torch.tensor([0.0, 0.2, 0.4, 1.0]).view(1, 1, 2, 2).repeat(1, 3, 1, 1)
    expected = torch.tensor([0.2, 0.3, 0.4, 0.7]).view(1, 1, 2, 2).repeat(1, 3, 1, 1)
    torch.testing.assert_close(contrast(image, 0.5), expected)


def test_brightness_adds_to_the_value_of_hsv(pixels: Tensor) -> None:
    actual = brightness(pixels, 0.3)
    for image in range(3):
        for row in range(0, 16, 5):
            red, green, blue = pixels[image, :, row, row].tolist()
            hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.3))
            assert actual[image, :, row, row].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_disk_is_smoothed_and_has_sum_one() -> None:
    plus = disk(1, 0.01)  # five pixels, hardly smoothed
    assert float(plus[2, 2]) == pytest.approx(0.2)
    assert float(plus.sum()) == pytest.approx(1)
    assert int((plus > 1e-3).sum()) == 5
    for radius, smoothing in ((0.5, 0.6), (2.5, 0.01), (10, 0.5)):
        kernel = disk(radius, smoothing)
        torch.testing.assert_close(kernel, kernel.flip(0).T)
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    assert disk(10, 0.5).shape == (25, 25)


def test_the_blur_is_a_convolution_with_reflected_borders(pixels: Tensor) -> None:
    actual = defocus_blur(pixels, 1.5, 0.1)
    kernel = disk(1.5, 0.1).numpy()
    expected = np.stack(
        [[ndimage.convolve(channel, kernel, mode="mirror") for channel in image] for image in pixels.numpy()]
    )
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-6)


def test_jpeg_is_that_of_pillow(pixels: Tensor) -> None:
    images = (255 * pixels).to(torch.uint8)
    actual = corrupt(images, "jpeg", 5, generator())
    stream = io.BytesIO()
    Image.fromarray(images[1].permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=40)
    assert np.array_equal(actual[1].permute(1, 2, 0).numpy(), np.array(Image.open(stream)))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [8, 64])
def test_a_higher_severity_changes_images_more(name: str, size: int, pixels: Tensor) -> None:
    images = (255 * nn.functional.interpolate(pixels[:2], (size, size))).to(torch.uint8)
    changes = []
    for severity in (1, 3, 5):
        corrupted = corrupt(images, name, severity, generator())
        assert (corrupted.dtype, corrupted.shape) == (torch.uint8, images.shape)
        assert torch.equal(corrupted, corrupt(images, name, severity, generator()))
        changes.append(float((corrupted.float() - images.float()).square().mean()))
    assert changes[0] < changes[1] < changes[2]


def test_every_scale_has_five_severities() -> None:
    for constants in (*CORRUPTIONS.values(), BLUR_SMOOTHING):
        assert [len(row) for row in constants] == [5, 5, 5]


def test_the_accuracies_are_means_over_severities(
    measure_task: Callable[..., MeasureContext], nearest_mean: nn.Module
) -> None:
    task = measure_task(nearest_mean)
    both, first, last = (corrupted_accuracies(task, severities) for severities in ((1, 5), (1,), (5,)))
    assert list(both) == list(CORRUPTIONS)
    for name, top1 in both.items():
        assert top1 == pytest.approx((first[name] + last[name]) / 2)
    assert max(first.values()) > 80  # the mean image of a class is a good classifier of digits
    assert last["defocus_blur"] < first["defocus_blur"]
