"""Gradient matching: the distance between two gradients, and the loops that minimise it (Algorithm 1 of DC)."""

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
    """Returns the parameters whose gradients are compared: those of two or more dimensions.

    Biases and the scales and shifts of norm layers are not part of the distance (released code).

    Args:
        network: The network.

    Example:
        >>> [tuple(parameter.shape) for parameter in matched_parameters(nn.Linear(3, 2))]
        [(2, 3)]
    """
    return [parameter for parameter in network.parameters() if parameter.ndim >= 2]


def gradient_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Computes the distance of two gradients: 1 - cosine similarity, summed over outputs and layers.

    The gradient of a layer, [outputs, ...], is compared as a matrix [outputs, rest], row by row. 1e-6 is added to the
    product of the norms, so that a zero row has distance 1. The distance is differentiable in both arguments. Source:
    DC, section 3.2, and the released code.

    Args:
        first: One tensor per layer.
        second: One tensor per layer, of the same shapes.

    Returns:
        The distance, a scalar.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> round(float(gradient_distance([a], [b])), 4)
        1.0
    """
    distances = []
    for a, b in zip(first, second, strict=True):
        a, b = a.flatten(1), b.flatten(1)
        norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
        distances.append((1 - (a * b).sum(1) / (norms + EPSILON)).sum())
    return torch.stack(distances).sum()


@dataclass(frozen=True)
class Matching:
    """The steps of gradient matching. Images are normalised float32 [classes * IPC, 3, S, S], sorted by class.

    Attributes:
        method: The hyper-parameters.
        task: The task.
        strategy: The strategy of siamese augmentation; None for no augmentation.
    """

    method: DC
    task: DistillTask
    strategy: str | None

    def real(self, label: int, count: int, *names: str | int) -> Tensor:
        """Draws real images of one class without replacement.

        Args:
            label: The class.
            count: The number of images, at most the whole class.
            *names: Names that seed the draw.

        Returns:
            Normalised images on the device.
        """
        indices, dataset = self.task.sample(label, count, *names), self.task.dataset
        return dataset.normalise(dataset.train.centre(indices, self.task.info.image_size).to(self.task.device))

    def initial(self, unit: Unit) -> Tensor:
        """Returns the initial images: noise that is seeded by slot, or real images of each class."""
        if self.method.initial == "noise":
            return self.task.noise(unit).to(self.task.device)
        return torch.cat([self.real(k, self.task.ipc, "initial") for k in range(self.task.info.num_classes)])

    def network(self, iteration: int) -> nn.Module:
        """Returns a randomly initialised network in training mode, seeded by (seed of the set, iteration)."""
        info, seed = self.task.info, seeds.derive("distill", self.task.seed, "network", iteration)
        network = build_network(self.method.network, info.num_classes, info.image_size, seed=seed)
        return network.to(self.task.device)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean cross-entropy of a batch in float32."""
        with autocast(self.task.device, self.task.precision):
            logits = network(images)
        return functional.cross_entropy(logits.float(), labels)

    def fix_batch_norm(self, network: nn.Module, iteration: int, step: int) -> None:
        """Updates the running statistics of BatchNorm layers on real images and sets the layers to evaluation mode.

        As in the released code, the network processes 16 images of each class in training mode, because a synthetic
        batch has too few images for BatchNorm statistics. A network without BatchNorm is not changed.

        Args:
            network: The network, changed in place.
            iteration: The iteration, which seeds the draw.
            step: The matching step, which seeds the draw.
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
        """Computes the distance, summed over classes, and its gradient with respect to the pixels.

        Classes are processed one by one, so that only one class is in memory. This is possible because the distance of
        a class depends only on its images. The real and the synthetic batch of a class get the same augmentation, which
        is drawn for each class and step.

        Args:
            network: The network.
            images: The synthetic images.
            iteration: The iteration, which seeds the draws.
            step: The matching step, which seeds the draws.

        Returns:
            The distance, a scalar, and the gradient, of the shape of `images`.
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
            with sdpa_kernel(SDPBackend.MATH):  # the other attention kernels have no second derivative
                losses = [
                    self.loss(network, batch, torch.full((len(batch),), label, device=batch.device)) for batch in pair
                ]
            real_gradient = torch.autograd.grad(losses[0], parameters)
            synthetic_gradient = torch.autograd.grad(losses[1], parameters, create_graph=True)
            distance = gradient_distance(synthetic_gradient, real_gradient)
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
        """Trains the network for one epoch on the synthetic images; with DSA each image has its own augmentation.

        Args:
            network: The network.
            optimizer: The optimiser of the network.
            images: The synthetic images.
            iteration: The iteration, which seeds the draws.
            step: The matching step, which seeds the draws.
            epoch: The epoch after that step, which seeds the draws.
        """
        network.train()
        order = torch.randperm(len(images), generator=self.task.generator("order", iteration, step, epoch))
        draws = self.task.generator("training augmentation", iteration, step, epoch)
        for part in batch_slices(len(order), self.method.network_batch):
            rows = order[part].to(images.device)
            batch = images[rows]
            if self.strategy is not None:
                batch = augment(batch, draw_augmentation(self.strategy, images.shape[-1], draws, len(batch)))
            optimizer.zero_grad(set_to_none=True)
            self.loss(network, batch, rows // self.task.ipc).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @contextmanager
    def seeded_generators(self, iteration: int) -> Iterator[None]:
        """Seeds the global generators for dropout by (seed of the set, iteration), and restores them at the end."""
        device = self.task.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeds.derive("distill", self.task.seed, "network draws", iteration))
            yield


def distill(method: DC, task: DistillTask, unit: Unit, strategy: str | None = None) -> Tensor:
    """Optimises the images of the whole set by gradient matching (Algorithm 1).

    Each iteration uses a new network. A matching step is one step of SGD with momentum on the normalised pixels;
    between two steps the network is trained on the current images. With `clamp`, the pixels are clamped to [0, 1], only
    at the end. The released code stores and evaluates them without clamping. All draws are seeded by iteration, step,
    class and epoch, so that a run resumed at the end of an iteration gives the same bytes.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: A unit of all slots, sorted by class.
        strategy: The strategy of siamese augmentation; None for no augmentation.

    Returns:
        The images, float32 [n, 3, S, S], 0 for black and 1 for white; in [0, 1] with `clamp`.

    Raises:
        DDBenchError: If the distance, the pixels or their momentum are not finite. The message names the step; the last
            checkpoint is kept.
    """
    matching = Matching(method, task, strategy)
    outer, inner = method.loops(task.ipc)
    steps = method.iterations * outer
    images = matching.initial(unit)
    momentum = torch.zeros_like(images)
    start, seconds = _resume(task, images, momentum)
    began = time.perf_counter()

    def save(iteration: int, tensors: dict[str, Tensor]) -> None:
        require_finite(f"{method.name}, after iteration {iteration}", tensors, HINT)
        task.checkpoint.save(tensors, {"iteration": iteration, "seconds": seconds + time.perf_counter() - began})

    for iteration in range(start, method.iterations):
        before = {"images": images.clone(), "momentum": momentum.clone()}
        with matching.seeded_generators(iteration):
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
        steps_since_multiple = done % task.checkpoint_every
        if steps_since_multiple < outer and done < steps:
            save(iteration + 1, {"images": images, "momentum": momentum})
    require_finite(f"{method.name}, after the last step", {"images": images, "momentum": momentum}, HINT)
    task.timing.update(steps=steps, seconds=seconds + time.perf_counter() - began)
    pixels = denormalise(images, task.dataset.mean.to(task.device), task.dataset.std.to(task.device))
    return pixels.clamp(0, 1) if method.clamp else pixels


def _resume(task: DistillTask, images: Tensor, momentum: Tensor) -> tuple[int, float]:
    """Loads a checkpoint into the tensors. Returns the first iteration and the seconds so far."""
    saved = task.checkpoint.load()
    if saved is None:
        return 0, 0.0
    tensors, meta = saved
    images.copy_(tensors["images"])
    momentum.copy_(tensors["momentum"])
    return int(meta["iteration"]), float(meta["seconds"])
