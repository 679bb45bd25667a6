"""Barycenters of one class by exact transport: the paper's Algorithm 2 and the released code's solver.

Notation as in `ddbench.ot.exact`. Arithmetic is float64 on the CPU. A barycenter is returned in the dtype and on the
device of the features.
"""

from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from ddbench.ot.exact import squared_distances, transport_plan
from ddbench.ot.lloyd import kmeans_plus_plus
from ddbench.ot.points import Barycenter, check_count, float64_on_cpu

Start = Literal["kmeans++", "real", "normal"]
"""How a solver chooses its initial points; see `barycenter_paper`."""


def project_simplex(v: Tensor) -> Tensor:
    """Projects vectors onto the probability simplex (Euclidean projection, by sorting).

    `ot.utils.proj_simplex` of POT computes the same projection along axis 0. It is not used here: its results differ in
    the last bits, and it returns zeros for large equal entries, because the difference of such an entry and 1 is
    rounded to the entry.

    Args:
        v: Vectors [..., m], projected along the last dimension.

    Returns:
        The nearest points of the simplex [..., m]: at least 0, sum 1.

    Example:
        >>> project_simplex(torch.tensor([0.5, 1.5, -1.0]))
        tensor([0., 1., 0.])
        >>> project_simplex(torch.tensor([[0.25, 0.75], [3.0, 3.0]]))
        tensor([[0.2500, 0.7500],
                [0.5000, 0.5000]])
    """
    # A common shift does not change the projection. Without it, subtracting 1 from large equal entries would be lost in
    # rounding.
    shifted = v - v.amax(-1, keepdim=True)
    ordered = shifted.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    counts = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    support = (ordered * counts > excess).sum(-1, keepdim=True)
    return (shifted - excess.gather(-1, support - 1) / support).clamp_min(0)


def newton_step(points: Tensor, plan: Tensor, features: Tensor) -> Tensor:
    """Takes one Newton step on the transport cost <C, plan> in the points, with the plan fixed.

    Source: paper, Eq. 35-38. The Hessian is twice the column sums of the plan, so each point moves to the mean of the
    features that it receives. The paper does not treat a point that receives no mass; here it does not move.

    Args:
        points: Points B [m, d].
        plan: Transport plan T [n, m], in the dtype of the points.
        features: Features Z [n, d].

    Returns:
        The new points [m, d].

    Example:
        >>> plan = torch.tensor([[0.5, 0.0], [0.5, 0.0]])
        >>> newton_step(torch.tensor([[0.0], [7.0]]), plan, torch.tensor([[1.0], [3.0]]))
        tensor([[2.],
                [7.]])
    """
    mass = plan.sum(0).unsqueeze(1)
    half_gradient = mass * points - plan.T @ features
    return torch.where(mass > 0, points - half_gradient / mass.where(mass > 0, 1.0), points)


def barycenter_paper(
    features: Tensor,
    m: int,
    generator: Generator,
    iterations: int = 10,
    eta: float = 1.0,
    start: Start = "kmeans++",
) -> Barycenter:
    """Computes a barycenter with free weights by the paper's Algorithm 2.

    Alternates projected subgradient steps on the weights with Newton steps on the points (`newton_step`). The paper
    gives no step size, no initial points and no normalisation of the dual. Here beta is centred to mean 0
    (`transport_plan`) and the step is Polyak's, eta (cost - best) / ||beta||^2, where `best` is the cost under the
    optimal weights for the current points, known in closed form (`nearest_shares`). A suitable `eta` therefore does not
    depend on the scale of the features, and the step shrinks as the weights become optimal.

    Args:
        features: Features Z [n, d] of one class, finite.
        m: Number of points, the images per class.
        generator: Source of the random initial points.
        iterations: Rounds K (paper: 10); 0 returns the initial points.
        eta: Relative step on the weights, from 0 (weights stay uniform) to below 2.
        start: Initial points: "kmeans++" (greedy k-means++ centres, see `barycenter_lloyd`), "real" (distinct features
            drawn uniformly) or "normal" (standard normal, as in the released code).

    Returns:
        The barycenter, in the dtype and on the device of the features.

    Raises:
        DDBenchError: Features are not finite, or `m` is more than n ("kmeans++" and "real").

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [11.0]])
        >>> result = barycenter_paper(features, 2, torch.Generator().manual_seed(0))
        >>> result.points.sort(0).values.flatten().tolist()
        [1.0, 11.0]
        >>> result.weights.sort().values.tolist()
        [0.25, 0.75]
    """
    z = float64_on_cpu(features, "features")
    points = _starting_points(z, m, generator, start)
    weights = torch.full((m,), 1 / m, dtype=torch.float64)
    for _ in range(iterations):
        plan, beta, cost = transport_plan(points, weights, z)
        best = float(squared_distances(points, z).amin(0).mean())
        length = float(beta.square().sum())
        if cost > best and length > 0:
            weights = project_simplex(weights - eta * (cost - best) / length * beta)
        points = newton_step(points, plan, z)
    return Barycenter(points.to(features), weights.to(features))


def barycenter_released(features: Tensor, m: int, generator: Generator, iterations: int = 100) -> Barycenter:
    """Computes a barycenter with fixed uniform weights as the released code does.

    Source: released code. It calls POT's `free_support_barycenter` with standard normal initial points.

    Args:
        features: Features Z [n, d] of one class, finite.
        m: Number of points, the images per class.
        generator: Source of the random initial points.
        iterations: Largest number of rounds (default of POT: 100). POT stops earlier once the points move by less
            than its default threshold, 1e-7.

    Returns:
        The barycenter with weights 1/m, in the dtype and on the device of the features.

    Raises:
        DDBenchError: Features are not finite.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> result = barycenter_released(features, 2, torch.Generator().manual_seed(0))
        >>> result.points.sort(0).values.flatten().tolist(), result.weights.tolist()
        ([0.5, 10.5], [0.5, 0.5])
    """
    import ot

    z = float64_on_cpu(features, "features")
    weights = torch.full((m,), 1 / m, dtype=torch.float64)
    points = ot.lp.free_support_barycenter(
        [z.numpy()],
        [np.full(len(z), 1 / len(z))],
        _starting_points(z, m, generator, "normal").numpy(),
        b=weights.numpy(),
        numItermax=iterations,
    )
    return Barycenter(torch.from_numpy(points).to(features), weights.to(features))


def _starting_points(z: Tensor, m: int, generator: Generator, start: Start) -> Tensor:
    """Returns initial points [m, d] for the features `z` [n, d]; `barycenter_paper` describes the choices."""
    if start == "normal":
        return torch.randn(m, z.shape[1], generator=generator, dtype=torch.float64)
    check_count(m, len(z))
    if start == "real":
        return z[torch.randperm(len(z), generator=generator)[:m]]
    valid = torch.ones(1, len(z), dtype=torch.bool)
    times = torch.empty(len(z), m, dtype=z.dtype).exponential_(generator=generator).T.unsqueeze(1)
    return z[kmeans_plus_plus((z - z.mean(0)).unsqueeze(0), valid, times)[0]]
