"""Optimal transport numerics: exact plans and costs, and Wasserstein-2 barycenters of one class's features.

Everywhere Z [n, d] are the real features of one class (mass 1/n each), B [m, d] the barycenter's points and w
[m] their weights on the simplex, m = images per class. Arithmetic is float64, but for Lloyd's; a barycenter
comes back in the dtype and on the device of the features that it was given. Plans are exact (POT's network simplex)
and computed on the CPU.
"""

from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from ddbench.ot.exact import squared_distances, transport_plan
from ddbench.ot.lloyd import kmeans_plus_plus
from ddbench.ot.points import Barycenter, check_count, float64_on_cpu

Start = Literal["kmeans++", "real", "normal"]


def project_simplex(v: Tensor) -> Tensor:
    """The nearest point of the probability simplex to `v` [..., m] (Euclidean; by sorting, batched)."""
    # A common shift does not move the projection; without it large equal entries would swallow the 1.
    shifted = v - v.amax(-1, keepdim=True)
    ordered = shifted.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    counts = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    support = (ordered * counts > excess).sum(-1, keepdim=True)
    return (shifted - excess.gather(-1, support - 1) / support).clamp_min(0)


def newton_step(points: Tensor, plan: Tensor, features: Tensor) -> Tensor:
    """The points [m, d] after one Newton step on <C, plan> with `plan` [n, m] fixed (paper: Eq. 35-38).

    The Hessian is twice the plan's own column sums, so each point goes to the mean of the features that it
    receives. A point that receives no mass stays where it is.
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
    """Algorithm 2 of the paper: projected subgradient steps on the weights, Newton steps on the points.

    `features` [n, d], `m` points, `iterations` K (paper: 10). The paper gives neither step size, start nor
    the normalisation of the dual; chosen here: beta centred to mean 0 (`transport_plan`) and Polyak's step
    eta (cost - best) / ||beta||^2, where `best` is the cost under the optimal weights for these points, which
    is known in closed form (`nearest_shares`). So `eta` (from 0, uniform weights, to below 2) is free of the
    features' scale, and the step shrinks as the weights become optimal. `start`: "kmeans++" (greedy, see
    `barycenter_lloyd`), "real" (distinct features drawn uniformly) or "normal" (standard normal, as
    released). Raises DDBenchError on more points than features for the first two, and on features that are
    not finite.
    """
    z = float64_on_cpu(features, "features")
    points = _started(z, m, generator, start)
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
    """The released code's barycenter: POT's free-support solver, fixed uniform weights, normal start.

    `features` [n, d], `m` points; at most `iterations` rounds (POT's default: 100; its default threshold
    1e-7). Raises DDBenchError on features that are not finite.
    """
    import ot

    z = float64_on_cpu(features, "features")
    weights = torch.full((m,), 1 / m, dtype=torch.float64)
    points = ot.lp.free_support_barycenter(
        [z.numpy()],
        [np.full(len(z), 1 / len(z))],
        _started(z, m, generator, "normal").numpy(),
        b=weights.numpy(),
        numItermax=iterations,
    )
    return Barycenter(torch.from_numpy(points).to(features), weights.to(features))


def _started(z: Tensor, m: int, generator: Generator, start: Start) -> Tensor:
    """The points [m, d] that a solver starts from; see `barycenter_paper`."""
    if start == "normal":
        return torch.randn(m, z.shape[1], generator=generator, dtype=torch.float64)
    check_count(m, len(z))
    if start == "real":
        return z[torch.randperm(len(z), generator=generator)[:m]]
    real = torch.ones(1, len(z), dtype=torch.bool)
    times = torch.empty(len(z), m, dtype=z.dtype).exponential_(generator=generator).T.unsqueeze(1)
    return z[kmeans_plus_plus((z - z.mean(0)).unsqueeze(0), real, times)[0]]
