"""Gradient matching: the distance between two gradients, and the loops that bring it down (Algorithm 1 of DC)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddbench.api import DDBenchError, Unit, interruption, require_finite, seeds
from ddbench.augment import augment, batch_slices, denormalise, draw_augmentation
from ddbench.nn import autocast, batch_norms, build_network

if TYPE_CHECKING:
    from ddbench.api import DistillTask
    from ddbench_dc import DC

EPSILON = 1e-6
BATCH_NORM_IMAGES = 16
HINT = "; a lower learning_rate or network_learning_rate may help"


def matched_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are compared: those of two or more dimensions, the kernels of linear maps.

    Biases and the scales and shifts of norm layers count nothing in the distance (released code).
    """
    return [parameter for parameter in network.parameters() if parameter.ndim >= 2]


def gradient_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Distance of two gradients, a tensor a layer: 1 - cosine, summed over output rows and layers. A scalar.

    A row is all that feeds one output: [outputs, ...] is compared as [outputs, rest]. 1e-6 is added to the product
    of norms (released code), so a row that is 0 on a side counts 1. Differentiable in both. Source: DC, section 3.2,
    and the released code.
    """
    distances = []
    for a, b in zip(first, second, strict=True):
        a, b = a.flatten(1), b.flatten(1)
        norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
        distances.append((1 - (a * b).sum(1) / (norms + EPSILON)).sum())
    return torch.stack(distances).sum()


@dataclass(frozen=True)
class Matching:
    """What the loops share: settings, task, and the strategy of siamese augmentation (None: no augmentation).

    Images are float32 [classes * IPC, 3, S, S] in normalised space, on the device, sorted by class.
    """

    method: DC
    task: DistillTask
    strategy: str | None

    def real(self, label: int, count: int, *names: str | int) -> Tensor:
        """Up to `count` real images of one class, normalised, on the device, drawn without replacement by `names`."""
        chosen, dataset = self.task.sample(label, count, *names), self.task.dataset
        return dataset.normalise(dataset.train.centre(chosen, self.task.info.image_size).to(self.task.device))

    def initial(self, unit: Unit) -> Tensor:
        """The images to start from: noise seeded by slot, or real images of each class."""
        if self.method.initial == "noise":
            return self.task.noise(unit).to(self.task.device)
        return torch.cat([self.real(k, self.task.ipc, "initial") for k in range(self.task.info.num_classes)])

    def network(self, iteration: int) -> nn.Module:
        """A freshly initialised network, seeded by (run seed, iteration), in training mode."""
        info, seed = self.task.info, seeds.derive("distill", self.task.seed, "network", iteration)
        network = build_network(self.method.network, info.num_classes, info.image_size, seed=seed)
        return network.to(self.task.device)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, a float32 scalar."""
        with autocast(self.task.device, self.task.precision):
            logits = network(images)
        return functional.cross_entropy(logits.float(), labels)

    def fix_batch_norm(self, network: nn.Module, iteration: int, step: int) -> None:
        """Puts BatchNorm layers into evaluation mode, their running statistics moved once by real images.

        As released: one pass in training mode over 16 images of every class, because the few images of a synthetic
        batch have no statistics to speak of. Nothing happens in a network without BatchNorm.
        """
        layers = batch_norms(network).values()
        if not layers:
            return
        network.train()
        classes = range(self.task.info.num_classes)
        batch = torch.cat([self.real(k, BATCH_NORM_IMAGES, "batch norm", iteration, step) for k in classes])
        with torch.no_grad(), autocast(self.task.device, self.task.precision):
            network(batch)
        for layer in layers:
            layer.eval()

    def match(self, network: nn.Module, images: Tensor, iteration: int, step: int) -> tuple[Tensor, Tensor]:
        """The distance summed over classes, and its gradient in the pixels, of the shape of `images`.

        Class by class, as its distance depends on its own images alone: the memory is that of one class. Both
        batches of a class see the same augmentation, a fresh one for each class and step.
        """
        parameters = matched_parameters(network)
        gradient, distances = torch.empty_like(images), []
        ipc, size = self.task.ipc, self.task.info.image_size
        for label in range(self.task.info.num_classes):
            rows = slice(label * ipc, (label + 1) * ipc)
            synthetic = images[rows].detach().requires_grad_(True)
            pair = [self.real(label, self.method.real_batch, "real", iteration, step), synthetic]
            if self.strategy is not None:
                draws = self.task.generator("augmentation", iteration, step, label)
                view = draw_augmentation(self.strategy, size, draws)
                pair = [augment(batch, view) for batch in pair]
            with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no second derivative
                losses = [
                    self.loss(network, batch, torch.full((len(batch),), label, device=batch.device)) for batch in pair
                ]
            wanted = torch.autograd.grad(losses[0], parameters)
            found = torch.autograd.grad(losses[1], parameters, create_graph=True)
            distance = gradient_distance(found, wanted)
            (gradient[rows],) = torch.autograd.grad(distance, synthetic)
            distances.append(distance.detach())
        return torch.stack(distances).sum(), gradient

    def train(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        iteration: int,
        step: int,
        epoch: int,
    ) -> None:
        """One epoch of training the network on the synthetic images; augmented, each for itself, in DSA."""
        network.train()
        order = torch.randperm(len(images), generator=self.task.generator("order", iteration, step, epoch))
        draws = self.task.generator("training augmentation", iteration, step, epoch)
        for part in batch_slices(len(order), self.method.network_batch):
            chosen = order[part].to(images.device)
            batch = images[chosen]
            if self.strategy is not None:
                batch = augment(batch, draw_augmentation(self.strategy, images.shape[-1], draws, len(batch)))
            optimizer.zero_grad(set_to_none=True)
            self.loss(network, batch, chosen // self.task.ipc).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @contextmanager
    def own_draws(self, iteration: int) -> Iterator[None]:
        """Seeds what a network draws by itself (dropout) by (run seed, iteration), and gives the global state back."""
        device = self.task.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeds.derive("distill", self.task.seed, "network draws", iteration))
            yield


def distill(method: DC, task: DistillTask, unit: Unit, strategy: str | None = None) -> Tensor:
    """Images of the whole set, float32 [n, 3, S, S] in [0, 1], by gradient matching (Algorithm 1).

    An iteration takes a fresh network; each of its matching steps is one step of SGD with momentum on the pixels, in
    normalised space, and between two of them the network is trained on the images as they then are. The pixels are free
    until the end and then clamped to [0, 1]; the released code stores and evaluates them unclamped. All draws are
    named by iteration, step, class and epoch, so that a run resumed at the end of an iteration ends with the same
    bytes. Raises DDBenchError naming the step where the distance, the pixels or their momentum are no longer finite:
    nothing is saved then, the checkpoint before it stays.
    """
    matching = Matching(method, task, strategy)
    outer, inner = method.loops(task.ipc)
    steps = method.iterations * outer
    images = matching.initial(unit)
    momentum = torch.zeros_like(images)
    start, seconds = _resume(task, images, momentum)
    clock = time.perf_counter()

    def save(iteration: int, tensors: dict[str, Tensor]) -> None:
        require_finite(f"{method.name}, after iteration {iteration}", tensors, HINT)
        task.checkpoint.save(tensors, {"iteration": iteration, "seconds": seconds + time.perf_counter() - clock})

    for iteration in range(start, method.iterations):
        before = {"images": images.clone(), "momentum": momentum.clone()}
        with matching.own_draws(iteration):
            network = matching.network(iteration)
            optimizer = torch.optim.SGD(
                network.parameters(), lr=method.network_learning_rate, momentum=method.network_momentum
            )
            for step in range(outer):
                done = iteration * outer + step + 1
                matching.fix_batch_norm(network, iteration, step)
                distance, gradient = matching.match(network, images, iteration, step)
                value = float(distance) / task.info.num_classes
                if not math.isfinite(value):
                    raise DDBenchError(f"{method.name}: the distance of gradients is {value} at step {done}{HINT}")
                images.sub_(momentum.mul_(method.momentum).add_(gradient), alpha=method.learning_rate)
                task.tick()
                task.report(done, steps, distance=value)
                if interruption.requested():
                    save(iteration, before)
                    interruption.raise_if_requested()
                if step + 1 < outer:
                    for epoch in range(inner):
                        matching.train(network, optimizer, images, iteration, step, epoch)
        since = done % task.checkpoint_every  # steps since the last multiple of the interval
        if since < outer and done < steps:
            save(iteration + 1, {"images": images, "momentum": momentum})
    require_finite(f"{method.name}, after the last step", {"images": images, "momentum": momentum}, HINT)
    task.timing.update(steps=steps, seconds=seconds + time.perf_counter() - clock)
    pixels = denormalise(images, task.dataset.mean.to(task.device), task.dataset.std.to(task.device))
    return pixels.clamp(0, 1)


def _resume(task: DistillTask, images: Tensor, momentum: Tensor) -> tuple[int, float]:
    found = task.checkpoint.load()
    if found is None:
        return 0, 0.0
    tensors, meta = found
    images.copy_(tensors["images"])
    momentum.copy_(tensors["momentum"])
    return int(meta["iteration"]), float(meta["seconds"])
