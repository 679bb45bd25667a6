"""The loop of DM: each step matches the embeddings of real and synthetic images, class by class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddbench.api import DDBenchError, Unit, interruption, require_finite, seeds
from ddbench.augment import augment, denormalise, draw_augmentation, enlarge_parts, tile_parts
from ddbench.losses import gaussian_mmd, mean_match, median_bandwidths
from ddbench.nn import OOMBatcher, autocast, batch_norms, build_network, final_classifier
from ddbench.training import prefetch, to_device

if TYPE_CHECKING:
    from ddbench.api import DistillTask
    from ddbench_dm import DM

Embed = Callable[[Tensor], Tensor]
"""Maps normalised images [B, 3, S, S] to embeddings [B, d]."""
Distance = Callable[[Tensor, Tensor, int], Tensor]
"""Maps the embeddings of the synthetic [m, d] and the real images [n, d] of a class, and its label, to a scalar."""

REPORT_EVERY = 25
PIXELS_PER_PASS = {"cpu": 2**16, "cuda": 2**20}
"""Pixels in one pass of the network. The number is small on a CPU, so that the feature maps fit into its caches."""


def mean_distance(synthetic: Tensor, real: Tensor, label: int) -> Tensor:
    """Computes the distance of DM: the squared distance of the mean embeddings."""
    return mean_match(synthetic, real)


def kernel_match(synthetic: Tensor, real: Tensor, multiples: Sequence[float]) -> Tensor:
    """Computes the squared MMD of embeddings under Gaussian kernels, scaled to the units of DM's loss.

    This is the biased estimate (V-statistic) of M3D with bandwidths s relative to the median distance of the real
    embeddings. Unlike in M3D, it is divided by the sum of 1 / s^2: for bandwidths much larger than the distances it
    equals the squared distance of the means, so DM's learning rate remains suitable.

    Args:
        synthetic: Embeddings of the synthetic images [m, d].
        real: Embeddings of the real images [n, d].
        multiples: The bandwidths in units of the median distance of the real embeddings.

    Returns:
        The squared MMD, a scalar.

    Raises:
        DDBenchError: If the median distance is 0.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0]])
        >>> round(float(kernel_match(real + 3, real, [100.0])), 1)
        9.0
    """
    bandwidths = median_bandwidths(real, multiples)
    return gaussian_mmd(synthetic, real, bandwidths) / bandwidths.double().pow(-2).sum()


def embedding(network: nn.Module) -> Embed:
    """Returns a function that computes the input of a network's final linear classifier.

    The network's parameters are frozen. BatchNorm uses the statistics of the batch; all other layers are in evaluation
    mode, so that the same network processes real and synthetic images. The released code uses training mode, which is
    the same for networks without dropout.

    Args:
        network: The network, changed in place.

    Returns:
        A function that returns embeddings [B, d] in float32 or float64.
    """
    network.requires_grad_(False).eval()
    for layer in batch_norms(network).values():
        layer.train()
    classifier_inputs: list[Tensor] = []
    final_classifier(network)[1].register_forward_pre_hook(lambda _, inputs: classifier_inputs.append(inputs[0]))
    layout = memory_format(network)

    def embed(images: Tensor) -> Tensor:
        network(images.contiguous(memory_format=layout))
        features = classifier_inputs.pop().flatten(1)
        return features.to(torch.promote_types(features.dtype, torch.float32))

    return embed


def memory_format(network: nn.Module) -> torch.memory_format:
    """Returns the faster memory format for a network. Instance norm (ConvNets) copies channels-last tensors."""
    return torch.channels_last if batch_norms(network) else torch.contiguous_format


def fresh_network(method: DM, task: DistillTask, step: int) -> nn.Module:
    """Returns the randomly initialised network of one step on the device, seeded by (seed of the set, step)."""
    seed = seeds.derive("distill", task.seed, "network", step)
    network = build_network(method.network, task.info.num_classes, task.info.image_size, seed=seed)
    return network.to(task.device, memory_format=memory_format(network))  # type: ignore[call-overload,no-any-return]


class Networks:
    """The embedding networks of the steps: a new random one at each step.

    Args:
        method: The hyper-parameters.
        task: The task.

    Attributes:
        state: The tensors that a checkpoint keeps.
    """

    def __init__(self, method: DM, task: DistillTask) -> None:
        self.method, self.task = method, task
        self.state: dict[str, Tensor] = {}

    def of_step(self, step: int) -> nn.Module:
        """Returns the network of a step on the device. The caller may change it."""
        return fresh_network(self.method, self.task, step)

    def train(self, step: int) -> None:
        """Trains networks after a step. Those of DM stay random."""


def real_batches(method: DM, task: DistillTask, start: int) -> Iterator[Tensor]:
    """Yields the real images of every step: `real_batch` images of each class, without replacement.

    The draws are seeded by (seed of the set, step, class).

    Args:
        method: The hyper-parameters.
        task: The task.
        start: The first step.

    Yields:
        The images of one step, sorted by class, uint8 [n, 3, S, S].
    """
    for step in range(start, method.steps):
        indices = [task.sample(label, method.real_batch, "real", step) for label in range(task.info.num_classes)]
        yield task.dataset.train.centre(torch.cat(indices), task.info.image_size)


def images_per_pass(task: DistillTask) -> int:
    """Returns the number of images in one pass of a network without BatchNorm."""
    return max(1, PIXELS_PER_PASS.get(task.device.type, 2**20) // task.info.image_size**2)


def classes_per_pass(method: DM, task: DistillTask) -> int:
    """Returns the number of classes whose synthetic images share a pass of a network without BatchNorm."""
    return min(task.info.num_classes, max(1, images_per_pass(task) // (task.ipc * method.decode_factor() ** 2)))


def match(
    method: DM,
    task: DistillTask,
    step: int,
    real: Sequence[Tensor],
    synthetic: Sequence[Tensor],
    distance: Distance,
    networks: Networks,
    max_classes: int,
) -> Tensor:
    """Computes the loss of one step and adds its gradient to the gradient of the synthetic images.

    As in DM, the real and the synthetic images of a class get the same augmentation, which is drawn for each class and
    seeded by (seed of the set, step, class). The network processes the classes in groups, and the real images without
    gradient in parts. With BatchNorm, whose statistics depend on the batch, it processes all images in one batch, as in
    DM.

    Args:
        method: The hyper-parameters.
        task: The task.
        step: The step.
        real: The normalised real images of each class [n, 3, S, S].
        synthetic: The normalised synthetic images of each class [IPC, 3, S, S].
        distance: The distance of the embeddings of one class.
        networks: The networks.
        max_classes: The number of classes in a group.

    Returns:
        The loss summed over classes, a detached scalar.

    Raises:
        DDBenchError: If `distance` raises an error. The message names the class.
    """
    network = networks.of_step(step)
    embed, classes = method.embedding(network), len(real)
    one_batch = bool(batch_norms(network))
    group_classes = classes if one_batch else max_classes
    part_images = sum(map(len, real)) if one_batch else images_per_pass(task)
    total = torch.zeros((), device=task.device)

    def augmented(class_images: Sequence[Tensor] | dict[int, Tensor], labels: range) -> Tensor:
        return torch.cat([_augmented(method, task, step, label, class_images[label]) for label in labels])

    def embed_real(labels: range) -> Tensor:
        size = len(labels) if one_batch else max(1, part_images // method.real_batch)
        groups = [labels[start : start + size] for start in range(0, len(labels), size)]
        parts = (part for group in groups for part in torch.split(augmented(real, group), part_images))
        return torch.cat([embed(part) for part in parts])

    factor = method.decode_factor()
    for first in range(0, classes, group_classes):
        labels = range(first, min(first + group_classes, classes))
        shown = {label: enlarge_parts(synthetic[label], factor) for label in labels} if factor > 1 else synthetic
        with autocast(task.device, task.precision):
            with torch.no_grad():
                embedded_real = embed_real(labels)
            embedded_synthetic = embed(augmented(shown, labels))
        parts = torch.split(embedded_synthetic, [len(shown[label]) for label in labels])
        real_parts = torch.split(embedded_real, [len(real[label]) for label in labels])
        losses = []
        for label, pair in zip(labels, zip(parts, real_parts, strict=True), strict=True):
            try:
                losses.append(distance(*pair, label))
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
    """Returns the initial images of a unit, normalised float32 [n, 3, S, S] on the CPU."""
    if method.initial == "noise":
        return task.noise(unit)
    factor = method.decode_factor()
    draws = [("initial",)] if factor == 1 else [("initial", part) for part in range(factor**2)]
    images = []
    for label in range(task.info.num_classes):
        indices = torch.stack([task.sample(label, task.ipc, *names) for names in draws], 1).flatten()
        images.append(tile_parts(task.dataset.evaluation_view("train", indices), factor))
    return torch.cat(images)


def distill(method: DM, task: DistillTask, unit: Unit, distance: Distance, networks: Networks | None = None) -> Tensor:
    """Optimises the images of the whole set with SGD with momentum at a constant rate.

    With `clamp`, unlike in the released code, pixels are clamped to the valid range after each step, so that the stored
    images are the optimised ones. All draws are seeded by (seed of the set, step, class), so that a resumed run gives
    the same bytes. If memory runs out, the network processes fewer classes at once, which does not change the numbers;
    with BatchNorm this is not possible. The real images of all classes of a step are in memory at once, on the host and
    on the device.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: A unit of all slots, sorted by class.
        distance: The distance of the embeddings of one class.
        networks: The networks; None: random ones.

    Returns:
        The images, float32 [n, 3, S, S], 0 for black and 1 for white; in [0, 1] with `clamp`.

    Raises:
        DDBenchError: If the loss, the pixels or their momentum are not finite. The message names the step; the last
            checkpoint is kept.
    """
    device = task.device
    low = task.dataset.normalise(torch.zeros(1, 3, 1, 1, device=device))
    high = task.dataset.normalise(torch.ones(1, 3, 1, 1, device=device))
    counts = [min(count, method.real_batch) for count in task.info.train_counts]
    images = initial_images(method, task, unit).to(device, copy=True)
    velocity = torch.zeros_like(images)
    networks = networks or Networks(method, task)
    start, seconds = _resume(task, {"images": images, "velocity": velocity, **networks.state})
    images.requires_grad_(True)
    losses: list[Tensor] = []
    # With BatchNorm, all images must pass in one batch, so a group cannot become smaller.
    max_classes = 1 if batch_norms(fresh_network(method, task, start)) else classes_per_pass(method, task)
    batcher = OOMBatcher("classes")

    def checked_state(step: int) -> dict[str, Tensor]:
        tensors = {"images": images.detach(), "velocity": velocity}
        require_finite(f"{method.name}, after step {step}", tensors, "; a lower method.learning_rate may help")
        return {**tensors, **networks.state}

    began = time.perf_counter()
    with closing(prefetch(real_batches(method, task, start), device)) as loaded:
        for step, pixels in enumerate(loaded, start):
            real = torch.split(task.dataset.normalise(to_device(pixels, device)), counts)

            def attempt(max_classes: int, step: int = step, real: Sequence[Tensor] = real) -> Tensor:
                images.grad = None
                return match(method, task, step, real, torch.split(images, task.ipc), distance, networks, max_classes)

            losses.append(batcher(attempt, max_classes))
            with torch.no_grad():
                assert images.grad is not None
                velocity.mul_(method.momentum).add_(images.grad)
                images.sub_(method.learning_rate * velocity)
                if method.clamp:
                    images.copy_(torch.maximum(torch.minimum(images, high), low))
            networks.train(step)
            task.tick()
            done = step + 1
            reports = done % REPORT_EVERY == 0 or done == method.steps
            saves = (done % task.checkpoint_every == 0 or interruption.requested()) and done < method.steps
            if reports or saves:
                _check(losses, done)
            if reports:
                task.report(done, method.steps, loss=float(losses[-1]))
            if saves:
                metadata = {"step": done, "seconds": seconds + time.perf_counter() - began}
                task.checkpoint.save(checked_state(done), metadata)
                interruption.raise_if_requested()
    checked_state(method.steps)
    task.timing.update(steps=method.steps, seconds=seconds + time.perf_counter() - began)
    result = denormalise(images.detach(), task.dataset.mean.to(device), task.dataset.std.to(device))
    return result.clamp(0, 1) if method.clamp else result


def _check(losses: list[Tensor], done: int) -> None:
    """Checks the losses of the last steps with one synchronisation of the device; keeps only the last loss.

    `done` is the number of finished steps.
    """
    bad_steps = (~torch.stack(losses).isfinite()).nonzero()
    if len(bad_steps):
        step = done - len(losses) + 1 + int(bad_steps[0])
        raise DDBenchError(f"the loss is not finite at step {step}; a lower method.learning_rate or fp32 may help")
    del losses[:-1]


def _resume(task: DistillTask, state: Mapping[str, Tensor]) -> tuple[int, float]:
    """Loads a checkpoint into the tensors. Returns the first step and the seconds so far."""
    saved = task.checkpoint.load()
    if saved is None:
        return 0, 0.0
    tensors, meta = saved
    for name, tensor in state.items():
        tensor.copy_(tensors[name])
    return int(meta["step"]), float(meta["seconds"])
