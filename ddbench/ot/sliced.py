"""The sliced Wasserstein-2 distance, and barycenters of one class under it.

Notation as in `ddbench.ot.exact`. A direction is a unit vector; along one direction, optimal transport is sorting.
Arithmetic is float64 on the device of the features. Directions are drawn and orthonormalised on the CPU.
"""

import torch
from torch import Generator, Tensor

from ddbench.ot.barycenters import Start, barycenter_paper
from ddbench.ot.points import Barycenter, checked_weights


def random_directions(d: int, count: int, generator: Generator) -> Tensor:
    """Draws random unit vectors that are orthogonal in groups of d.

    Each vector is uniform on the sphere. The vectors of a group form a basis, so one step along all of them reaches a
    target exactly. Independent directions are not orthogonal, so their step adds a random error in all d dimensions.
    Rowland et al. 2019 use the same coupling to estimate sliced distances.

    Args:
        d: Dimension of the vectors.
        count: Number of vectors.
        generator: Source of the random draws.

    Returns:
        Unit vectors [count, d], float64 on the CPU.

    Example:
        >>> directions = random_directions(2, 3, torch.Generator().manual_seed(0))
        >>> directions.shape, torch.allclose(directions[:2] @ directions[:2].T, torch.eye(2, dtype=torch.float64))
        (torch.Size([3, 2]), True)
    """
    groups = []
    for left in range(count, 0, -d):
        basis, triangle = torch.linalg.qr(torch.randn(d, min(left, d), generator=generator, dtype=torch.float64))
        # The basis is uniform only with the signs of the diagonal of the triangular factor (Mezzadri 2007).
        groups.append((basis * triangle.diagonal().sign()).T)
    return torch.cat(groups)


def sliced_cost(
    points: Tensor, weights: Tensor, features: Tensor, projections: Tensor, feature_weights: Tensor | None = None
) -> float:
    """Computes the sliced W_2^2: the mean over directions of the exact one-dimensional W_2^2.

    Along each direction both quantile functions are step functions, and the cost is summed over the steps of both, so
    it is exact for any weights.

    Args:
        points: Points B [m, d].
        weights: Masses w [m] of the points: at least 0, sum 1 within 1e-4 (then rescaled to sum 1).
        features: Features Z [n, d].
        projections: Unit vectors [L, d] (`random_directions`).
        feature_weights: Masses [n] of the features, as `weights`; None: 1/n each.

    Returns:
        The cost, in squared units of the features.

    Raises:
        DDBenchError: Weights are negative, do not sum to 1, or do not match the number of points or features.

    Example:
        >>> points, features = torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [9.0]])
        >>> sliced_cost(points, torch.tensor([0.5, 0.5]), features, torch.ones(1, 1))
        1.0
    """
    z, directions = features.detach().double(), projections.to(features.device, torch.float64)
    masses = z.new_full((len(z),), 1 / len(z)) if feature_weights is None else feature_weights
    # Shift both sides equally: the cost does not change, and cancellation with a common offset is avoided.
    sides = []
    for values, mass in ((points, weights), (features, masses)):
        along, order = (directions @ (values.detach().to(z) - z.mean(0)).T).sort(dim=1)
        sides.append((along, checked_weights(mass.to(z), len(values))[order].cumsum(1)))
    (b, b_edges), (a, a_edges) = sides
    edges = torch.cat([b_edges, a_edges], 1).sort(dim=1).values
    widths = edges.diff(dim=1, prepend=torch.zeros_like(edges[:, :1]))
    gaps = _quantiles(b, b_edges, edges) - _quantiles(a, a_edges, edges)
    return float((widths * gaps.square()).sum(1).mean())


def barycenter_sliced(
    features: Tensor,
    m: int,
    generator: Generator,
    projections: int = 512,
    iterations: int = 100,
    start: Start = "kmeans++",
) -> Barycenter:
    """Computes the barycenter of one class under the sliced W_2^2, with uniform weights.

    Each round draws L = `projections` new directions (`random_directions`). Along each direction the optimal map sends
    the j-th point in sorted order to the mean of the j-th of m equal blocks of the sorted features. A point moves by
    the sum over directions of displacement times direction, times min(1, d / L) and 1 / sqrt(round). For L = d the
    first round is the fixed-point step of Bonneel et al. 2015 (d times the mean displacement) and reaches all targets
    at once on an orthonormal basis. The decreasing steps average out the noise of the directions (stochastic
    approximation, Robbins and Monro).

    The paper (section 5.6) reports the accuracy of this barycenter and gives no details: directions, rounds, steps,
    initial points and uniform weights are our choice.

    Args:
        features: Features Z [n, d] of one class, finite.
        m: Number of points, the images per class; at most n unless `start` is "normal".
        generator: Source of the random initial points and directions.
        projections: Number of directions L per round.
        iterations: Number of rounds.
        start: Initial points; see `barycenter_paper`.

    Returns:
        The barycenter with weights 1/m, in the dtype and on the device of the features.

    Raises:
        DDBenchError: Features are not finite, or `m` is more than n.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> result = barycenter_sliced(features, 2, torch.Generator().manual_seed(0), projections=1, iterations=1)
        >>> result.points.sort(0).values.flatten().tolist(), result.weights.tolist()
        ([0.5, 10.5], [0.5, 0.5])
    """
    # With iterations=0, barycenter_paper only checks its input and returns the initial points.
    points = barycenter_paper(features.double(), m, generator, iterations=0, start=start).points
    centre = features.double().mean(0)
    z, points = features.double() - centre, points - centre
    blocks = _blocks(m, len(z)).to(z)
    for round_number in range(1, iterations + 1):
        directions = random_directions(z.shape[1], projections, generator).to(z.device)
        targets = (directions @ z.T).sort(dim=1).values @ blocks.T
        along = directions @ points.T
        ranks = along.argsort(dim=1, stable=True).argsort(dim=1)
        move = (targets.gather(1, ranks) - along).T @ directions
        points = points + round_number**-0.5 * min(1.0, z.shape[1] / projections) * move
    return Barycenter((points + centre).to(features), features.new_full((m,), 1 / m))


def _quantiles(values: Tensor, edges: Tensor, levels: Tensor) -> Tensor:
    """Evaluates the quantile functions with steps `values` [L, m] that end at `edges` [L, m], at `levels` [L, q]."""
    steps = torch.searchsorted(edges, levels).clamp_max(values.shape[1] - 1)
    return values.gather(1, steps)


def _blocks(m: int, n: int) -> Tensor:
    """Returns the matrix [m, n] that averages m equal blocks of n sorted values; blocks share a value at their edge."""
    ends = [torch.arange(count + 1, dtype=torch.float64) / count for count in (m, n)]
    upper = torch.minimum(ends[0][1:, None], ends[1][None, 1:])
    lower = torch.maximum(ends[0][:-1, None], ends[1][None, :-1])
    overlap = (upper - lower).clamp_min(0)
    return overlap / overlap.sum(1, keepdim=True)
