"""Matching steps of DM and DC, which use random networks, against the loops of their released code."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from ddbench_dc import DC
from ddbench_dc import matching as gradients
from ddbench_dm import DM
from ddbench_dm import matching as embeddings
from measuring import Row, device, difference, interleaved, write
from torch import Tensor
from torch.nn import functional
from training import CLASSES, digits

from ddbench.augment.crops import denormalise
from ddbench.augment.siamese import augment, draw_augmentation
from ddbench.core import seeds
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.nn.build import ConvNet, build_network

STEPS = 2


@dataclass(frozen=True)
class Case:
    """One size: real images of each class per step, and distilled images of each class."""

    method: str
    size: int = 32
    real: int = 128
    ipc: int = 10
    network: str = "convnet-d3"


CASES = (Case("dm"), Case("dm", ipc=1), Case("dc", real=32))


class Bench:
    """One case on the digits, in float32: STEPS steps, each with a network of its own."""

    def __init__(self, case: Case, dataset: Dataset) -> None:
        self.case, self.dataset = case, dataset
        shared: dict[str, Any] = {"network": case.network, "real_batch": case.real, "initial": "real"}
        self.dm = DM(steps=STEPS, **shared)
        self.dc = DC(iterations=STEPS, outer_loop=1, inner_loop=0, **shared)
        unused = cast(Any, None)
        self.task = DistillContext(
            dataset=dataset,
            ipc=case.ipc,
            seed=0,
            device=device(),
            precision="fp32",
            checkpoint=cast(Any, SimpleNamespace(load=lambda: None)),
            checkpoint_every=10**9,
            report=lambda *_, **__: None,
            cached=unused,
            statistics=unused,
            timing={},
            _teacher=unused,
        )
        self.unit = self.dm.units(CLASSES, case.ipc)[0]
        low, high = (dataset.normalise(torch.full((1, 3, 1, 1), value)).to(device()) for value in (0.0, 1.0))
        self.clamp = partial(torch.clamp, min=low, max=high)

    def ours(self) -> Tensor:
        """The images after STEPS steps, through the method's own loop."""
        if self.case.method == "dm":
            return embeddings.distill(self.dm, self.task, self.unit, embeddings.mean_distance)
        return gradients.distill(self.dc, self.task, self.unit)

    def reference(self) -> Tensor:
        """The same class by class, as in the released code of DM and DC: one backward pass for all classes."""
        method, mean, std = self.case.method, self.dataset.mean.to(device()), self.dataset.std.to(device())
        settings = self.dm if method == "dm" else self.dc
        images = self._real(self.case.ipc, "initial").requires_grad_(True)
        optimizer = torch.optim.SGD([images], lr=settings.learning_rate, momentum=settings.momentum)
        for step in range(STEPS):
            network = self._network(step)
            loss = torch.zeros((), device=device())
            for label, synthetic in enumerate(torch.split(images, self.case.ipc)):
                if method == "dm":
                    loss = loss + self._embeddings_apart(network, synthetic, step, label)
                else:
                    loss = loss + self._gradients_apart(network, synthetic, step, label)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if method == "dm":
                with torch.no_grad():
                    images.copy_(self.clamp(images))
        return denormalise(images.detach(), mean, std).clamp(0, 1)

    def limit(self) -> None:
        """The bare passes of STEPS steps, class by class, on existing images and networks."""
        network, images = self._network(0), self._real(self.case.ipc, "initial")
        parameters = gradients.matched_parameters(network)
        for _ in range(STEPS):
            for label in range(CLASSES):
                real = images[:1].expand(self.case.real, -1, -1, -1).contiguous()
                synthetic = images[label * self.case.ipc : (label + 1) * self.case.ipc].detach().requires_grad_(True)
                if self.case.method == "dm":
                    with torch.no_grad():
                        network.features(real)
                    torch.autograd.grad(network.features(synthetic).sum(), synthetic)
                else:
                    torch.autograd.grad(network(real).square().sum(), parameters)
                    own = torch.autograd.grad(network(synthetic).square().sum(), parameters, create_graph=True)
                    torch.autograd.grad(sum(part.sum() for part in own), synthetic)  # type: ignore[arg-type]

    def _network(self, step: int) -> ConvNet:
        seed = seeds.derive("distill", 0, "network", step)
        return cast(ConvNet, build_network(self.case.network, CLASSES, self.case.size, seed=seed)).to(device())

    def _real(self, count: int, *names: str | int) -> Tensor:
        return torch.cat([self._real_of(label, count, *names) for label in range(CLASSES)])

    def _real_of(self, label: int, count: int, *names: str | int) -> Tensor:
        pixels = self.dataset.train.centre(self.task.sample(label, count, *names), self.case.size)
        return self.dataset.normalise(pixels).to(device())

    def _embeddings_apart(self, network: ConvNet, synthetic: Tensor, step: int, label: int) -> Tensor:
        real = self._real_of(label, self.case.real, "real", step)
        assert self.dm.strategy is not None
        view = draw_augmentation(self.dm.strategy, self.case.size, self.task.generator("augmentation", step, label))
        with torch.no_grad():
            target = network.features(augment(real, view)).flatten(1).mean(0)
        own = network.features(augment(synthetic, view)).flatten(1).mean(0)
        apart: Tensor = ((own - target) ** 2).sum()
        return apart

    def _gradients_apart(self, network: ConvNet, synthetic: Tensor, step: int, label: int) -> Tensor:
        real = self._real_of(label, self.case.real, "real", step, 0)
        parameters = [parameter for parameter in network.parameters() if parameter.ndim >= 2]
        losses = [
            functional.cross_entropy(network(batch), torch.full((len(batch),), label, device=device()))
            for batch in (real, synthetic)
        ]
        target = torch.autograd.grad(losses[0], parameters)
        own = torch.autograd.grad(losses[1], parameters, create_graph=True)
        apart = torch.zeros((), device=device())
        for a, b in zip(own, target, strict=True):
            a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
            apart = apart + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        return apart


def measure(repetitions: int) -> list[Row]:
    """Measures the seconds of one step of each case. Both sides use ddbench's augmentation."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(case, digits(Path(folder), case.size, case.size))
        apart = difference(bench.ours(), bench.reference())
        runs: dict[str, Callable[[], object]] = {
            "reference": bench.reference,
            "ours": bench.ours,
            "limit": bench.limit,
        }
        taken = {name: value / STEPS for name, value in interleaved(runs, repetitions, warm=0).items()}
        size = f"{CLASSES} classes x {case.real} real, IPC {case.ipc}, {case.size} px, fp32"
        rows.append(Row(f"{case.method} step", size, **taken, agreement=f"pixels after {STEPS} steps: {apart:.0e}"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    write("networks", measure(parser.parse_args().repetitions))
