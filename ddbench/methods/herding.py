"""Herding: real images whose mean feature approximates the mean of the class. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Herding(Selection, frozen=True, extra="forbid"):
    """Selects images greedily: each one brings the mean feature of the selected images closest to the class mean."""

    name = "herding"
    version = "1"
    paper = "Welling, Herding Dynamical Weights to Learn, ICML 2009; as a selection: iCaRL (Rebuffi et al., CVPR 2017)"
    summary = (
        "Selects real images one after another: each one brings the mean of the selected features closest to the mean "
        "feature of the class."
    )
    departures = (
        "Each image is selected at most once; Welling draws with replacement. The features are those of the teacher "
        "and are not scaled to unit length, as iCaRL scales them."
    )
    cost = "none; the features of the real images are the stage `statistics`, which methods share: images / 3"

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Selects images greedily by the distance of the mean of the selected features to the class mean.

        Step k selects the row i, not yet selected, that minimises ||mu - (f_i + sum of the selected rows) / k||. The
        class mean mu is 0 here. Of equal rows the first is selected. Rows are selected without replacement and features
        are not normalised, as the authors of DC (Zhao et al., ICLR 2021) describe their baseline; Welling draws with
        replacement, and iCaRL normalises features to unit length. The selection is deterministic, and a larger `count`
        only appends rows.

        Args:
            features: The features of the class's images, float64 [n, d] with mean 0.
            count: The number of images to select, at most n.
            generator: Not used.

        Returns:
            Distinct row indices of `features`, int64 [count].

        Example:
            >>> import torch
            >>> features = torch.tensor([[-3.0], [1.0], [2.0]], dtype=torch.float64)
            >>> Herding().choose(features, 2, torch.Generator()).tolist()
            [1, 0]
        """
        import torch

        squared_norms = features.square().sum(1)
        total = torch.zeros_like(features[0])
        selected: list[int] = []
        for _ in range(count):
            # ||f_i + total||^2 minus ||total||^2, which does not depend on i
            costs = squared_norms + 2 * (features @ total)
            costs[selected] = torch.inf
            selected.append(int(costs.argmin()))
            total += features[selected[-1]]
        return torch.tensor(selected)
