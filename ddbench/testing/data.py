"""Inputs of the conformance tests: a small dataset with unequal classes, and a method that returns noise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddbench.api.context import DistillTask
from ddbench.api.dataset import DatasetSpec, Source
from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit
from ddbench.data.arrays import open_digits
from ddbench.data.source import ArraySplit

FEW_DIGITS = "few-digits"
SMALLEST_CLASS = 3
OTHER_CLASSES = 20
IMAGE_SIZES = ("data.image_size=16", "data.stored_size=16")  # the sizes in the recipes for digits


def open_few_digits(data_dir: Path | None) -> Source:
    """Opens a part of scikit-learn's digits.

    Args:
        data_dir: Not used: the digits are part of scikit-learn.

    Returns:
        SMALLEST_CLASS training images of the first class, OTHER_CLASSES of each other class, and all validation images.
    """
    digits = open_digits()
    assert isinstance(digits.train, ArraySplit)
    labels = digits.train.labels
    kept = np.concatenate(
        [
            np.flatnonzero(labels == label)[: OTHER_CLASSES if label else SMALLEST_CLASS]
            for label in range(len(digits.class_names))
        ]
    )
    return Source(digits.class_names, ArraySplit(digits.train.pixels[kept], labels[kept]), digits.val)


class Noise(Distiller, frozen=True, extra="forbid"):
    """Uniform noise in [0, 1]. A student learns nothing from it."""

    name = "noise"
    version = "1"
    needs_teacher = False

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Draws one image per slot, seeded by class and index."""
        size = task.info.image_size
        generators = (task.generator("noise", slot.label, slot.index) for slot in unit.slots)
        return torch.stack([torch.rand(3, size, size, generator=generator) for generator in generators])


@hookimpl
def ddbench_datasets() -> Iterable[DatasetSpec]:
    """Registers the dataset of the conformance tests."""
    return [
        DatasetSpec(
            FEW_DIGITS, "a few digits, classes of unequal size", "as digits", native_size=8, open=open_few_digits
        )
    ]
