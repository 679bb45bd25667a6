"""Coverage and recall of real images by distilled ones, from distances to nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from ddbench.api.measure import MeasureTask
from ddbench.measures.predictions import set_features


def radii(points: Tensor, neighbours: int) -> Tensor:
    """Returns the distance of each point [n, d] to its k-th nearest other point [n]. Needs n > k."""
    # The nearest point is the point itself.
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(neighbours + 1).values


def coverage_of(real: Tensor, distilled: Tensor, neighbours: int) -> dict[str, float]:
    """Computes how well distilled points cover real points.

    nearest = mean over y of min over x of |x - y|; coverage = share of real x with a y in the ball B(x, r_k(x)); recall
    = share of real x in a ball B(y, r_k(y)). r_k is the distance to the k-th nearest other point of the same kind.

    Args:
        real: Features x, [n, d], n > k.
        distilled: Features y, [m, d].
        neighbours: k.

    Returns:
        `nearest`, `coverage` and, if m > k, `recall`.

    Source:
        coverage: Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020, equation 6.
        recall: Kynkäänniemi et al., Improved Precision and Recall Metric, NeurIPS 2019, equations 1 and 2.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        >>> coverage_of(real, torch.tensor([[0.5]]), neighbours=1)
        {'nearest': 0.5, 'coverage': 0.5}
    """
    real, distilled = real.double(), distilled.double()
    distances = torch.cdist(real, distilled, compute_mode="donot_use_mm_for_euclid_dist")
    values = {
        "nearest": distances.amin(0).mean(),
        "coverage": (distances.amin(1) <= radii(real, neighbours)).double().mean(),
    }
    if len(distilled) > neighbours:
        values["recall"] = (distances <= radii(distilled, neighbours)).any(1).double().mean()
    return {name: float(value) for name, value in values.items()}


def coverage_of_classes(task: MeasureTask, neighbours: int) -> dict[str, float]:
    """Returns `coverage_of` in the teacher's features, mean over classes; `recall` only if every class has it."""
    features, labels = set_features(task), task.distilled.labels
    of_classes = [
        coverage_of(task.statistics(label).features, features[labels == label], neighbours)
        for label in range(task.dataset.info.num_classes)
    ]
    names = [name for name in of_classes[0] if all(name in values for values in of_classes)]
    return {name: sum(values[name] for values in of_classes) / len(of_classes) for name in names}
