"""k-means: the real images nearest to the centroids of the class's features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor


class KMeans(Selection, frozen=True, extra="forbid"):
    """The real image nearest to each of IPC k-means centroids of the class's features; uniform weights."""

    name = "kmeans"
    version = "1"
    paper = "baseline: Lloyd, Least Squares Quantization in PCM, 1982; k-means++ (Arthur and Vassilvitskii, 2007)"

    def numerics(self) -> tuple[str, ...]:
        """k-means."""
        return ("LLOYD",)

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """For each centroid of `transport.barycenter_lloyd` a row of its own, in the order of the centroids.

        The nearest pair of a centroid and a row goes first, then the nearest of what is left: where a row is the
        nearest to two centroids, the farther one takes its next. The shares of the clusters are not used: these
        are the same weights as every other set of real images has.
        """
        import torch

        from ddbench.ot import exact, lloyd

        (centroids,) = lloyd.barycenter_lloyd([features], count, [generator])
        distances = exact.squared_distances(centroids.points, features)
        chosen = torch.empty(count, dtype=torch.int64)
        for _ in range(count):
            centroid, row = divmod(int(distances.argmin()), len(features))
            chosen[centroid] = row
            distances[centroid] = torch.inf
            distances[:, row] = torch.inf
        return chosen
