"""Optimal transport numerics: exact plans and costs, and Wasserstein-2 barycenters of one class's features.

Everywhere Z [n, d] are the real features of one class (mass 1/n each), B [m, d] the barycenter's points and w
[m] their weights on the simplex, m = images per class. Arithmetic is float64, but for Lloyd's; a barycenter
comes back in the dtype and on the device of the features that it was given. Plans are exact (POT's network simplex)
and computed on the CPU.
"""

import numpy as np
import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.ot.points import float64_on_cpu

# Far above what a class takes: POT's own bound (1e5) may stop short of the optimum with just a warning.
_MAX_PIVOTS = 10_000_000


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2 [..., m, n] of `a` [..., m, d] and `b` [..., n, d], without an m x n x d temporary.

    Never negative. Expanded as |a|^2 + |b|^2 - 2ab: in float32 distances far below the norms lose digits.
    """
    # vector_norm needs no temporary of the features' size; with one this would cost more than the product.
    norms_a: Tensor = torch.linalg.vector_norm(a, dim=-1).square()
    norms_b: Tensor = torch.linalg.vector_norm(b, dim=-1).square()
    return (norms_a.unsqueeze(-1) + norms_b.unsqueeze(-2) - 2 * (a @ b.transpose(-1, -2))).clamp_min(0)


def nearest_shares(points: Tensor, features: Tensor) -> Tensor:
    """Weights [..., m]: the share of `features` [..., n, d] that each of `points` [..., m, d] is nearest to.

    For fixed points these weights minimise the transport cost: every feature travels to its nearest point.
    Ties go to the first point; a point that is nearest to nothing has weight 0.
    """
    nearest = squared_distances(points.double(), features.double()).argmin(-2)
    members = torch.nn.functional.one_hot(nearest, points.shape[-2])
    return members.double().mean(-2).to(points.dtype)


def transport_plan(points: Tensor, weights: Tensor, features: Tensor) -> tuple[Tensor, Tensor, float]:
    """The exact plan between weighted `points` ([m, d], [m]) and `features` [n, d] (1/n each), in float64.

    Returns the plan [n, m] (rows sum to 1/n, columns to the weights), the dual of the weights beta [m] and
    the cost W_2^2 (paper: Eq. 27-31). beta is a subgradient of the cost in the weights, centred to mean 0:
    the cost lives on the simplex, where a constant in beta means nothing. For a point without mass it is the
    largest feasible value: the rate at which the cost changes when the point is given mass. Raises
    DDBenchError on values that are not finite, shapes that do not fit, and weights that are negative or do
    not sum to 1 (within 1e-4; then rescaled).
    """
    z, b = float64_on_cpu(features, "features"), float64_on_cpu(points, "points")
    if z.shape[1] != b.shape[1]:
        raise DDBenchError(f"points have {b.shape[1]} dimensions, features {z.shape[1]}")
    w = weights.detach().to("cpu", torch.float64)
    if w.shape != b.shape[:1] or not (bool((w >= 0).all()) and abs(float(w.sum()) - 1) < 1e-4):
        raise DDBenchError(
            f"transport needs {len(b)} weights that are at least 0 and sum to 1, "
            f"got {w.numel()} that sum to {float(w.sum()):g}"
        )

    import ot  # here, because POT takes seconds to import, which a run from the cache need not wait for

    # Centring both changes no distance but saves the digits that a large common offset would cost.
    costs = squared_distances(b - z.mean(0), z - z.mean(0))
    # POT leaves the dual of a massless point arbitrary: solve without these points, then extend the dual.
    massive = w > 0
    plan = torch.zeros_like(costs)
    uniform = np.full(len(z), 1 / len(z))
    solved, log = ot.emd(
        (w[massive] / w.sum()).numpy(), uniform, costs[massive].numpy(), numItermax=_MAX_PIVOTS, log=True
    )
    if log["warning"] is not None:
        raise DDBenchError(f"optimal transport of {len(z)} features to {len(b)} points failed: {log['warning']}")
    plan[massive] = torch.from_numpy(solved)
    alpha = (costs[massive] - torch.from_numpy(log["u"]).unsqueeze(1)).amin(0)
    beta = (costs - alpha).amin(1)
    return plan.T, beta - beta.mean(), float((plan * costs).sum())


def transport_cost(points: Tensor, weights: Tensor, features: Tensor) -> float:
    """The exact W_2^2 between the weighted `points` ([m, d], [m]) and `features` [n, d].

    Raises DDBenchError as `transport_plan` does.
    """
    return transport_plan(points, weights, features)[2]
