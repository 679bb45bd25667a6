"""RDED's steps for one class: crops, the teacher's loss on them, the best ones stitched to images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ddbench.api.units import Unit, UnitResult
from ddbench.augment import crops as crops_module
from ddbench.nn import memory
from ddbench.nn.device import autocast

if TYPE_CHECKING:
    from ddbench.api.context import DistillTask

Loss = Callable[[Tensor], Tensor]
"""Loss [B] of patches [B, 3, s, s] in [0, 1]: the lower, the more realistic."""

# Crops that are cut, resized and judged at a time.
_BATCH = 256


def distill(task: DistillTask, unit: Unit, count: int, crops: int, factor: int) -> UnitResult:
    """The images of one class, pixels in [0, 1] (paper: Section 4; released code: `synthesize`).

    Differs from the released code in that crops are taken from the stored images, not from the files, and that
    the teacher sees the dataset's own normalisation (released: ImageNet's, also for CIFAR). Its files pass
    through 8-bit JPEG: `distill.jpeg_quality=75`.
    """
    label, size = unit.slots[0].label, task.info.image_size
    candidates = task.sample(label, count, "rded", "images")
    boxes = random_crops(task, candidates, crops, task.generator("rded", "crops", label))
    patches, losses = best_crops(task, candidates, boxes, size // factor, teacher_loss(task, label))
    best = losses.argsort(stable=True)[: factor**2 * task.ipc]
    return UnitResult(images=stitch(patches[best], size, factor))


def random_crops(task: DistillTask, candidates: Tensor, crops: int, generator: torch.Generator) -> Tensor:
    """Boxes int64 [n, crops, 4] in the stored images `candidates` [n]: square, of 8 to 100 % of the area.

    As in the released code: torchvision's `RandomResizedCrop` with ratio (1, 1).
    """
    sizes = task.dataset.train.sizes[candidates].repeat_interleave(crops, 0)
    return crops_module.random_boxes(sizes, ratio=(1.0, 1.0), generator=generator).view(-1, crops, 4)


def best_crops(task: DistillTask, candidates: Tensor, boxes: Tensor, side: int, loss: Loss) -> tuple[Tensor, Tensor]:
    """Of each of `candidates` [n] the crop of lowest loss, resized to `side`, and its loss.

    `boxes` [n, crops, 4]. Returns float32 [n, 3, side, side] in [0, 1] and float64 [n], on the CPU; of equal
    losses the first counts. Holds about 256 crops at a time on the device, at least those of one image.
    """
    crops = boxes.shape[1]
    patches, losses = [], []
    for part in torch.split(torch.arange(len(candidates)), max(1, _BATCH // crops)):
        pixels, _ = task.dataset.train.read(candidates[part])
        images = (pixels.to(task.device).float() / 255).repeat_interleave(crops, 0)
        cut = crops_module.crop_resize(images, boxes[part].flatten(0, 1), side)
        found, best = loss(cut).double().cpu().view(-1, crops).min(1)
        rows = torch.arange(len(part)) * crops + best
        patches.append(cut[rows.to(task.device)].clamp(0, 1).cpu())
        losses.append(found)
        task.report(int(part[-1]) + 1, len(candidates), loss=float(found.mean()))
    return torch.cat(patches), torch.cat(losses)


def teacher_loss(task: DistillTask, label: int) -> Loss:
    """The teacher's cross-entropy with `label`, the negative of the paper's realism score.

    A patch is judged at its own size in the middle of an image of the full size, around it the dataset's mean
    colour, as in the released code. In float64: in float32 patches that the teacher is sure of tie at 0. Where
    memory runs out a batch goes through the teacher in parts.
    """
    size = task.info.image_size

    def judge(patches: Tensor) -> list[Tensor]:
        margin = size - patches.shape[-1]
        before, after = margin // 2, margin - margin // 2
        padded = functional.pad(task.dataset.normalise(patches), (before, after, before, after))
        with autocast(task.device, task.precision):
            logits = task.teacher(padded.contiguous(memory_format=torch.channels_last), bn=False).logits
        labels = torch.full((len(patches),), label, device=patches.device)
        return [functional.cross_entropy(logits.double(), labels, reduction="none")]

    in_parts = memory.in_parts(judge, "crops")

    @torch.no_grad()
    def loss(patches: Tensor) -> Tensor:
        return in_parts(patches)[0]

    return loss


def stitch(patches: Tensor, size: int, factor: int) -> Tensor:
    """Images [m, 3, size, size] of factor x factor patches each; `patches` [factor^2 m, 3, s, s], best first.

    As in the released code: the best m go to the upper left of images 0 .. m-1, the next m to the right of them,
    and so on row by row. Where `factor` does not divide `size`, the first rows and columns are a pixel wider,
    and their patches are stretched by it (nearest pixel).
    """
    spans = torch.arange(size).tensor_split(factor)
    images = patches.new_empty(len(patches) // factor**2, 3, size, size)
    for part, (rows, columns) in zip(torch.split(patches, len(images)), product(spans, spans), strict=True):
        stretched = functional.interpolate(part, (len(rows), len(columns)))
        images[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = stretched
    return images
