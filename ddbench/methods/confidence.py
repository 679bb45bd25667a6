"""Confidence: real images drawn evenly over the teacher's confidence. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddbench.api.context import DistillTask


class Confidence(Selection, frozen=True, extra="forbid"):
    """Draws one image from each of IPC equal parts of a class, which is sorted by the teacher's confidence."""

    name = "confidence"
    version = "1"
    paper = "baseline: stratified random real images"
    summary = (
        "Sorts the images of a class by the teacher's probability of the class, divides them into IPC parts of equal "
        "size, and draws one image from each part."
    )
    departures = "A baseline of ddbench; no paper defines it."
    cost = "none; the probabilities take images / 3"

    share: float = Field(
        default=1.0, gt=0, le=1, description="the most confident share of a class that images are drawn from"
    )

    def describe(self, task: DistillTask, label: int) -> Tensor:
        """Returns the logarithm of the teacher's probability of the class for each image of it, float64 [n]."""
        from ddbench.training.teacher import class_confidence

        return class_confidence(task.teacher, task.dataset, label, task.device)

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Draws one image at random from each of `count` parts of the most confident images.

        Args:
            features: The teacher's confidence in the images of a class, float64 [n].
            count: The number of images to select, at most n.
            generator: Draws the images.

        Returns:
            Distinct rows of `features`, int64 [count], the most confident part first.

        Example:
            >>> import torch
            >>> confidences = torch.tensor([0.3, 0.9, 0.5, 0.7], dtype=torch.float64)
            >>> Confidence(share=0.5).choose(confidences, 2, torch.Generator()).tolist()
            [1, 3]
        """
        import torch

        ordered = features.argsort(descending=True, stable=True)
        ordered = ordered[: max(count, round(self.share * len(ordered)))]
        return torch.stack(
            [part[torch.randint(len(part), (), generator=generator)] for part in ordered.tensor_split(count)]
        )
