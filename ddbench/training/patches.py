"""The images of RDED for one class: crops of real images, ranked by the teacher's loss and stitched."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ddbench.augment import crops as crops_module
from ddbench.nn import memory
from ddbench.nn.device import autocast

if TYPE_CHECKING:
    from ddbench.api.context import DistillTask

Loss = Callable[[Tensor], Tensor]
"""Maps patches [B, 3, s, s] in [0, 1] to losses [B]; a lower loss means a more realistic patch."""

CROPS_PER_BATCH = 256


def stitched_patches(task: DistillTask, label: int, count: int, crops: int, factor: int) -> Tensor:
    """Makes the images of one class of RDED (paper: Section 4; released code: `synthesize`).

    Unlike in the released code, crops are taken from the stored images instead of the files, and images are
    normalised for the teacher with the dataset's own statistics (released code: those of ImageNet, also for CIFAR).
    The released code stores images as 8-bit JPEG files: set `distill.jpeg_quality=75` to reproduce it.

    Args:
        task: The task of the method.
        label: The class.
        count: The number of real images that crops are taken from, at most all images of the class.
        crops: The number of crops of each real image.
        factor: An image is composed of factor x factor patches.

    Returns:
        One image for each slot of the class, [IPC, 3, S, S], pixels in [0, 1], on the CPU.
    """
    size = task.info.image_size
    candidates = task.sample(label, count, "rded", "images")
    boxes = random_crops(task, candidates, crops, task.generator("rded", "crops", label))
    patches, losses = best_crops(task, candidates, boxes, size // factor, teacher_loss(task, label))
    best = losses.argsort(stable=True)[: factor**2 * task.ipc]
    return stitch(patches[best], size, factor)


def random_crops(task: DistillTask, candidates: Tensor, crops: int, generator: torch.Generator) -> Tensor:
    """Draws square crops of 8 to 100 % of the area (released code: torchvision's `RandomResizedCrop`, ratio (1, 1)).

    Args:
        task: The task.
        candidates: The indices of the training images, int64 [n].
        crops: The number of crops of each image.
        generator: A random generator.

    Returns:
        Boxes (top, left, height, width) in the stored images, int64 [n, crops, 4].
    """
    sizes = task.dataset.train.sizes[candidates].repeat_interleave(crops, 0)
    return crops_module.random_boxes(sizes, ratio=(1.0, 1.0), generator=generator).view(-1, crops, 4)


def best_crops(task: DistillTask, candidates: Tensor, boxes: Tensor, side: int, loss: Loss) -> tuple[Tensor, Tensor]:
    """Selects the crop with the lowest loss of each image; of equal losses the first.

    About `CROPS_PER_BATCH` crops are on the device at a time, but at least all crops of one image.

    Args:
        task: The task.
        candidates: The indices of the training images, int64 [n].
        boxes: The crops of each image, int64 [n, crops, 4].
        side: The side to which crops are resized, in pixels.
        loss: The loss of a batch of resized crops.

    Returns:
        The resized crops, float32 [n, 3, side, side] in [0, 1], and their losses, float64 [n], both on the CPU.
    """
    crops = boxes.shape[1]
    patches, losses = [], []
    for part in torch.split(torch.arange(len(candidates)), max(1, CROPS_PER_BATCH // crops)):
        pixels, _ = task.dataset.train.read(candidates[part])
        images = (pixels.to(task.device).float() / 255).repeat_interleave(crops, 0)
        cut = crops_module.crop_resize(images, boxes[part].flatten(0, 1), side)
        lowest, best = loss(cut).double().cpu().view(-1, crops).min(1)
        rows = torch.arange(len(part)) * crops + best
        patches.append(cut[rows.to(task.device)].clamp(0, 1).cpu())
        losses.append(lowest)
        task.report(int(part[-1]) + 1, len(candidates), loss=float(lowest.mean()))
    return torch.cat(patches), torch.cat(losses)


def teacher_loss(task: DistillTask, label: int) -> Loss:
    """Returns the teacher's cross-entropy with a class, the negative of the paper's realism score.

    As in the released code, a patch is placed at its own size in the centre of an image of the full size that has the
    dataset's mean colour elsewhere. The cross-entropy is computed in float64: in float32, the losses of all patches
    that the teacher classifies with high confidence are 0. If memory runs out, a batch is split.

    Args:
        task: The task.
        label: The class.

    Returns:
        The loss of a batch of patches.
    """
    size = task.info.image_size

    def cross_entropies(patches: Tensor) -> list[Tensor]:
        margin = size - patches.shape[-1]
        before, after = margin // 2, margin - margin // 2
        padded = functional.pad(task.dataset.normalise(patches), (before, after, before, after))
        with autocast(task.device, task.precision):
            logits = task.teacher(padded.contiguous(memory_format=torch.channels_last), bn=False).logits
        labels = torch.full((len(patches),), label, device=patches.device)
        return [functional.cross_entropy(logits.double(), labels, reduction="none")]

    in_parts = memory.in_parts(cross_entropies, "crops")

    @torch.no_grad()
    def loss(patches: Tensor) -> Tensor:
        return in_parts(patches)[0]

    return loss


def stitch(patches: Tensor, size: int, factor: int) -> Tensor:
    """Composes images of factor x factor patches (released code).

    The best m patches go to the upper left of images 0 .. m-1, the next m to their right, and so on row by row. If
    `factor` does not divide `size`, the first rows and columns of patches are one pixel wider, and their patches are
    resized with nearest-neighbour interpolation.

    Args:
        patches: Patches [factor^2 m, 3, s, s], best first.
        size: The side of an image in pixels.
        factor: The number of patches along a side of an image.

    Returns:
        Images [m, 3, size, size].

    Example:
        >>> patches = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 1, 1)
        >>> stitch(patches, size=2, factor=2)[0, 0]
        tensor([[0., 1.],
                [2., 3.]])
    """
    spans = torch.arange(size).tensor_split(factor)
    images = patches.new_empty(len(patches) // factor**2, 3, size, size)
    for part, (rows, columns) in zip(torch.split(patches, len(images)), product(spans, spans), strict=True):
        stretched = functional.interpolate(part, (len(rows), len(columns)))
        images[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = stretched
    return images
