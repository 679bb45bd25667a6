"""Tasks on a few real digits, for the protocols' tests."""

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
    """The real task, with the images that its students train on, and those that the teacher labels."""

    shown: list[Tensor] = dataclasses.field(default_factory=list)
    labelled: list[Tensor] = dataclasses.field(default_factory=list)

    def student(self) -> nn.Module:
        network = super().student()
        network.register_forward_pre_hook(
            lambda module, inputs: self.shown.append(inputs[0].clone()) if module.training else None
        )
        return network


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> Callable[..., WatchedTask]:
    """Makes a task on real digits with unequal weights and an untrained teacher; `changes` are fields of the task."""
    cache = Cache(tmp_path / "labels")

    def cached(name: str, depends_on: Mapping[str, Any], fn: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return cache.get("labels", {"name": name, **depends_on}, lambda slot: (fn(), {})).tensors

    def make(
        seed: int = 0, ipc: int = 2, arch: str = "convnet-d2", teacher: str = "resnet18", **changes: Any
    ) -> WatchedTask:
        indices = torch.cat([digits.train.of_class(k)[:ipc] for k in range(10)])
        labels = digits.train.labels[indices]
        raw = torch.rand(len(labels), generator=torch.Generator().manual_seed(3)) + 0.1
        network = build_network(teacher, 10, 8, seed=5)
        labelled: list[Tensor] = []
        network.register_forward_pre_hook(lambda module, inputs: labelled.append(inputs[0].clone()))
        tapped = TappedNetwork(network)
        given: dict[str, Any] = {
            "dataset": digits,
            "distilled": DistilledSet(digits, labels, class_weights(labels, raw), ("unit",), indices=indices),
            "teacher_training": TeacherConfig(arch=arch, epochs=1, batch_size=100, learning_rate=0.05),
            "student_arch": arch,
            "student_stem": "auto",
            "seed": seed,
            "ipc": ipc,
            "device": CPU,
            "precision": "fp32",
            "checkpoint": Checkpoint(tmp_path / "slot.safetensors"),
            "report": lambda step, total, **metrics: None,
            "cached": cached,
            "_teacher": lambda: tapped,
            "teachers": lambda *names: [tapped for _ in names],
            "labelled": labelled,
        }
        return WatchedTask(**{**given, **changes})

    return make
