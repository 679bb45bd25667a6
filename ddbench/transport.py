"""Optimal transport numerics: exact plans and costs, and Wasserstein-2 barycenters of one class's features.

Everywhere Z [n, d] are the real features of one class (mass 1/n each), B [m, d] the barycenter's points and w
[m] their weights on the simplex, m = images per class. Arithmetic is float64, but for Lloyd's; a barycenter
comes back in the dtype and on the device of the features that it was given. Plans are exact (POT's network simplex)
and computed on the CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ddbench.errors import DDBenchError

Start = Literal["kmeans++", "real", "normal"]

# Far above what a class takes: POT's own bound (1e5) may stop short of the optimum with just a warning.
_MAX_PIVOTS = 10_000_000
# Elements of the padded classes that Lloyd holds at a time: half a GiB of float32.
_MAX_BATCH_ELEMENTS = 2**27
# Dimensions of the random projection that Lloyd starts in.
_SKETCH = 64
# Seeds of all its starts together: where points are few the end depends on the start, where they are many it averages.
_SEEDS = 40


@dataclass(frozen=True)
class Barycenter:
    """A weighted point set that stands for one class: `points` [m, d], `weights` [m] (at least 0, sum 1)."""

    points: Tensor
    weights: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2 [..., m, n] of `a` [..., m, d] and `b` [..., n, d], without an m x n x d temporary.

    Never negative. Expanded as |a|^2 + |b|^2 - 2ab: in float32 distances far below the norms lose digits.
    """
    # vector_norm needs no temporary of the features' size; with one this would cost more than the product.
    norms_a: Tensor = torch.linalg.vector_norm(a, dim=-1).square()
    norms_b: Tensor = torch.linalg.vector_norm(b, dim=-1).square()
    return (norms_a.unsqueeze(-1) + norms_b.unsqueeze(-2) - 2 * (a @ b.transpose(-1, -2))).clamp_min(0)


def project_simplex(v: Tensor) -> Tensor:
    """The nearest point of the probability simplex to `v` [..., m] (Euclidean; by sorting, batched)."""
    # A common shift does not move the projection; without it large equal entries would swallow the 1.
    shifted = v - v.amax(-1, keepdim=True)
    ordered = shifted.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    counts = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    support = (ordered * counts > excess).sum(-1, keepdim=True)
    return (shifted - excess.gather(-1, support - 1) / support).clamp_min(0)


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
    z, b = _float64_on_cpu(features, "features"), _float64_on_cpu(points, "points")
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
    z = _float64_on_cpu(features, "features")
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

    z = _float64_on_cpu(features, "features")
    weights = torch.full((m,), 1 / m, dtype=torch.float64)
    points = ot.lp.free_support_barycenter(
        [z.numpy()],
        [np.full(len(z), 1 / len(z))],
        _started(z, m, generator, "normal").numpy(),
        b=weights.numpy(),
        numItermax=iterations,
    )
    return Barycenter(torch.from_numpy(points).to(features), weights.to(features))


def barycenter_lloyd(
    features: Sequence[Tensor], m: int, generators: Sequence[Generator], iterations: int = 300
) -> list[Barycenter]:
    """Barycenters with free weights, by k-means, of many classes at once: the same problem in closed form.

    `features`: one [n_k, d] a class, on one device, with one of `generators` each, so that a class does not
    depend on the others. From greedy k-means++ seeds (Arthur and Vassilvitskii 2007), Lloyd steps until no
    feature changes its point, at most `iterations`: first in a random projection to 64 dimensions where there are
    more, from 40 / m starts (at least one), then the best of these in all dimensions. Arithmetic is in the type of
    the features. Weights are the shares of the nearest points. A point that is nearest to nothing moves to the
    feature farthest from its own point; where the distinct features are fewer than `m` it ends on a feature, with
    weight 0. The cost never rises from step to step. Raises DDBenchError on fewer features than `m` and on values
    that are not finite.
    """
    if len(features) != len(generators):
        raise DDBenchError(f"k-means needs one generator a class, got {len(generators)} for {len(features)} classes")
    for z in features:
        _check_count(m, len(z))
    largest = max((len(z) * (z.shape[1] + 2 * m) for z in features), default=1)
    size = max(1, _MAX_BATCH_ELEMENTS // largest)
    found: list[Barycenter] = []
    for first in range(0, len(features), size):
        batch = slice(first, first + size)
        found += _lloyd(features[batch], m, generators[batch], iterations)
    return found


def _lloyd(features: Sequence[Tensor], m: int, generators: Sequence[Generator], iterations: int) -> list[Barycenter]:
    """Lloyd of a batch of classes padded to one length: z [k, n, d] and real [k, n], false on the padding."""
    # Centring changes no distance but saves the digits that a large common offset would cost.
    means = [z.mean(0) for z in features]
    for mean in means:
        _check(mean.unsqueeze(0), "features")  # it carries every NaN and infinity
    z = pad_sequence([z - mean for z, mean in zip(features, means, strict=True)], batch_first=True)
    counts = torch.tensor([len(z) for z in features], device=z.device)
    real = torch.arange(z.shape[1], device=z.device) < counts.unsqueeze(1)

    coarse = _sketch(z, generators)
    nearest, cost = _start(z, coarse, real, m, generators, iterations)
    for _ in range(1, _SEEDS // m):
        others, other_cost = _start(z, coarse, real, m, generators, iterations)
        better = other_cost < cost
        nearest, cost = others.where(better.unsqueeze(1), nearest), torch.minimum(other_cost, cost)
    # A CPU is as fast with one class at a time, and does not wait for the slowest of them.
    parts = torch.split(torch.arange(len(z)), 1 if z.device.type == "cpu" else len(z))
    found = [_descend(z[part], real[part], nearest[part], m, iterations) for part in parts]
    points, nearest = (torch.cat(column) for column in zip(*found, strict=True))
    return [
        Barycenter(points[k] + means[k], torch.bincount(nearest[k, : len(mine)], minlength=m).to(mine) / len(mine))
        for k, mine in enumerate(features)
    ]


def _start(
    z: Tensor, coarse: Tensor, real: Tensor, m: int, generators: Sequence[Generator], iterations: int
) -> tuple[Tensor, Tensor]:
    """What each feature belongs to [k, n] after Lloyd of `coarse`, and what that costs in `z`, up to a constant [k]."""
    races = [
        # As exponential_ draws them, but in a third of the time.
        -torch.rand(m, int(count), generator=generator, dtype=z.dtype).log()
        for count, generator in zip(real.sum(1), generators, strict=True)
    ]
    times = torch.stack([nn.functional.pad(race, (0, real.shape[1] - race.shape[1])) for race in races], 1)
    nearest = _nearest(_rows(coarse, _plus_plus(coarse, real, times.to(z.device))), coarse)
    nearest = _descend(coarse, real, nearest, m, iterations)[1]
    sums, sizes = _sums(z, real, nearest, m)
    # Of a feature's squares, those about the mean are all but the mean's own.
    return nearest, -(sums.square().sum(-1, keepdim=True) / sizes.clamp_min(1)).sum((1, 2))


def _sketch(z: Tensor, generators: Sequence[Generator]) -> Tensor:
    """`z` [k, n, d] along random directions, [k, n, 64] (Johnson and Lindenstrauss 1984); itself where d is less."""
    d = z.shape[2]
    if d <= _SKETCH:
        return z
    directions = [torch.randn(d, _SKETCH, generator=generator) for generator in generators]
    return z @ torch.stack(directions).to(z)


def _descend(z: Tensor, real: Tensor, nearest: Tensor, m: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd steps from what each feature belongs to, `nearest` [k, n]: points [k, m, d], and `nearest` to them."""
    points = _means(z, real, nearest, m)
    for _ in range(iterations):
        before, nearest = nearest, _nearest(points, z)
        if torch.equal(nearest.where(real, 0), before.where(real, 0)):
            break
        points = _means(z, real, nearest, m)
    return points, nearest


def _means(z: Tensor, real: Tensor, nearest: Tensor, m: int) -> Tensor:
    """The points [k, m, d]: means of their features; one without any takes the place of the farthest feature."""
    sums, sizes = _sums(z, real, nearest, m)
    points, empty = sums / sizes.clamp_min(1), sizes == 0
    if bool(empty.any()):
        distances = (z - _rows(points, nearest)).square().sum(-1).where(real, -1.0)
        farthest = distances.argsort(dim=1, descending=True, stable=True)[:, :m]
        rank = (empty.squeeze(-1).long().cumsum(1) - 1).clamp_min(0)
        points = torch.where(empty, _rows(z, farthest.gather(1, rank)), points)
    return points


def _sums(z: Tensor, real: Tensor, nearest: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Sum [k, m, d] and number [k, m, 1] of the features that belong to each point."""
    k, n, d = z.shape
    rows = (nearest + m * torch.arange(k, device=z.device).unsqueeze(1)).where(real, k * m).flatten()
    sums = z.new_zeros(k * m + 1, d).index_add_(0, rows, z.reshape(k * n, d))
    sizes = torch.bincount(rows, minlength=k * m + 1)
    return sums[:-1].view(k, m, d), sizes[:-1].view(k, m, 1)


def _nearest(points: Tensor, z: Tensor) -> Tensor:
    """Index of the nearest point of each feature [k, n]; anything on the padding."""
    # The feature's own norm changes nothing; and min is faster than argmin.
    norms = points.square().sum(-1, keepdim=True)
    return torch.baddbmm(norms, points, z.transpose(1, 2), alpha=-2).min(1).indices


def _rows(z: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` [k, j] of `z` [k, n, d], class by class: [k, j, d]."""
    return z.gather(1, indices.unsqueeze(-1).expand(-1, -1, z.shape[-1]))


def _plus_plus(z: Tensor, real: Tensor, times: Tensor) -> Tensor:
    """Greedy k-means++ seeds, as indices [k, m]: of 2 + ln m features drawn, the one that lowers the cost most.

    Features are drawn with probability proportional to their squared distance to the seeds, by a race: of exponential
    `times` [m, k, n], divided by that distance, a feature's is least with just this probability. (A search in the
    cumulative sum would do as well, but that sum is not deterministic on CUDA.) Once every feature is covered the seed
    is the first feature.
    """
    m = len(times)
    norms = z.square().sum(-1)
    distances, bound = real.to(z.dtype), z.new_zeros(real.shape).masked_fill(real, torch.inf)
    trials = min(2 + int(math.log(m)), z.shape[1])
    seeds: list[Tensor] = []
    for j in range(m):
        arrival = (times[j] / distances).topk(trials if j else 1, dim=1, largest=False)
        reachable = arrival.values.isfinite()
        # Where fewer features are left than trials, the others repeat the first: never the padding.
        drawn = arrival.indices.where(reachable, arrival.indices[:, :1].where(reachable[:, :1], 0))
        reached = torch.baddbmm(norms.unsqueeze(1), _rows(z, drawn), z.transpose(1, 2), alpha=-2)
        reached += norms.gather(1, drawn).unsqueeze(2)
        # A seed must not be drawn again for the rounding that the expansion of its distance to itself leaves.
        reached.scatter_(2, drawn.unsqueeze(2), 0.0)
        torch.minimum(reached, bound.unsqueeze(1), out=reached).clamp_min_(0)
        best = reached.sum(2).argmin(1, keepdim=True)
        distances = bound = _rows(reached, best).squeeze(1)
        seeds.append(drawn.gather(1, best))
    return torch.cat(seeds, dim=1)


def _started(z: Tensor, m: int, generator: Generator, start: Start) -> Tensor:
    """The points [m, d] that a solver starts from; see `barycenter_paper`."""
    if start == "normal":
        return torch.randn(m, z.shape[1], generator=generator, dtype=torch.float64)
    _check_count(m, len(z))
    if start == "real":
        return z[torch.randperm(len(z), generator=generator)[:m]]
    real = torch.ones(1, len(z), dtype=torch.bool)
    times = torch.empty(len(z), m, dtype=z.dtype).exponential_(generator=generator).T.unsqueeze(1)
    return z[_plus_plus((z - z.mean(0)).unsqueeze(0), real, times)[0]]


def _check_count(m: int, n: int) -> None:
    if not 1 <= m <= n:
        raise DDBenchError(f"cannot place {m} barycenter points on a class of {n} features")


def _check(values: Tensor, what: str) -> None:
    # The extremes carry every NaN and infinity, and are found in one pass.
    if values.ndim != 2 or values.numel() == 0 or not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise DDBenchError(f"{what} must be a finite matrix with at least one row, got shape {tuple(values.shape)}")


def _float64_on_cpu(values: Tensor, what: str) -> Tensor:
    """`values` [n, d] as POT needs them. Raises DDBenchError where a value is not finite."""
    _check(values, what)
    return values.detach().to("cpu", torch.float64)
