"""Herding: real images whose mean feature follows the class's mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Herding(Selection, frozen=True, extra="forbid"):
    """Greedily the image that brings the mean feature of those chosen nearest to the class's mean feature."""

    name = "herding"
    version = "1"
    paper = "Welling, Herding Dynamical Weights to Learn, ICML 2009; as a selection: iCaRL (Rebuffi et al., CVPR 2017)"

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Step k takes the row i, not yet taken, of least ||mu - (f_i + sum of those taken) / k||; ties: the first.

        mu is the class's mean, here 0. Without replacement and without normalising the features, as the authors
        of DC (Zhao et al., ICLR 2021) describe their baseline; Welling draws with replacement, iCaRL's features
        have unit length. Nothing is drawn at random, and a larger count begins with the smaller one's rows.
        """
        import torch

        squared_norms = features.square().sum(1)
        total = torch.zeros_like(features[0])
        chosen: list[int] = []
        for _ in range(count):
            # ||f_i + total||^2 less ||total||^2, which is the same for all.
            costs = squared_norms + 2 * (features @ total)
            costs[chosen] = torch.inf
            chosen.append(int(costs.argmin()))
            total += features[chosen[-1]]
        return torch.tensor(chosen)
