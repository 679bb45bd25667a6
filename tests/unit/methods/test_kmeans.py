"""The medoids of k-means clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from ddbench.methods.kmeans import KMeans

if TYPE_CHECKING:
    from tests.unit.methods.conftest import Choose


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), clusters=st.integers(1, 5))
def test_kmeans_takes_the_medoid_of_each_cluster(choose: Choose, seed: int, clusters: int) -> None:
    draw = Generator().manual_seed(seed)
    centres = 100 * torch.eye(5, dtype=torch.float64)[:clusters]
    labels = torch.arange(clusters).repeat(7)[torch.randperm(7 * clusters, generator=draw)]
    features = centres[labels] + torch.randn(7 * clusters, 5, dtype=torch.float64, generator=draw)
    nearest = set()
    for cluster in range(clusters):
        rows = (labels == cluster).nonzero().squeeze(1).tolist()
        mean = features[rows].mean(0)
        nearest.add(min(rows, key=lambda row: float((features[row] - mean).norm())))
    assert set(choose(KMeans(), features - features.mean(0), clusters, seed)) == nearest


def test_a_row_that_two_centroids_are_nearest_to_goes_to_the_nearer_one(choose: Choose) -> None:
    # A wide cluster about 0, and three rows beside it whose middle one is the nearest row to both centroids.
    axes = 3 * torch.eye(6, dtype=torch.float64)
    wide = torch.cat([axes[1:5], -axes[1:5]])
    middle = torch.tensor([2.5, 0, 0, 0, 0, 0], dtype=torch.float64)
    beside = torch.stack([middle, 2 * middle + axes[5], 2 * middle - axes[5]])
    features = torch.cat([wide, beside])
    centroids = torch.stack([wide.mean(0), beside.mean(0)])
    assert torch.cdist(centroids, features).argmin(1).tolist() == [8, 8]
    chosen = set(choose(KMeans(), features - features.mean(0), 2))
    assert 8 in chosen
    assert (chosen - {8}) < set(range(8))
