"""Tasks on 20 real digits, for the protocols' tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddbench.config.schema import TeacherConfig
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import EvaluateContext
from ddbench.distillation.distilled_set import DistilledSet, class_weights
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8)


@dataclasses.dataclass(frozen=True)
class WatchedTask(EvaluateContext):
    """The real task, noting what the student is shown and how often the teacher is asked."""

    shown: list[Tensor] = dataclasses.field(default_factory=list)
    asked: list[Tensor] = dataclasses.field(default_factory=list)

    def student(self) -> nn.Module:
        network = super().student()
        network.register_forward_pre_hook(
            lambda module, inputs: self.shown.append(inputs[0]) if module.training else None
        )
        return network


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> Callable[..., WatchedTask]:
    """A task on 20 real digits (two a class) with unequal weights and an untrained teacher."""
    cache = Cache(tmp_path / "labels")
    indices = torch.cat([digits.train.of_class(k)[:2] for k in range(10)])
    labels = digits.train.labels[indices]
    raw = torch.rand(20, generator=torch.Generator().manual_seed(3)) + 0.1
    distilled = DistilledSet(digits, labels, class_weights(labels, raw), ("unit",), indices=indices)

    def cached(name: str, depends_on: Mapping[str, Any], fn: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return cache.get("labels", {"name": name, **depends_on}, lambda slot: (fn(), {})).tensors

    def make(seed: int = 0, precision: str = "fp32", slot: str = "slot") -> WatchedTask:
        network = build_network("resnet18", 10, 8, "small", seed=5)
        asked: list[Tensor] = []
        network.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0].clone()))
        teacher = TappedNetwork(network)
        return WatchedTask(
            dataset=digits,
            distilled=distilled,
            teacher_training=TeacherConfig(arch="convnet-d2", epochs=1, batch_size=100, learning_rate=0.05),
            student_arch="convnet-d2",
            student_stem="auto",
            seed=seed,
            ipc=2,
            device=CPU,
            precision=precision,
            checkpoint=Checkpoint(tmp_path / f"{slot}.safetensors"),
            report=lambda step, total, **metrics: None,
            cached=cached,
            _teacher=lambda: teacher,
            asked=asked,
        )

    return make
