"""k-center: selects real images such that every image of the class is close to one of them. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor


class KCenter(Selection, frozen=True, extra="forbid"):
    """Selects first the image nearest to the class mean, then greedily the image farthest from all selected ones."""

    name = "k-center"
    version = "1"
    paper = "Sener and Savarese, Active Learning for CNNs: A Core-Set Approach, ICLR 2018 (arXiv 1708.00489)"
    summary = (
        "Covers the features of a class with few images: greedily selects the image that is farthest from all selected "
        "ones."
    )
    departures = (
        "The mixed-integer program of the paper, which is robust to outliers, is left out: the greedy algorithm "
        "selects outliers. The first image is the one nearest to the class mean, because there are no labelled images "
        "to start from."
    )
    cost = "none; the features of the real images are the stage `statistics`, which methods share: images / 3"

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Selects images with the greedy 2-approximation of the k-center problem (Algorithm 1 of the paper).

        The largest distance of a row to its nearest selected row is at most twice the optimum, whatever the first row
        is. The paper starts from labelled images. Here the first row is the one nearest to the mean, as the authors of
        DC (Zhao et al., ICLR 2021) describe their baseline. Of equal rows the first is selected. The selection is
        deterministic, and a larger `count` only appends rows.

        Args:
            features: The features of the class's images, float64 [n, d] with mean 0.
            count: The number of images to select, at most n.
            generator: Not used.

        Returns:
            Distinct row indices of `features`, int64 [count].

        Example:
            >>> import torch
            >>> features = torch.tensor([[-3.0], [1.0], [2.0]], dtype=torch.float64)
            >>> KCenter().choose(features, 2, torch.Generator()).tolist()
            [1, 0]
        """
        import torch

        selected = [int(features.square().sum(1).argmin())]
        distances = torch.full_like(features[:, 0], torch.inf)
        while len(selected) < count:
            distances = torch.minimum(distances, (features - features[selected[-1]]).square().sum(1))
            # -1 is below every distance. So an image with the same feature as a selected one (distance 0) can still be
            # selected.
            distances[selected[-1]] = -1
            selected.append(int(distances.argmax()))
        return torch.tensor(selected)
