"""The loop of MTT: images and a learning rate with which a student follows the trajectories of experts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddbench.api import DDBenchError, Unit, UnitResult, interruption, require_finite, seeds
from ddbench.augment import Augmentation, augment, batch_slices, draw_augmentation
from ddbench.nn import autocast, build_network
from ddbench_mtt.experts import snapshot
from ddbench_mtt.gradient import Matched, match_trajectory

if TYPE_CHECKING:
    from ddbench.api import DistillTask
    from ddbench_mtt import MTT


@dataclass(frozen=True)
class Step:
    """One training step of the student.

    Attributes:
        rows: Positions of its images in the set, int64 [B].
        augmentation: Their augmentation; None: none.
    """

    rows: Tensor
    augmentation: Augmentation | None


@dataclass(frozen=True)
class Matching:
    """The iterations of MTT. Images are normalised float32 [classes * IPC, 3, S, S], sorted by class.

    Attributes:
        method: The hyper-parameters.
        task: The task.
    """

    method: MTT
    task: DistillTask

    def initial(self, unit: Unit) -> Tensor:
        """Returns the initial images: real images of each class, or noise that is seeded by slot."""
        task = self.task
        if self.method.initial == "noise":
            return task.noise(unit).to(task.device)
        rows = torch.cat([task.sample(label, task.ipc, "initial") for label in range(task.info.num_classes)])
        return task.dataset.evaluation_view("train", rows).to(task.device)

    @cached_property
    def network(self) -> nn.Module:
        """The student. Its parameters are replaced in every step."""
        info = self.task.info
        network = build_network(self.method.network, info.num_classes, info.image_size, seed=0)
        return network.to(self.task.device).train()

    def training_loss(self, step: Step, seed: int, parameters: Tensor, images: Tensor) -> Tensor:
        """Computes the student's loss on the images of one step: the mean cross-entropy with their classes.

        Args:
            step: The step.
            seed: Seeds dropout.
            parameters: The student's parameters, [P].
            images: All synthetic images.
        """
        batch = images[step.rows]
        if step.augmentation is not None:
            batch = augment(batch, step.augmentation)
        own = list(self.network.named_parameters())
        pieces = torch.split(parameters, [value.numel() for _, value in own])
        replaced = {name: piece.view_as(value) for (name, value), piece in zip(own, pieces, strict=True)}
        device = self.task.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            sdpa_kernel(SDPBackend.MATH),  # the other attention kernels have no second derivative
            autocast(device, self.task.precision),
        ):
            torch.manual_seed(seed)
            logits = functional_call(self.network, replaced, (batch,))
        return functional.cross_entropy(logits.to(parameters.dtype), step.rows // self.task.ipc)

    def steps(self, iteration: int, count: int) -> list[Step]:
        """Draws the training steps of one iteration: epochs over the images in random order.

        One operation of siamese augmentation is drawn per step, with separate parameters for each image.

        Args:
            iteration: The iteration, which seeds the draws.
            count: The number of images.
        """
        method, task = self.method, self.task

        def batches() -> Iterator[Tensor]:
            for epoch in range(method.student_steps):
                order = torch.randperm(count, generator=task.generator("order", iteration, epoch))
                yield from (order[part].to(task.device) for part in batch_slices(count, method.batch_size or count))

        draws, strategy = task.generator("augmentation", iteration), method.strategy

        def view(rows: Tensor) -> Augmentation | None:
            if strategy is None:
                return None
            return draw_augmentation(strategy, task.info.image_size, draws, len(rows))

        return [Step(rows, view(rows)) for rows in islice(batches(), method.student_steps)]

    def segment(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Reads the start and the target of one iteration from the experts, and nothing else.

        The experts take turns, in a new random order in each round. The start is the snapshot after a random number of
        epochs below `max_start_epoch`, the target that after `target_epochs` more.
        """
        method, task = self.method, self.task
        rounds, place = divmod(iteration, method.experts)
        order = torch.randperm(method.experts, generator=task.generator("experts", rounds))
        epoch = int(torch.randint(method.max_start_epoch, (), generator=task.generator("start", iteration)))
        names = (snapshot(epoch), snapshot(epoch + method.target_epochs))
        tensors = task.tensors("experts", int(order[place]), names)
        start, target = (tensors[name].to(task.device) for name in names)
        return start, target

    def match(self, iteration: int, images: Tensor, rate: Tensor) -> Matched:
        """Computes the loss of one iteration and its gradient.

        Args:
            iteration: The iteration, which seeds the draws.
            images: The synthetic images.
            rate: The student's learning rate, a scalar.
        """
        start, target = self.segment(iteration)
        steps = self.steps(iteration, len(images))
        seed = seeds.derive("distill", self.task.seed, "student draws", iteration)
        return match_trajectory(
            lambda number, parameters, pixels: self.training_loss(steps[number], seed + number, parameters, pixels),
            *(start, target, images, rate),
            len(steps),
        )


def distill(method: MTT, task: DistillTask, unit: Unit) -> UnitResult:
    """Optimises the images and the student's learning rate to match the trajectories of experts (MTT, Algorithm 1).

    Each iteration takes one step of SGD with momentum on the normalised pixels, and one on the learning rate. Pixels
    are not bounded (released code). All draws are seeded by iteration, so that a resumed run gives the same bytes.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: A unit of all slots, sorted by class.

    Returns:
        The images, normalised, and the learning rate.

    Raises:
        DDBenchError: The loss, its gradient or the pixels are not finite, or the rate is not positive. The message
            names the iteration and the settings to lower; the last checkpoint is kept.
    """
    matching = Matching(method, task)
    hint = diverged(method, "learning_rate", "rate_learning_rate", "student_steps")
    images = matching.initial(unit)
    rate = torch.tensor(method.initial_rate, dtype=images.dtype, device=images.device)
    state = {"images": images, "rate": rate}
    state |= {f"{name} momentum": torch.zeros_like(value) for name, value in state.items()}
    start, seconds = _resume(task, state)
    began = time.perf_counter()

    for iteration in range(start, method.iterations):
        done = iteration + 1
        matched = matching.match(iteration, images, rate)
        loss = float(matched.loss)
        if not all(bool(value.isfinite().all()) for value in matched):
            what = "the gradient of the loss is not finite" if math.isfinite(loss) else f"the loss is {loss}"
            raise DDBenchError(f"{method.name}: {what} in iteration {done}{hint}")
        for name, gradient, size in (
            ("images", matched.images, method.learning_rate),
            ("rate", matched.rate, method.rate_learning_rate),
        ):
            state[name].sub_(state[f"{name} momentum"].mul_(method.momentum).add_(gradient), alpha=size)
        if not float(rate) > 0:
            raise DDBenchError(
                f"{method.name}: the student's learning rate is {float(rate):g} after iteration {done}"
                f"{diverged(method, 'rate_learning_rate', 'student_steps')}"
            )
        task.tick()
        task.report(done, method.iterations, loss=loss, rate=float(rate))
        stopped = interruption.requested()
        if stopped or done == method.iterations or done % task.checkpoint_every == 0:
            require_finite(f"{method.name}, after iteration {done}", state, hint)
        if stopped or (done < method.iterations and done % task.checkpoint_every == 0):
            task.checkpoint.save(state, {"iteration": done, "seconds": seconds + time.perf_counter() - began})
        interruption.raise_if_requested()
    task.timing.update(steps=method.iterations, seconds=seconds + time.perf_counter() - began)
    return UnitResult(images, pixels="normalised", learning_rate=float(rate))


def diverged(method: MTT, *names: str) -> str:
    """Returns the end of the message about a diverged run: the settings to lower, with their values."""
    return "; it diverges: lower " + " or ".join(f"{name} ({getattr(method, name):g})" for name in names)


def _resume(task: DistillTask, state: dict[str, Tensor]) -> tuple[int, float]:
    """Loads a checkpoint into the tensors of the state. Returns the first iteration and the seconds so far."""
    saved = task.checkpoint.load()
    if saved is None:
        return 0, 0.0
    tensors, meta = saved
    for name, value in state.items():
        value.copy_(tensors[name])
    return int(meta["iteration"]), float(meta["seconds"])
