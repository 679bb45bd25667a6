"""Expected calibration error."""

from __future__ import annotations

import torch
from torch import Tensor


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """Computes the expected calibration error.

    ECE = sum over bins b of |B_b| / n * |accuracy(B_b) - confidence(B_b)|. Bin b holds the images whose confidence, the
    largest probability, is in ((b - 1) / bins, b / bins].

    Args:
        probabilities: [n, K].
        labels: int64 [n].
        bins: Number of bins.

    Returns:
        The error, in [0, 1].

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
        >>> round(calibration_error(probabilities, torch.tensor([0, 1, 0, 1]), bins=2), 3)
        0.0
        >>> round(calibration_error(probabilities, torch.tensor([0, 1, 0, 1]), bins=5), 3)
        0.4
    """
    confidence, predicted = probabilities.double().max(1)
    gaps = (predicted == labels).double() - confidence
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    # |B_b| / n * |accuracy - confidence| is the absolute sum of the gaps of a bin, divided by n.
    return float(torch.zeros(bins, dtype=torch.float64).index_add(0, number, gaps).abs().sum() / len(labels))
