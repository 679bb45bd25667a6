"""The recover step: ResNet-18, PCBN on all 20 layers, crop, flip, Adam, clamp."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch
from measuring import Row, device, difference, interleaved, write
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ddbench import objectives, recover, seeds, views
from ddbench.distiller import Slot, Unit
from ddbench.models import TappedNetwork, build_network
from ddbench.recover_settings import RecoverSettings

CLASSES = 10
LAMBDA = 10.0
STEPS = 3
"""Of one repetition: every variant runs so many at a time."""


@dataclass
class Case:
    """One size: a teacher, its targets by class, and images to start from."""

    count: int
    size: int
    device: torch.device
    precision: str = "fp32"
    teacher: TappedNetwork = field(init=False)
    losses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = seeds.generator("benchmark", "recover")
        self.teacher = TappedNetwork(build_network("resnet18", CLASSES, self.size, "imagenet", 0)).to(self.device)
        self.teacher = self.teacher.to(memory_format=torch.channels_last)
        self.labels = torch.arange(CLASSES).repeat_interleave(self.count // CLASSES)
        self.rows = objectives.class_weight_matrix(self.labels, torch.rand(self.count, generator=draw) + 0.1)
        self.rows = self.rows.to(self.device)
        self.points = torch.rand(self.count, 512, generator=draw).to(self.device)
        layers = [self.teacher.network.get_submodule(name) for name in self.teacher.bn_names]
        widths = [cast(nn.BatchNorm2d, layer).num_features for layer in layers]
        self.means = [torch.randn(CLASSES, width, generator=draw).to(self.device) for width in widths]
        self.variances = [(torch.rand(CLASSES, width, generator=draw) + 0.5).to(self.device) for width in widths]
        self.initial = torch.randn(self.count, 3, self.size, self.size, generator=draw).to(self.device)
        self.settings = RecoverSettings(steps=STEPS, jitter=0)

    def objective(self, output: Any) -> dict[str, Tensor]:
        """The paper's (Eq. 15)."""
        terms = {
            "feature": objectives.feature_match(output.features, self.points, "squared"),
            "pcbn": LAMBDA * objectives.pcbn(output.bn_inputs, self.rows, self.means, self.variances, "squared"),
        }
        self.losses.append(torch.stack(list(terms.values())).sum().detach())
        return terms

    def ours(self) -> Tensor:
        """The losses of STEPS steps of `ddbench.recover`."""
        self.losses.clear()
        unit = Unit(index=0, slots=tuple(Slot(int(label), index) for index, label in enumerate(self.labels)))
        mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
        task = SimpleNamespace(
            device=self.device,
            precision=self.precision,
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
        """The same in the most ordinary PyTorch: hooks on the BatchNorm layers, class by class as Eq. 13 has it."""
        found: list[Tensor] = []
        features: list[Tensor] = []
        network = self.teacher.network
        hooks = [
            network.get_submodule(name).register_forward_hook(lambda _, inputs, __: found.append(inputs[0]))
            for name in self.teacher.bn_names
        ]
        hooks.append(network.fc.register_forward_hook(lambda _, inputs, __: features.append(inputs[0])))  # type: ignore[operator, union-attr]
        images = self.initial.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([images], lr=self.settings.learning_rate, betas=self.settings.betas)
        losses: list[Tensor] = []
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * step / STEPS)) * 0.25
            found.clear()
            features.clear()
            network(self._plain_view(images, step))
            loss = ((features[0] - self.points) ** 2).sum()
            for layer, x in enumerate(found):
                for label in range(CLASSES):
                    mine = self.labels == label
                    weights = self.rows[label, mine][:, None, None, None]
                    positions = x.shape[2] * x.shape[3]
                    mean = (weights * x[mine]).sum((0, 2, 3)) / positions
                    variance = (weights * (x[mine] - mean[:, None, None]) ** 2).sum((0, 2, 3)) / positions
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
        # The boxes are those of ours: else the two would not see the same and could not be compared.
        draws = seeds.generator("recover", 0, 0, step)
        sizes = torch.tensor([[self.size, self.size]]).expand(self.count, 2)
        boxes = views.random_boxes(sizes, scale=self.settings.crop_scale(step), generator=draws)
        flips = torch.rand(self.count, generator=draws) < 0.5
        size = [self.size, self.size]
        crops = [
            transforms.resized_crop(image, *box, size, antialias=True)
            for image, box in zip(images, boxes.tolist(), strict=True)
        ]
        crops = [crop.flip(-1) if flip else crop for crop, flip in zip(crops, flips, strict=True)]
        return torch.stack(crops).contiguous(memory_format=torch.channels_last)

    def limit(self) -> None:
        """Forward and backward to the input, STEPS times: what no step can do without."""
        images = self.initial.contiguous(memory_format=torch.channels_last).requires_grad_(True)
        for _ in range(STEPS):
            (gradient,) = torch.autograd.grad(self.teacher.network(images).sum(), images)
        del gradient


def measure(count: int, size: int, repetitions: int) -> Row:
    """One size in float32."""
    case = Case(count, size, device())
    apart = difference(case.ours(), case.reference())
    taken = interleaved({"reference": case.reference, "ours": case.ours, "limit": case.limit}, repetitions, warm=1)
    per_step = {name: value / STEPS for name, value in taken.items()}
    agreement = f"losses of {STEPS} steps: {apart:.0e}"
    return Row("recover step", f"{count} x 3 x {size} x {size}, fp32", **per_step, agreement=agreement)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    repetitions = parser.parse_args().repetitions
    write("recover", [measure(100, 64, repetitions), measure(10, 224, repetitions)])
