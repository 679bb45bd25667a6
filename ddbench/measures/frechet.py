"""Fréchet distance between Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Computes the squared Fréchet distance between Gaussians with the mean and covariance of two samples.

    d^2 = |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2)), with unbiased covariances C.

    Args:
        first: [n, d].
        second: [m, d].

    Returns:
        The distance. Heusel et al. (NeurIPS 2017) call it FID for features of an Inception network.

    Source:
        Dowson and Landau, The Fréchet distance between multivariate normal distributions, 1982.

    Example:
        >>> points = torch.tensor([[0.0], [2.0], [4.0]])
        >>> round(frechet_distance(points, 2 * points + 1), 6)  # (2 - 5)^2 + (2 - 4)^2
        13.0
    """
    first, second = first.double(), second.double()
    covariances = [torch.cov(sample.T).reshape(sample.shape[1], -1) for sample in (first, second)]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return max(0.0, float(means + covariances[0].trace() + covariances[1].trace() - 2 * product))
