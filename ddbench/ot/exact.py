"""Exact optimal transport between the features of one class and a weighted point set.

Notation of this package: Z [n, d] are the real features of one class, with mass 1/n each; B [m, d] are the points of
a barycenter; w [m] are their weights on the simplex; m is the number of images per class. `transport_plan` solves in
float64 on the CPU with POT's network simplex.
"""

import numpy as np
import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.ot.points import checked_weights, float64_on_cpu

# At POT's default limit (1e5) the solver may stop before the optimum with only a warning. A class needs far fewer.
_MAX_PIVOTS = 10_000_000


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Computes the squared Euclidean distances between two sets of vectors.

    Uses the expansion |a|^2 + |b|^2 - 2ab, which needs no temporary of size m x n x d. In float32, distances far below
    the norms lose digits to cancellation; negative results are clamped to 0.

    Args:
        a: Vectors [..., m, d].
        b: Vectors [..., n, d], of the same dtype and on the same device.

    Returns:
        ||a_i - b_j||^2, [..., m, n], never negative.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
        tensor([[16.],
                [25.]])
    """
    # vector_norm needs no temporary of the size of the features. With one, the norms would take longer than the
    # product.
    norms_a: Tensor = torch.linalg.vector_norm(a, dim=-1).square()
    norms_b: Tensor = torch.linalg.vector_norm(b, dim=-1).square()
    return (norms_a.unsqueeze(-1) + norms_b.unsqueeze(-2) - 2 * (a @ b.transpose(-1, -2))).clamp_min(0)


def nearest_shares(points: Tensor, features: Tensor) -> Tensor:
    """Computes the fraction of the features for which each point is the nearest.

    For fixed points, these weights minimise the transport cost W_2^2 over all weights: every feature moves to its
    nearest point. Distances are computed in float64.

    Args:
        points: Points B [..., m, d].
        features: Features Z [..., n, d], on the same device.

    Returns:
        Weights [..., m] in the dtype of `points`; they sum to 1. A feature between two equally near points counts for
        the first. A point that is nearest to no feature has weight 0.

    Example:
        >>> nearest_shares(torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [2.0], [3.0], [9.0]]))
        tensor([0.7500, 0.2500])
    """
    nearest = squared_distances(points.double(), features.double()).argmin(-2)
    members = torch.nn.functional.one_hot(nearest, points.shape[-2])
    return members.double().mean(-2).to(points.dtype)


def transport_plan(points: Tensor, weights: Tensor, features: Tensor) -> tuple[Tensor, Tensor, float]:
    """Solves the exact transport problem between weighted points and the features of one class.

    Source: paper, Eq. 27-31. The paper does not normalise the dual. Here it is centred to mean 0: the weights
    are on the simplex, so a constant in the dual has no effect on them.

    Args:
        points: Points B [m, d], finite.
        weights: Masses w [m] of the points: at least 0, sum 1 within 1e-4 (then rescaled to sum 1).
        features: Features Z [n, d], finite, with mass 1/n each.

    Returns:
        A tuple of the plan T [n, m] (rows sum to 1/n, columns to the weights), the dual beta [m] of the weights, and
        the cost W_2^2. Both tensors are float64 on the CPU. beta is a subgradient of the cost with respect to the
        weights. For a point without mass, beta is the largest feasible value: the rate at which the cost changes when
        the point gains mass.

    Raises:
        DDBenchError: A value is not finite, shapes do not match, the weights are not on the simplex, or the solver
            does not reach the optimum.

    Example:
        >>> points, features = torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [9.0]])
        >>> plan, beta, cost = transport_plan(points, torch.tensor([0.5, 0.5]), features)
        >>> plan.tolist(), beta.tolist(), cost
        ([[0.5, 0.0], [0.0, 0.5]], [0.0, 0.0], 1.0)
    """
    z, b = float64_on_cpu(features, "features"), float64_on_cpu(points, "points")
    if z.shape[1] != b.shape[1]:
        raise DDBenchError(f"points have {b.shape[1]} dimensions, features {z.shape[1]}")
    w = checked_weights(weights.detach().to("cpu", torch.float64), len(b))

    import ot  # not at the top: POT takes seconds to import, and a cached run does not need it

    # Centre both sides: distances do not change, and cancellation with a large common offset is avoided.
    costs = squared_distances(b - z.mean(0), z - z.mean(0))
    # POT returns an arbitrary dual for points without mass: solve without these points, then extend the dual.
    has_mass = w > 0
    plan = torch.zeros_like(costs)
    uniform = np.full(len(z), 1 / len(z))
    solved, log = ot.emd(w[has_mass].numpy(), uniform, costs[has_mass].numpy(), numItermax=_MAX_PIVOTS, log=True)
    if log["warning"] is not None:
        raise DDBenchError(f"optimal transport of {len(z)} features to {len(b)} points failed: {log['warning']}")
    plan[has_mass] = torch.from_numpy(solved)
    alpha = (costs[has_mass] - torch.from_numpy(log["u"]).unsqueeze(1)).amin(0)
    beta = (costs - alpha).amin(1)
    return plan.T, beta - beta.mean(), float((plan * costs).sum())


def transport_cost(points: Tensor, weights: Tensor, features: Tensor) -> float:
    """Computes the exact cost W_2^2 between weighted points and the features of one class.

    Args:
        points: Points B [m, d], finite.
        weights: Masses w [m] of the points: at least 0, sum 1 within 1e-4 (then rescaled to sum 1).
        features: Features Z [n, d], finite, with mass 1/n each.

    Returns:
        The cost, in squared units of the features.

    Raises:
        DDBenchError: See `transport_plan`.

    Example:
        >>> transport_cost(torch.tensor([[0.0]]), torch.tensor([1.0]), torch.tensor([[1.0], [3.0]]))
        5.0
    """
    return transport_plan(points, weights, features)[2]
