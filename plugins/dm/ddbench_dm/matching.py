"""The loop of DM: at every step the embeddings of real and synthetic images are matched, class by class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddbench.api import DDBenchError, Unit, interruption, require_finite, seeds
from ddbench.augment import augment, denormalise, draw_augmentation
from ddbench.losses import gaussian_mmd, median_bandwidths
from ddbench.nn import OOMBatcher, autocast, batch_norms, build_network, final_classifier
from ddbench.training import prefetched, to_device

if TYPE_CHECKING:
    from ddbench.api import DistillTask
    from ddbench_dm import DM

Embed = Callable[[Tensor], Tensor]
"""Normalised images [B, 3, S, S] to embeddings [B, d]."""
Distance = Callable[[Tensor, Tensor], Tensor]
"""Embeddings of the synthetic [m, d] and of the real images [n, d] of one class to a scalar."""

REPORT_EVERY = 25
PIXELS_TOGETHER = {"cpu": 2**16, "cuda": 2**20}
"""Pixels that go through the network at once: a GPU wants many, a CPU as many as its caches hold the maps of."""


def kernel_match(synthetic: Tensor, real: Tensor, multiples: Sequence[float]) -> Tensor:
    """Squared MMD of embeddings [m, d] and [n, d] under Gaussian kernels, in the units of DM's loss: a scalar.

    The biased estimate (V-statistic) of M3D, with `multiples` of the median distance of the real embeddings as
    bandwidths s. It is divided by the sum of 1 / s^2: for kernels far wider than the distances it is the squared
    distance of the means, and DM's learning rate keeps its meaning (not in M3D).
    """
    bandwidths = median_bandwidths(real, multiples)
    return gaussian_mmd(synthetic, real, bandwidths) / bandwidths.double().pow(-2).sum()


def embedding(network: nn.Module) -> Embed:
    """What feeds the final linear classifier of `network`, float32 or wider; freezes its parameters in place.

    BatchNorm takes the statistics of the batch; all else is in evaluation mode, so that both halves go through the
    same network (the released code is in training mode: the same for networks without dropout).
    """
    network.requires_grad_(False).eval()
    for layer in batch_norms(network).values():
        layer.train()
    taken: list[Tensor] = []
    final_classifier(network)[1].register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    layout = memory_format(network)

    def embed(images: Tensor) -> Tensor:
        network(images.contiguous(memory_format=layout))
        features = taken.pop().flatten(1)
        return features.to(torch.promote_types(features.dtype, torch.float32))

    return embed


def memory_format(network: nn.Module) -> torch.memory_format:
    """In which the network is quickest: instance norm, which ConvNets have, copies what is channels-last."""
    return torch.channels_last if batch_norms(network) else torch.contiguous_format


def fresh_network(method: DM, task: DistillTask, step: int) -> nn.Module:
    """The network of one step, on the device: freshly initialised, seeded by (run seed, step)."""
    seed = seeds.derive("distill", task.seed, "network", step)
    network = build_network(method.network, task.info.num_classes, task.info.image_size, seed=seed)
    return network.to(task.device, memory_format=memory_format(network))  # type: ignore[call-overload,no-any-return]


def real_batches(method: DM, task: DistillTask, start: int) -> Iterator[Tensor]:
    """uint8 [n, 3, S, S] for each step from `start`: of each class `real_batch` images, without replacement.

    Seeded by (run seed, step, class).
    """
    for step in range(start, method.steps):
        chosen = [task.sample(label, method.real_batch, "real", step) for label in range(task.info.num_classes)]
        yield task.dataset.train.centre(torch.cat(chosen), task.info.image_size)


def images_together(task: DistillTask) -> int:
    """How many images go through a network without BatchNorm at once."""
    return max(1, PIXELS_TOGETHER.get(task.device.type, 2**20) // task.info.image_size**2)


def classes_together(task: DistillTask) -> int:
    """How many classes' synthetic images do, and are followed by their backward pass."""
    return min(task.info.num_classes, max(1, images_together(task) // task.ipc))


def match(
    method: DM,
    task: DistillTask,
    step: int,
    real: Sequence[Tensor],
    synthetic: Sequence[Tensor],
    distance: Distance,
    most: int | None = None,
) -> Tensor:
    """The loss of one step, a detached scalar; its gradient is added to that of the synthetic images.

    `real` and `synthetic`: normalised images [n, 3, S, S] of each class. For each class one augmentation is drawn,
    seeded by (run seed, step, class), for both halves (DM: the same). Classes go through the network in groups, `most`
    at a time where that is given, and the real half without gradient, in parts; all at once where a BatchNorm layer
    would see the difference (DM: the same).
    """
    network = fresh_network(method, task, step)
    embed, classes = embedding(network), len(real)
    whole = bool(batch_norms(network))
    together = classes if whole else most or classes_together(task)
    at_once = sum(map(len, real)) if whole else images_together(task)
    total = torch.zeros((), device=task.device)

    def augmented(halves: Sequence[Tensor], labels: range) -> Tensor:
        return torch.cat([_augmented(method, task, step, label, halves[label]) for label in labels])

    def embedded_real(labels: range) -> Tensor:
        group = len(labels) if whole else max(1, at_once // method.real_batch)
        groups = [labels[start : start + group] for start in range(0, len(labels), group)]
        parts = (part for few in groups for part in torch.split(augmented(real, few), at_once))
        return torch.cat([embed(part) for part in parts])

    for first in range(0, classes, together):
        labels = range(first, min(first + together, classes))
        with autocast(task.device, task.precision):
            with torch.no_grad():
                found = embedded_real(labels)
            embedded = embed(augmented(synthetic, labels))
        parts = torch.split(embedded, [len(synthetic[label]) for label in labels])
        real_parts = torch.split(found, [len(real[label]) for label in labels])
        losses = []
        for label, pair in zip(labels, zip(parts, real_parts, strict=True), strict=True):
            try:
                losses.append(distance(*pair))
            except DDBenchError as error:
                raise DDBenchError(f"{method.name}, class '{task.info.class_names[label]}': {error}") from error
        loss = torch.stack(losses).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _augmented(method: DM, task: DistillTask, step: int, label: int, images: Tensor) -> Tensor:
    if method.strategy is None:
        return images
    draws = task.generator("augmentation", step, label)
    return augment(images, draw_augmentation(method.strategy, task.info.image_size, draws))


def initial_images(method: DM, task: DistillTask, unit: Unit) -> Tensor:
    """Where the images of a unit start, normalised float32 [n, 3, S, S] on the CPU."""
    if method.initial == "noise":
        return task.noise(unit)
    chosen = [task.sample(label, task.ipc, "initial") for label in range(task.info.num_classes)]
    return task.dataset.evaluation_view("train", torch.cat(chosen))


def distill(method: DM, task: DistillTask, unit: Unit, distance: Distance) -> Tensor:
    """Pixels in [0, 1], float32 [n, 3, S, S], for a unit of all classes, in class order.

    SGD with momentum on the normalised pixels, at a constant rate. Unlike in the released code, pixels are clamped to
    the valid range after each step: what is stored is what was optimised. What is drawn depends on (run seed, step,
    class) alone, so a resumed run ends with the same bytes. Where memory runs out fewer classes go through the network
    at once, to the same numbers; with BatchNorm they cannot. The real images of all classes of a step are in memory at
    once, on the host and on the device. Raises DDBenchError naming the step where the loss, the pixels or their
    velocity are not finite: nothing is saved then, the checkpoint before it stays.
    """
    device = task.device
    low = task.dataset.normalise(torch.zeros(1, 3, 1, 1, device=device))
    high = task.dataset.normalise(torch.ones(1, 3, 1, 1, device=device))
    counts = [min(count, method.real_batch) for count in task.info.train_counts]
    images = initial_images(method, task, unit).to(device, copy=True)
    velocity = torch.zeros_like(images)
    start, seconds = _resume(task, images, velocity)
    images.requires_grad_(True)
    losses: list[Tensor] = []
    # With BatchNorm one attempt is all there is.
    most = 1 if batch_norms(fresh_network(method, task, start)) else classes_together(task)
    fitting = OOMBatcher("classes")

    def sound(step: int) -> dict[str, Tensor]:
        tensors = {"images": images.detach(), "velocity": velocity}
        require_finite(f"{method.name}, after step {step}", tensors, "; a lower method.learning_rate may help")
        return tensors

    clock = time.perf_counter()
    with closing(prefetched(real_batches(method, task, start), device)) as loaded:
        for step, pixels in enumerate(loaded, start):
            real = torch.split(task.dataset.normalise(to_device(pixels, device)), counts)

            def attempt(together: int, step: int = step, real: Sequence[Tensor] = real) -> Tensor:
                images.grad = None
                return match(method, task, step, real, torch.split(images, task.ipc), distance, together)

            losses.append(fitting(attempt, most))
            with torch.no_grad():
                assert images.grad is not None
                velocity.mul_(method.momentum).add_(images.grad)
                images.sub_(method.learning_rate * velocity)
                images.copy_(torch.maximum(torch.minimum(images, high), low))
            task.tick()
            done = step + 1
            reports = done % REPORT_EVERY == 0 or done == method.steps
            saves = (done % task.checkpoint_every == 0 or interruption.requested()) and done < method.steps
            if reports or saves:
                _check(losses, done)
            if reports:
                task.report(done, method.steps, loss=float(losses[-1]))
            if saves:
                task.checkpoint.save(sound(done), {"step": done, "seconds": seconds + time.perf_counter() - clock})
                interruption.raise_if_requested()
    sound(method.steps)
    task.timing.update(steps=method.steps, seconds=seconds + time.perf_counter() - clock)
    return denormalise(images.detach(), task.dataset.mean.to(device), task.dataset.std.to(device)).clamp(0, 1)


def _check(losses: list[Tensor], done: int) -> None:
    """Looks at the losses of the steps up to `done` and forgets all but the last; one wait for the device."""
    wrong = (~torch.stack(losses).isfinite()).nonzero()
    if len(wrong):
        step = done - len(losses) + 1 + int(wrong[0])
        raise DDBenchError(f"the loss is not finite at step {step}; a lower method.learning_rate or fp32 may help")
    del losses[:-1]


def _resume(task: DistillTask, images: Tensor, velocity: Tensor) -> tuple[int, float]:
    found = task.checkpoint.load()
    if found is None:
        return 0, 0.0
    tensors, meta = found
    images.copy_(tensors["images"])
    velocity.copy_(tensors["velocity"])
    return int(meta["step"]), float(meta["seconds"])
