"""The sliced Wasserstein-2 distance: exact transport along directions, and barycenters of one class under its mean.

Words and shapes as in `transport`: features Z [n, d] of one class, points B [m, d] and their weights w [m]. A
direction is a unit vector; along one, optimal transport is sorting. Arithmetic is float64, on the device of the
features; directions are drawn and made orthonormal on the CPU. Numbers that move here move `versions.TRANSPORT`.
"""

import torch
from torch import Generator, Tensor

from ddbench.core.errors import DDBenchError
from ddbench.ot.barycenters import Start, barycenter_paper
from ddbench.ot.points import Barycenter


def random_directions(d: int, count: int, generator: Generator) -> Tensor:
    """Unit vectors [count, d] in float64, each uniform on the sphere, and orthogonal in groups of d.

    Orthogonal groups, because d of them are a whole basis: with independent directions a point is put together
    from d-dimensional noise (Rowland et al. 2019 use the same coupling to estimate sliced distances).
    """
    groups = []
    for left in range(count, 0, -d):
        basis, triangle = torch.linalg.qr(torch.randn(d, min(left, d), generator=generator, dtype=torch.float64))
        # Signs of the triangle's diagonal make the basis uniform (Mezzadri 2007).
        groups.append((basis * triangle.diagonal().sign()).T)
    return torch.cat(groups)


def sliced_cost(
    points: Tensor, weights: Tensor, features: Tensor, projections: Tensor, feature_weights: Tensor | None = None
) -> float:
    """Mean over `projections` [L, d] of the exact one-dimensional W_2^2 of weighted points and features.

    points [m, d] and weights [m], features [n, d] and feature_weights [n] (1/n each where None). The rows of
    `projections` are unit vectors (`random_directions`). Both quantile functions are steps: the cost is summed
    over the steps of both. Raises DDBenchError on weights that are negative or do not sum to 1 (within 1e-4;
    then rescaled).
    """
    z, directions = features.detach().double(), projections.to(features.device, torch.float64)
    masses = z.new_full((len(z),), 1 / len(z)) if feature_weights is None else feature_weights
    # The same shift on both sides moves no cost but saves the digits that a common offset would cost.
    sides = []
    for values, mass in ((points, weights), (features, masses)):
        along, order = (directions @ (values.detach().to(z) - z.mean(0)).T).sort(dim=1)
        sides.append((along, _simplex(mass.to(z))[order].cumsum(1)))
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
    """The barycenter of one class under the sliced W_2^2: m points, uniform weights.

    `features` [n, d]. A round draws L = `projections` fresh directions (`random_directions`). Along each, the
    optimal map sends the j-th point from the left to the mean of the j-th of m equal blocks of the sorted
    features. A point moves by the sum of these displacements times their directions, times min(1, d / L) and
    1 / sqrt(round). For L = d the first round is the fixed-point step of Bonneel et al. 2015 (d times the mean
    displacement) and, on an orthonormal basis, meets every target at once; the decreasing steps average the
    noise of the directions out (stochastic approximation, Robbins and Monro). The paper (section 5.6) reports
    this barycenter's accuracy and gives no details: directions, rounds, steps, start (see `barycenter_paper`)
    and uniform weights are chosen here.
    Raises DDBenchError on more points than features and on features that are not finite.
    """
    # No round of Algorithm 2 is its start, checked.
    points = barycenter_paper(features.double(), m, generator, iterations=0, start=start).points
    centre = features.double().mean(0)
    z, points = features.double() - centre, points - centre
    blocks = _blocks(m, len(z)).to(z)
    for number in range(1, iterations + 1):
        directions = random_directions(z.shape[1], projections, generator).to(z.device)
        targets = (directions @ z.T).sort(dim=1).values @ blocks.T
        along = directions @ points.T
        places = along.argsort(dim=1, stable=True).argsort(dim=1)
        move = (targets.gather(1, places) - along).T @ directions
        points = points + number**-0.5 * min(1.0, z.shape[1] / projections) * move
    return Barycenter((points + centre).to(features), features.new_full((m,), 1 / m))


def _simplex(weights: Tensor) -> Tensor:
    total = float(weights.sum())
    if not (bool((weights >= 0).all()) and abs(total - 1) < 1e-4):
        raise DDBenchError(f"transport needs weights that are at least 0 and sum to 1, got a sum of {total:g}")
    return weights / total


def _quantiles(values: Tensor, edges: Tensor, levels: Tensor) -> Tensor:
    """Quantile functions [L, q] at `levels` [L, q]: steps of sorted `values` [L, m] that end at `edges` [L, m]."""
    steps = torch.searchsorted(edges, levels).clamp_max(values.shape[1] - 1)
    return values.gather(1, steps)


def _blocks(m: int, n: int) -> Tensor:
    """Rows [m, n] that average m equal blocks of n sorted values, a value at an edge shared by its two blocks."""
    ends = [torch.arange(count + 1, dtype=torch.float64) / count for count in (m, n)]
    upper = torch.minimum(ends[0][1:, None], ends[1][None, 1:])
    lower = torch.maximum(ends[0][:-1, None], ends[1][None, :-1])
    overlap = (upper - lower).clamp_min(0)
    return overlap / overlap.sum(1, keepdim=True)
