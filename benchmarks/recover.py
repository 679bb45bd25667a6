"""The recover step: ResNet-18, PCBN on all 20 layers, crop, flip, Adam, clamp; eager, compiled, and in bf16."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from measuring import Row, device, difference, interleaved, write
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ddbench.api.settings import RecoverSettings
from ddbench.api.units import Slot, Unit
from ddbench.augment import crops as crops_module
from ddbench.core import seeds
from ddbench.distillation import recover
from ddbench.losses import batchnorm
from ddbench.losses import features as features_module
from ddbench.nn.build import build_network
from ddbench.nn.layers import batch_norms
from ddbench.nn.taps import TappedNetwork

CLASSES = 10
LAMBDA = 10.0
STEPS = 3
"""Steps per repetition of each variant."""
VARIANTS = {
    "fp32": ("fp32", False),
    "fp32 compiled": ("fp32", True),
    "bf16": ("bf16", False),
    "bf16 compiled": ("bf16", True),
}
"""Variants by name: precision, and whether the network is compiled."""


@dataclass
class Case:
    """One size: a teacher, its targets by class, and images to start from."""

    count: int
    size: int
    device: torch.device
    arch: str = "resnet18"
    steps: int = STEPS
    teacher: TappedNetwork = field(init=False)
    plain: nn.Module = field(init=False)
    losses: list[Tensor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = seeds.generator("benchmark", "recover")
        self.initial = torch.randn(self.count, 3, self.size, self.size, generator=draw).to(self.device)
        network = build_network(self.arch, CLASSES, self.size, "imagenet" if self.arch == "resnet18" else "auto", 0)
        layers = [cast(nn.BatchNorm2d, layer) for layer in batch_norms(network).values()]
        # Fill the running statistics, as in a trained network: with initial ones bf16 rounds to one side.
        for layer in layers:
            layer.momentum = 1.0
        with torch.no_grad():
            network(self.initial.cpu())
        # The reference contains nothing of ours.
        self.plain = copy.deepcopy(network).requires_grad_(False).eval().to(self.device)
        self.plain = self.plain.to(memory_format=torch.channels_last)
        self.teacher = TappedNetwork(network).to(self.device).to(memory_format=torch.channels_last)
        self.labels = torch.arange(self.count) * CLASSES // self.count
        self.rows = batchnorm.class_weight_matrix(self.labels, torch.rand(self.count, generator=draw) + 0.1)
        self.rows = self.rows.to(self.device)
        self.points = torch.rand(self.count, self.teacher.feature_dim, generator=draw).to(self.device)
        widths, classes = [layer.num_features for layer in layers], len(self.rows)
        self.means = [torch.randn(classes, width, generator=draw).to(self.device) for width in widths]
        self.variances = [(torch.rand(classes, width, generator=draw) + 0.5).to(self.device) for width in widths]
        self.settings = RecoverSettings(steps=self.steps, jitter=0)

    def objective(self, output: Any) -> dict[str, Tensor]:
        """Computes the objective of the paper (Eq. 15)."""
        terms = {
            "feature": features_module.feature_match(output.features, self.points, "squared"),
            "pcbn": LAMBDA * batchnorm.pcbn(output.bn_inputs, self.rows, self.means, self.variances, "squared"),
        }
        self.losses.append(torch.stack(list(terms.values())).sum().detach())
        return terms

    def ours(self, precision: str = "fp32", compiled: bool = False) -> Tensor:
        """Runs `ddbench.distillation.recover` and returns the losses of its steps."""
        self.losses.clear()
        unit = Unit(index=0, slots=tuple(Slot(int(label), index) for index, label in enumerate(self.labels)))
        mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
        task = SimpleNamespace(
            device=self.device,
            precision=precision,
            compile=compiled,
            note=self.notes.append,
            info=SimpleNamespace(image_size=self.size),
            dataset=SimpleNamespace(mean=mean, std=std),
            teacher=self.teacher,
            seed=0,
            checkpoint=SimpleNamespace(load=lambda: None),
            checkpoint_every=10**9,
            report=lambda *_, **__: None,
            timing={},
            tick=lambda: None,
        )
        recover.recover(cast(Any, task), unit, self.objective, self.initial, self.settings)
        return torch.stack(self.losses)

    def reference(self) -> Tensor:
        """Runs the same steps in plain PyTorch: hooks on the BatchNorm layers, and Eq. 13 class by class."""
        bn_inputs: list[Tensor] = []
        features: list[Tensor] = []
        network = self.plain
        hooks = [
            network.get_submodule(name).register_forward_hook(lambda _, inputs, __: bn_inputs.append(inputs[0]))
            for name in self.teacher.bn_names
        ]
        hooks.append(network.fc.register_forward_hook(lambda _, inputs, __: features.append(inputs[0])))  # type: ignore[union-attr]
        images = self.initial.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([images], lr=self.settings.learning_rate, betas=self.settings.betas)
        losses: list[Tensor] = []
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * step / self.steps)) * 0.25
            bn_inputs.clear()
            features.clear()
            network(self._plain_view(images, step))
            loss = ((features[0] - self.points) ** 2).sum()
            for layer, x in enumerate(bn_inputs):
                for label in range(CLASSES):
                    of_class = self.labels == label
                    weights = self.rows[label, of_class][:, None, None, None]
                    positions = x.shape[2] * x.shape[3]
                    mean = (weights * x[of_class]).sum((0, 2, 3)) / positions
                    variance = (weights * (x[of_class] - mean[:, None, None]) ** 2).sum((0, 2, 3)) / positions
                    loss = loss + LAMBDA * ((mean - self.means[layer][label]) ** 2).sum()
                    loss = loss + LAMBDA * ((variance - self.variances[layer][label]) ** 2).sum()
            losses.append(loss.detach())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                images.clamp_(-2, 2)
        for hook in hooks:
            hook.remove()
        return torch.stack(losses)

    def _plain_view(self, images: Tensor, step: int) -> Tensor:
        # Use our boxes, so that both sides have the same views and can be compared.
        draws = seeds.generator("recover", 0, 0, step)
        sizes = torch.tensor([[self.size, self.size]]).expand(self.count, 2)
        boxes = crops_module.random_boxes(sizes, scale=self.settings.crop_scale(step), generator=draws)
        flips = torch.rand(self.count, generator=draws) < 0.5
        size = [self.size, self.size]
        crops = [
            transforms.resized_crop(image, *box, size, antialias=True)
            for image, box in zip(images, boxes.tolist(), strict=True)
        ]
        crops = [crop.flip(-1) if flip else crop for crop, flip in zip(crops, flips, strict=True)]
        return torch.stack(crops).contiguous(memory_format=torch.channels_last)

    def limit(self) -> None:
        """Runs forward and backward to the input in float32: the least work of a step."""
        images = self.initial.contiguous(memory_format=torch.channels_last).requires_grad_(True)
        for _ in range(self.steps):
            (gradient,) = torch.autograd.grad(self.plain(images).sum(), images)
        del gradient


def of(case: Case, repetitions: int, ways: Sequence[str] = tuple(VARIANTS)) -> list[Row]:
    """Measures one size in all variants against one reference and the limit in float32, after comparing the losses."""
    runs: dict[str, Callable[[], object]] = {name: partial(case.ours, *VARIANTS[name]) for name in ways}
    expected = case.reference()
    apart = {name: difference(case.ours(*VARIANTS[name]), expected) for name in ways}
    taken = interleaved({"reference": case.reference, "limit": case.limit, **runs}, repetitions, warm=1)
    per_step = {name: value / case.steps for name, value in taken.items()}
    return [
        Row(
            "recover step",
            f"{case.count} x 3 x {case.size} x {case.size}, {name}",
            per_step[name],
            per_step["reference"],
            per_step["limit"],
            "; ".join([f"losses of {case.steps} steps: {apart[name]:.0e}", *(case.notes if VARIANTS[name][1] else [])]),
        )
        for name in ways
    ]


def measure(repetitions: int, ways: Sequence[str] = tuple(VARIANTS)) -> list[Row]:
    """Measures a batch of small images, and one of the paper's size."""
    return [row for size in ((100, 64), (10, 224)) for row in of(Case(*size, device()), repetitions, ways)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--ways", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    write("recover", measure(arguments.repetitions, arguments.ways))
