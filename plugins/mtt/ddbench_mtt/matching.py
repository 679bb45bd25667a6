"""The loop of trajectory matching: images and a learning rate with which a student follows the paths of experts."""

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
from ddbench_mtt.gradient import Matched, Synthetic, match_trajectory

if TYPE_CHECKING:
    from ddbench.api import DistillTask
    from ddbench_mtt.base import TrajectoryMatching


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
    """The iterations of MTT. Images are normalised float32 [classes * IPC, 3, S, S], sorted by class; labels are fixed.

    Attributes:
        method: The hyper-parameters.
        task: The task.
    """

    method: TrajectoryMatching
    task: DistillTask

    def initial(self, unit: Unit) -> dict[str, Tensor]:
        """Returns the initial images: real images of each class, or noise that is seeded by slot."""
        task = self.task
        if self.method.initial == "noise":
            return {"images": task.noise(unit).to(task.device)}
        rows = torch.cat([task.sample(label, task.ipc, "initial") for label in range(task.info.num_classes)])
        return {"images": task.dataset.evaluation_view("train", rows).to(task.device)}

    def targets(self, rows: Tensor, synthetic: Synthetic) -> Tensor:
        """Returns the labels of synthetic images for the cross-entropy: classes [B], or probabilities [B, K].

        Args:
            rows: Positions in the set, int64 [B].
            synthetic: The synthetic data.
        """
        return rows // self.task.ipc

    @cached_property
    def network(self) -> nn.Module:
        """The student. Its parameters are replaced in every step."""
        info = self.task.info
        network = build_network(self.method.network, info.num_classes, info.image_size, seed=0)
        return network.to(self.task.device).train()

    def logits(self, parameters: Tensor, images: Tensor, seed: int) -> Tensor:
        """Computes the logits of the network.

        Args:
            parameters: The parameters, [P].
            images: The images, [B, 3, S, S].
            seed: Seeds dropout.
        """
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
            logits: Tensor = functional_call(self.network, replaced, (images,))
        return logits.to(parameters.dtype)

    def training_loss(self, step: Step, seed: int, parameters: Tensor, synthetic: Synthetic) -> Tensor:
        """Computes the student's loss on the images of one step: the mean cross-entropy with their labels.

        Args:
            step: The step.
            seed: Seeds dropout.
            parameters: The student's parameters, [P].
            synthetic: The synthetic data.
        """
        batch = synthetic["images"][step.rows]
        if step.augmentation is not None:
            batch = augment(batch, step.augmentation)
        return functional.cross_entropy(self.logits(parameters, batch, seed), self.targets(step.rows, synthetic))

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
        epochs among `start_epochs`, the target that after `target_epochs` more.
        """
        method, task = self.method, self.task
        rounds, place = divmod(iteration, method.experts)
        order = torch.randperm(method.experts, generator=task.generator("experts", rounds))
        epochs = method.start_epochs(iteration)
        epoch = epochs[int(torch.randint(len(epochs), (), generator=task.generator("start", iteration)))]
        names = (snapshot(epoch), snapshot(epoch + method.target_epochs))
        tensors = task.tensors("experts", int(order[place]), names)
        start, target = (tensors[name].to(task.device) for name in names)
        return start, target

    def match(self, iteration: int, synthetic: Synthetic, rate: Tensor) -> Matched:
        """Computes the loss of one iteration and its gradient.

        Args:
            iteration: The iteration, which seeds the draws.
            synthetic: The synthetic data.
            rate: The student's learning rate, a scalar.
        """
        start, target = self.segment(iteration)
        steps = self.steps(iteration, len(synthetic["images"]))
        seed = seeds.derive("distill", self.task.seed, "student draws", iteration)
        return match_trajectory(
            lambda number, parameters, data: self.training_loss(steps[number], seed + number, parameters, data),
            *(start, target, synthetic, rate),
            len(steps),
        )


def distill(matching: Matching, unit: Unit) -> UnitResult:
    """Optimises the synthetic data and the student's learning rate to match the trajectories of experts.

    Each iteration takes one step of SGD with momentum on the normalised pixels, on the labels if they are learned, and
    on the learning rate (MTT, Algorithm 1). Pixels are not bounded (released code). All draws are seeded by iteration,
    so that a resumed run gives the same bytes.

    Args:
        matching: The iterations of a method.
        unit: A unit of all slots, sorted by class.

    Returns:
        The images, normalised, the labels as logits if they are learned, and the learning rate.

    Raises:
        DDBenchError: The loss, its gradient or the pixels are not finite, or the rate is not positive. The message
            names the iteration and the settings to lower; the last checkpoint is kept.
    """
    method, task, updates = matching.method, matching.task, matching.method.updates()
    hint = diverged(method, *(update.setting for update in updates.values()), "student_steps")
    synthetic = matching.initial(unit)
    images = synthetic["images"]
    rate = torch.tensor(method.initial_rate, dtype=images.dtype, device=images.device)
    state = {**synthetic, "rate": rate}
    state |= {f"{name} momentum": torch.zeros_like(value) for name, value in state.items()}
    start, seconds, skipped = _resume(task, state)
    began = time.perf_counter()

    for iteration in range(start, method.iterations):
        done = iteration + 1
        matched = matching.match(iteration, synthetic, rate)
        loss = float(matched.loss)
        if method.accepts(loss):
            if not all(bool(value.isfinite().all()) for value in (matched.loss, *matched.gradients.values())):
                what = "the gradient of the loss is not finite" if math.isfinite(loss) else f"the loss is {loss}"
                raise DDBenchError(f"{method.name}: {what} in iteration {done}{hint}")
            for name, (setting, momentum) in updates.items():
                step = state[f"{name} momentum"].mul_(momentum).add_(matched.gradients[name])
                state[name].sub_(step, alpha=getattr(method, setting))
        else:
            skipped += 1
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
            meta = {"iteration": done, "seconds": seconds + time.perf_counter() - began, "skipped": skipped}
            task.checkpoint.save(state, meta)
        interruption.raise_if_requested()
    if skipped:
        task.note(f"{method.name}: {skipped} of {method.iterations} iterations are skipped, because of their loss")
    task.timing.update(steps=method.iterations, seconds=seconds + time.perf_counter() - began)
    return UnitResult(images, pixels="normalised", logits=synthetic.get("labels"), learning_rate=float(rate))


def diverged(method: TrajectoryMatching, *names: str) -> str:
    """Returns the end of the message about a diverged run: the settings to lower, with their values."""
    return "; it diverges: lower " + " or ".join(f"{name} ({getattr(method, name):g})" for name in names)


def _resume(task: DistillTask, state: dict[str, Tensor]) -> tuple[int, float, int]:
    """Loads a checkpoint into the state. Returns the first iteration, and the seconds and skipped iterations so far."""
    saved = task.checkpoint.load()
    if saved is None:
        return 0, 0.0, 0
    tensors, meta = saved
    for name, value in state.items():
        value.copy_(tensors[name])
    return int(meta["iteration"]), float(meta["seconds"]), int(meta["skipped"])
