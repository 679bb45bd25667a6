"""k-means: the real images nearest to the centroids of the class's features. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor


class KMeans(Selection, frozen=True, extra="forbid"):
    """Selects the real image nearest to each of IPC k-means centroids of the class's features, with uniform weights."""

    name = "kmeans"
    version = "1"
    paper = "baseline: Lloyd, Least Squares Quantization in PCM, 1982; k-means++ (Arthur and Vassilvitskii, 2007)"
    summary = (
        "Computes IPC k-means centroids of the teacher's features of a class, and takes the real image nearest to each "
        "centroid."
    )
    departures = (
        "A baseline of ddbench; no paper defines it. The sizes of the clusters are not used as weights of the images."
    )
    cost = "none; the features of the real images are the stage `statistics`, which methods share: images / 3"

    def numerics(self) -> tuple[str, ...]:
        """Returns the name of the k-means solver's version, `LLOYD`."""
        return ("LLOYD",)

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Selects one image for each centroid of `ddbench.ot.barycenter_lloyd`, in the order of the centroids.

        The pair of a centroid and an image with the smallest distance is matched first, then the next among the
        remaining ones. An image is used once, so a centroid may get its second nearest image. The sizes of the clusters
        are not used: the weights are uniform as for every set of real images.

        Args:
            features: The features of the class's images, float64 [n, d] with mean 0.
            count: The number of images to select, at most n.
            generator: Draws the initial centroids.

        Returns:
            Distinct row indices of `features`, int64 [count].

        Example:
            >>> import torch
            >>> features = torch.tensor([[-3.0], [-2.0], [-1.0], [1.0], [5.0]], dtype=torch.float64)
            >>> rows = KMeans().choose(features, 1, torch.Generator().manual_seed(0))
            >>> rows.tolist()
            [2]
        """
        import torch

        from ddbench.ot import exact, lloyd

        (centroids,) = lloyd.barycenter_lloyd([features], count, [generator])
        distances = exact.squared_distances(centroids.points, features)
        rows = torch.empty(count, dtype=torch.int64)
        for _ in range(count):
            centroid, row = divmod(int(distances.argmin()), len(features))
            rows[centroid] = row
            distances[centroid] = torch.inf
            distances[:, row] = torch.inf
        return rows
