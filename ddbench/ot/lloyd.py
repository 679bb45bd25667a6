"""Barycenters with free weights by k-means (Lloyd's algorithm), batched over classes on the device of the features.

With one input measure and free weights, the barycenter problem under W_2^2 is the k-means problem: each feature moves
to its nearest point, and each weight is the fraction of the features that its point receives. So Lloyd steps, which
have a closed form, solve it. Arithmetic is in the dtype of the features (float32 for a network's features).
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ddbench.core.errors import DDBenchError
from ddbench.ot.points import Barycenter, check_count, check_finite

# Largest number of elements of the padded classes in one batch: half a GiB of float32.
_MAX_BATCH_ELEMENTS = 2**27
# Dimensions of the random projection in which the first Lloyd steps run.
_PROJECTED_DIMENSIONS = 64
# Total number of k-means++ centres over all initialisations. With few points the result depends on the initialisation;
# with many points this dependence averages out.
_SEEDS = 40


def barycenter_lloyd(
    features: Sequence[Tensor], m: int, generators: Sequence[Generator], iterations: int = 300
) -> list[Barycenter]:
    """Computes barycenters with free weights of many classes at once, by k-means.

    Chooses greedy k-means++ centres (Arthur and Vassilvitskii 2007), then takes Lloyd steps until no feature changes
    its point. Features of more than 64 dimensions are first clustered in a random projection to 64 dimensions, from
    max(1, 40 // m) initialisations; the result with the lowest cost in all dimensions is continued there. The cost
    never rises from step to step. A point that is nearest to no feature moves to the feature farthest from its own
    point. If a class has fewer distinct features than `m`, such a point ends on a feature, with weight 0.

    Departs from Algorithm 2 of the paper, which solves the same problem by subgradient and Newton steps
    (`barycenter_paper`).

    Args:
        features: Features Z [n_k, d] of each class, finite, all on one device.
        m: Number of points, the images per class; at most the smallest n_k.
        generators: One generator per class, so that the result of a class does not depend on the other classes.
        iterations: Largest number of Lloyd steps of each descent.

    Returns:
        One barycenter per class, in the dtype and on the device of the features. The weight of a point is the fraction
        of the features that are nearest to it.

    Raises:
        DDBenchError: A class has fewer features than `m`, a feature is not finite, or the number of generators is not
            the number of classes.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [11.0]])
        >>> (result,) = barycenter_lloyd([features], 2, [torch.Generator().manual_seed(0)])
        >>> result.points.sort(0).values.flatten().tolist()
        [1.0, 11.0]
        >>> result.weights.sort().values.tolist()
        [0.25, 0.75]
    """
    if len(features) != len(generators):
        raise DDBenchError(f"k-means needs one generator per class, got {len(generators)} for {len(features)} classes")
    for z in features:
        check_count(m, len(z))
    largest = max((len(z) * (z.shape[1] + 2 * m) for z in features), default=1)
    size = max(1, _MAX_BATCH_ELEMENTS // largest)
    barycenters: list[Barycenter] = []
    for first in range(0, len(features), size):
        batch = slice(first, first + size)
        barycenters += _lloyd(features[batch], m, generators[batch], iterations)
    return barycenters


def _lloyd(features: Sequence[Tensor], m: int, generators: Sequence[Generator], iterations: int) -> list[Barycenter]:
    """Runs k-means on a batch of classes, padded to one length.

    The helpers below share this notation: z [k, n, d] are the padded features of k classes; valid [k, n] is false on
    the padding; nearest [k, n] is the index of each feature's point.
    """
    # Centre the features: distances do not change, and cancellation with a large common offset is avoided.
    means = [z.mean(0) for z in features]
    for mean in means:
        check_finite(mean.unsqueeze(0), "features")  # the mean is NaN or infinite if any feature is
    z = features[0].new_zeros(len(features), max(map(len, features)), features[0].shape[1])
    for row, class_features, mean in zip(z, features, means, strict=True):
        torch.sub(class_features, mean, out=row[: len(class_features)])
    counts = torch.tensor([len(class_features) for class_features in features], device=z.device)
    valid = torch.arange(z.shape[1], device=z.device) < counts.unsqueeze(1)

    projected = _project(z, generators)
    nearest = _best_start(z, projected, valid, m, generators, iterations)
    # On a CPU, one class at a time is as fast as a batch, and a class stops when it has converged.
    parts = torch.split(torch.arange(len(z)), 1 if z.device.type == "cpu" else len(z))
    results = [_descend(z[part], valid[part], nearest[part], m, iterations) for part in parts]
    points, nearest = (torch.cat(column) for column in zip(*results, strict=True))
    barycenters: list[Barycenter] = []
    for k, class_features in enumerate(features):
        n = len(class_features)
        weights = torch.bincount(nearest[k, :n], minlength=m).to(class_features) / n
        barycenters.append(Barycenter(points[k] + means[k], weights))
    return barycenters


def _best_start(
    z: Tensor, projected: Tensor, valid: Tensor, m: int, generators: Sequence[Generator], iterations: int
) -> Tensor:
    """Clusters `projected` from several initialisations; returns the `nearest` with the lowest cost in `z`."""
    nearest = _start(projected, valid, m, generators, iterations)
    if (starts := _SEEDS // m) <= 1:
        return nearest
    cost = _cost(z, valid, nearest, m)
    for _ in range(1, starts):
        other_nearest = _start(projected, valid, m, generators, iterations)
        other_cost = _cost(z, valid, other_nearest, m)
        better = other_cost < cost
        nearest, cost = other_nearest.where(better.unsqueeze(1), nearest), torch.minimum(other_cost, cost)
    return nearest


def _start(projected: Tensor, valid: Tensor, m: int, generators: Sequence[Generator], iterations: int) -> Tensor:
    """Clusters `projected` from k-means++ centres; returns `nearest`."""
    races = [
        # This has the distribution of exponential_ and takes a third of the time.
        -torch.rand(m, int(count), generator=generator, dtype=projected.dtype).log()
        for count, generator in zip(valid.sum(1), generators, strict=True)
    ]
    times = torch.stack([nn.functional.pad(race, (0, valid.shape[1] - race.shape[1])) for race in races], 1)
    nearest = _nearest(_rows(projected, kmeans_plus_plus(projected, valid, times.to(projected.device))), projected)
    return _descend(projected, valid, nearest, m, iterations)[1]


def _cost(z: Tensor, valid: Tensor, nearest: Tensor, m: int) -> Tensor:
    """Returns the cost [k] of the assignment `nearest`, up to a constant of each class."""
    sums, sizes = _sums(z, valid, nearest, m)
    # The cost of a cluster is the sum of its squared features minus its size times its squared mean. The sum of squares
    # over all clusters is constant, so it is left out.
    return -(sums.square().sum(-1, keepdim=True) / sizes.clamp_min(1)).sum((1, 2))


def _project(z: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Projects `z` on 64 random directions (Johnson and Lindenstrauss 1984); returns `z` if d is at most 64."""
    d = z.shape[2]
    if d <= _PROJECTED_DIMENSIONS:
        return z
    directions = [torch.randn(d, _PROJECTED_DIMENSIONS, generator=generator) for generator in generators]
    return z @ torch.stack(directions).to(z)


def _descend(z: Tensor, valid: Tensor, nearest: Tensor, m: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Takes Lloyd steps from the assignment `nearest`; returns the points [k, m, d] and their `nearest`."""
    points = _means(z, valid, nearest, m)
    for _ in range(iterations):
        previous, nearest = nearest, _nearest(points, z)
        if torch.equal(nearest.where(valid, 0), previous.where(valid, 0)):
            break
        points = _means(z, valid, nearest, m)
    return points, nearest


def _means(z: Tensor, valid: Tensor, nearest: Tensor, m: int) -> Tensor:
    """Returns the mean of each point's features [k, m, d]; a point without features moves to the farthest feature."""
    sums, sizes = _sums(z, valid, nearest, m)
    points, empty = sums / sizes.clamp_min(1), sizes == 0
    if bool(empty.any()):
        distances = (z - _rows(points, nearest)).square().sum(-1).where(valid, -1.0)
        farthest = distances.argsort(dim=1, descending=True, stable=True)[:, :m]
        rank = (empty.squeeze(-1).long().cumsum(1) - 1).clamp_min(0)
        points = torch.where(empty, _rows(z, farthest.gather(1, rank)), points)
    return points


def _sums(z: Tensor, valid: Tensor, nearest: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Returns the sum [k, m, d] and the number [k, m, 1] of the features assigned to each point."""
    k, n, d = z.shape
    rows = (nearest + m * torch.arange(k, device=z.device).unsqueeze(1)).where(valid, k * m).flatten()
    sums = z.new_zeros(k * m + 1, d).index_add_(0, rows, z.reshape(k * n, d))
    sizes = torch.bincount(rows, minlength=k * m + 1)
    return sums[:-1].view(k, m, d), sizes[:-1].view(k, m, 1)


def _nearest(points: Tensor, z: Tensor) -> Tensor:
    """Returns the index of each feature's nearest point [k, n]; arbitrary on the padding."""
    # The norm of a feature does not affect which point is nearest, so it is left out. min is faster than argmin.
    norms = points.square().sum(-1, keepdim=True)
    return torch.baddbmm(norms, points, z.transpose(1, 2), alpha=-2).min(1).indices


def _rows(z: Tensor, indices: Tensor) -> Tensor:
    """Gathers the rows `indices` [k, j] of each class: [k, j, d]."""
    return z.gather(1, indices.unsqueeze(-1).expand(-1, -1, z.shape[-1]))


def kmeans_plus_plus(z: Tensor, valid: Tensor, times: Tensor) -> Tensor:
    """Chooses greedy k-means++ centres (Arthur and Vassilvitskii 2007) for a batch of classes.

    Draws 2 + ln m candidates per centre and keeps the one that lowers the cost most. A candidate is drawn with
    probability proportional to its squared distance to the nearest chosen centre: each exponential time is divided by
    the squared distance of its feature, and the feature with the smallest quotient is the candidate. (A search in the
    cumulative sum would also work, but that sum is not deterministic on CUDA.)

    Args:
        z: Features [k, n, d], padded to one length and centred.
        valid: Bool [k, n], false on the padding.
        times: Independent exponential times [m, k, n].

    Returns:
        Indices of the centres [k, m]. Once every feature coincides with a centre, the remaining centres are the first
        feature.

    Example:
        >>> z = torch.tensor([[[0.0], [0.0], [10.0]]])
        >>> times = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 1.0, 1.0]]])
        >>> seeds = kmeans_plus_plus(z, torch.ones(1, 3, dtype=torch.bool), times)
        >>> z[0, seeds[0]].flatten().tolist()
        [0.0, 10.0]
    """
    m = len(times)
    norms = z.square().sum(-1)
    distances, bound = valid.to(z.dtype), z.new_zeros(valid.shape).masked_fill(valid, torch.inf)
    trials = min(2 + int(math.log(m)), z.shape[1])
    seeds: list[Tensor] = []
    for j in range(m):
        arrival = (times[j] / distances).topk(trials if j else 1, dim=1, largest=False)
        reachable = arrival.values.isfinite()
        # If fewer features than trials are left, the other trials repeat the first one, so the padding is never drawn.
        drawn = arrival.indices.where(reachable, arrival.indices[:, :1].where(reachable[:, :1], 0))
        reached = torch.baddbmm(norms.unsqueeze(1), _rows(z, drawn), z.transpose(1, 2), alpha=-2)
        reached += norms.gather(1, drawn).unsqueeze(2)
        # The distance of a centre to itself, computed as x^2 - 2xy + y^2, has a rounding error. Set it to 0, so that
        # the centre is not drawn again.
        reached.scatter_(2, drawn.unsqueeze(2), 0.0)
        torch.minimum(reached, bound.unsqueeze(1), out=reached).clamp_min_(0)
        best = reached.sum(2).argmin(1, keepdim=True)
        distances = bound = _rows(reached, best).squeeze(1)
        seeds.append(drawn.gather(1, best))
    return torch.cat(seeds, dim=1)
