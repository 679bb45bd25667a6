"""The conformance kit's own inputs: a small uneven dataset, and images of noise to be beaten."""

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

FEW = "few-digits"
SMALLEST = 3
SIZES = ("data.image_size=16", "data.stored_size=16")  # as the recipes give digits


def open_few_digits(data_dir: Path | None) -> Source:
    """SMALLEST training digits of the first class and 20 of each other; all validation digits."""
    digits = open_digits()
    assert isinstance(digits.train, ArraySplit)
    labels = digits.train.labels
    kept = np.concatenate(
        [np.flatnonzero(labels == label)[: 20 if label else SMALLEST] for label in range(len(digits.class_names))]
    )
    return Source(digits.class_names, ArraySplit(digits.train.pixels[kept], labels[kept]), digits.val)


class Noise(Distiller, frozen=True, extra="forbid"):
    """Pixels drawn from [0, 1], image by image: what a student cannot learn from."""

    name = "noise"
    version = "1"
    needs_teacher = False

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Uniform noise, seeded by class and index."""
        size = task.info.image_size
        draws = (task.generator("noise", slot.label, slot.index) for slot in unit.slots)
        return torch.stack([torch.rand(3, size, size, generator=draw) for draw in draws])


@hookimpl
def ddbench_datasets() -> Iterable[DatasetSpec]:
    return [DatasetSpec(FEW, "a few digits, unevenly spread", "as digits", native_size=8, open=open_few_digits)]
