"""k-center: real images such that no other image of the class is far from all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor


class KCenter(Selection, frozen=True, extra="forbid"):
    """Greedily the image whose feature is farthest from all that are chosen, from the one nearest to the mean."""

    name = "k-center"
    version = "1"
    paper = "Sener and Savarese, Active Learning for CNNs: A Core-Set Approach, ICLR 2018 (arXiv 1708.00489)"

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """The greedy 2-approximation of the k-center problem (Algorithm 1 of the paper); ties: the first.

        The largest distance of a row to its nearest chosen row is at most twice the least possible, whatever row
        comes first. The paper starts from labelled images; here there are none, and the first is the row nearest
        to the mean, as the authors of DC (Zhao et al., ICLR 2021) describe their baseline. Nothing is drawn at
        random, and a larger count begins with the smaller one's rows.
        """
        import torch

        chosen = [int(features.square().sum(1).argmin())]
        distances = torch.full_like(features[:, 0], torch.inf)
        while len(chosen) < count:
            distances = torch.minimum(distances, (features - features[chosen[-1]]).square().sum(1))
            # Below every distance, so that an image with the same feature as a chosen one can still be taken.
            distances[chosen[-1]] = -1
            chosen.append(int(distances.argmax()))
        return torch.tensor(chosen)
