"""Projected gradient ascent in an L-infinity ball around images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ddbench.api.measure import MeasureTask
from ddbench.measures.predictions import evaluation_batches
from ddbench.nn.memory import in_parts


def perturb(
    network: Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    start: Tensor,
    epsilon: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """Maximises the cross-entropy over the pixels, by signed steps that are projected onto the ball and [0, 1].

    Args:
        network: Returns the logits [B, K] of pixels in [0, 1]. Each row depends on its own image only.
        pixels: The images, float in [0, 1], [B, 3, H, W].
        labels: int64 [B].
        start: The first perturbation divided by epsilon, in [-1, 1], [B, 3, H, W].
        epsilon: Radius of the ball.
        steps: Number of steps.
        step_size: Length of a step.

    Returns:
        The images, within `epsilon` of `pixels` and in [0, 1].

    Source:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, section 2.1.
    """
    lowest, highest = (pixels - epsilon).clamp(0, 1), (pixels + epsilon).clamp(0, 1)
    attacked = (pixels + epsilon * start).clamp(lowest, highest)
    for _ in range(steps):
        attacked.requires_grad_(True)
        loss = functional.cross_entropy(network(attacked), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        attacked = (attacked.detach() + step_size * gradient.sign()).clamp(lowest, highest)
    return attacked


def robust_accuracy(task: MeasureTask, epsilon: float, steps: int, step_size: float) -> tuple[float, float]:
    """Measures the student with and without the attack, in float32.

    Args:
        task: The task.
        epsilon: Radius of the ball, for pixels in [0, 1].
        steps: Number of steps.
        step_size: Length of a step.

    Returns:
        The top-1 without the attack, and the top-1 of the images that are classified correctly before and after it.
    """
    generator = task.generator("start")
    before: list[Tensor] = []
    after: list[Tensor] = []

    def network(pixels: Tensor) -> Tensor:
        logits: Tensor = task.student(task.dataset.normalise(pixels))
        return logits

    def is_correct(pixels: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return network(pixels).argmax(1) == labels

    for images, labels in evaluation_batches(task):
        pixels = (images.float() / 255).to(task.device)
        start = (2 * torch.rand(pixels.shape, generator=generator) - 1).to(task.device)
        targets = labels.to(task.device)

        def attack(rows: Tensor) -> list[Tensor]:
            own, target = pixels[rows], targets[rows]  # noqa: B023 (called in this iteration)
            attacked = perturb(network, own, target, start[rows], epsilon, steps, step_size)  # noqa: B023
            correct = is_correct(own, target)
            return [correct, correct & is_correct(attacked, target)]

        correct, robust = in_parts(attack, "images")(torch.arange(len(labels), device=task.device))
        before.append(correct.cpu())
        after.append(robust.cpu())
    clean, attacked = (100 * float(torch.cat(parts).double().mean()) for parts in (before, after))
    return clean, attacked
