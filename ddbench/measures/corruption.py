"""Common corruptions of images, with the severities of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR
2019, with the constants of its released code (github.com/hendrycks/robustness, ImageNet-C/create_c). As there, results
are truncated to bytes. The images are corrupted at the size that the student receives.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ddbench.api.measure import MeasureTask
from ddbench.measures.predictions import student_logits

CORRUPTIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.1), (0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "defocus_blur": ((0.3, 0.4, 0.5, 1, 1.5), (0.5, 1, 1.5, 2.5, 3), (3, 4, 6, 8, 10)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "jpeg": ((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
}
"""Constants of severities 1 to 5, for images up to 32 px, up to 64 px, and larger ones."""
BLUR_SMOOTHING = ((0.4, 0.5, 0.6, 0.2, 0.1), (0.6, 0.1, 0.1, 0.01, 0.1), (0.1, 0.5, 0.5, 0.5, 0.5))
"""Standard deviations of the smoothing of the blur's disk."""


def scale_of(size: int) -> int:
    """Returns the column of the constants for images of `size` pixels: 0 CIFAR-10-C, 1 Tiny-ImageNet-C, 2 ImageNet-C.

    Example:
        >>> scale_of(32), scale_of(64), scale_of(224)
        (0, 1, 2)
    """
    return 0 if size <= 32 else 1 if size <= 64 else 2


def gaussian_noise(pixels: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Adds normal noise to every value."""
    return pixels + deviation * torch.randn(pixels.shape, generator=generator)


def contrast(pixels: Tensor, factor: float) -> Tensor:
    """Scales the distance of each value to the mean of its image and channel."""
    mean = pixels.mean((2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def brightness(pixels: Tensor, amount: float) -> Tensor:
    """Adds to the value V = max(R, G, B) of HSV, at most up to 1. Hue and saturation stay; black becomes gray."""
    value = pixels.amax(1, keepdim=True)
    brighter = (value + amount).clamp(0, 1)
    return torch.where(value > 0, pixels * brighter / value.clamp(min=1e-8), brighter.expand_as(pixels))


def disk(radius: float, smoothing: float) -> Tensor:
    """Returns the kernel of the defocus blur: a disk, smoothed by a Gaussian of 3x3 (above a radius of 8: 5x5) pixels.

    Args:
        radius: Radius in pixels.
        smoothing: Standard deviation of the Gaussian in pixels.

    Returns:
        float32 [k, k], with sum 1.
    """
    extent = 1 if radius <= 8 else 2
    reach = int(radius) + extent
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    mask = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2).double()
    steps = torch.arange(-extent, extent + 1, dtype=torch.float64)
    gaussian = (-(steps**2) / (2 * smoothing**2)).exp()
    kernel = torch.outer(gaussian, gaussian) / gaussian.sum() ** 2
    smooth = functional.conv2d((mask / mask.sum())[None, None], kernel[None, None], padding=extent)
    return smooth[0, 0].float()


def defocus_blur(pixels: Tensor, radius: float, smoothing: float) -> Tensor:
    """Convolves with `disk`. Borders are reflected."""
    kernel = disk(radius, smoothing)
    reach = len(kernel) // 2
    padded = functional.pad(pixels, (reach,) * 4, mode="reflect")
    weight = kernel.expand(pixels.shape[1], 1, *kernel.shape)
    return functional.conv2d(padded, weight, groups=pixels.shape[1])


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Compresses images, uint8 [B, 3, H, W]."""
    compressed = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality)
        compressed.append(torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1))
    return torch.stack(compressed)


def corrupt(images: Tensor, name: str, severity: int, generator: torch.Generator) -> Tensor:
    """Corrupts images.

    Args:
        images: uint8 [B, 3, S, S], on the CPU.
        name: A name in `CORRUPTIONS`.
        severity: 1 to 5.
        generator: Draws the noise.

    Returns:
        uint8 [B, 3, S, S].
    """
    scale = scale_of(images.shape[-1])
    constant = CORRUPTIONS[name][scale][severity - 1]
    if name == "jpeg":
        return jpeg(images, int(constant))
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "gaussian_noise": lambda pixels: gaussian_noise(pixels, constant, generator),
        "defocus_blur": lambda pixels: defocus_blur(pixels, constant, BLUR_SMOOTHING[scale][severity - 1]),
        "contrast": lambda pixels: contrast(pixels, constant),
        "brightness": lambda pixels: brightness(pixels, constant),
    }
    return (changes[name](images.float() / 255).clamp(0, 1) * 255).to(torch.uint8)


def corrupted_accuracies(task: MeasureTask, severities: Sequence[int]) -> dict[str, float]:
    """Returns the student's top-1 in percent on each corruption of the evaluation images, mean over the severities."""
    labels = task.dataset.val.labels
    accuracies = {}
    for name in CORRUPTIONS:
        top1 = []
        for severity in severities:
            generator = task.generator(name, severity)
            logits = student_logits(task, lambda images: corrupt(images, name, severity, generator))  # noqa: B023
            top1.append(100 * float((logits.argmax(1) == labels).double().mean()))
        accuracies[name] = sum(top1) / len(top1)
    return accuracies
