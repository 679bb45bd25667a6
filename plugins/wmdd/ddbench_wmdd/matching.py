"""WMDD's two steps for one unit: barycenters of the classes' features, then pixels that match them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench import losses, ot
from ddbench.api import DDBenchError, Unit, UnitResult, require_finite
from ddbench.ot import Barycenter

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Output
    from ddbench_wmdd import WMDD, BarycenterMatching, SlicedWMDD

Term = Callable[["Output"], Tensor]


def wasserstein_barycenter(method: WMDD, task: DistillTask, label: int) -> Barycenter:
    """The barycenter of one class's features: points [IPC, d] and weights [IPC]. Cached without lambda."""
    depends_on: dict[str, object] = {"class": label, "solver": method.solver}
    if method.solver == "paper":
        depends_on |= {
            "iterations": method.iterations,
            "weight_step": method.weight_step,
            "start": method.start,
        }

    def solve(features: Tensor, draw: torch.Generator) -> Barycenter:
        if method.solver == "paper":
            return ot.barycenter_paper(features, task.ipc, draw, method.iterations, method.weight_step, method.start)
        if method.solver == "released":
            return ot.barycenter_released(features, task.ipc, draw)
        return ot.barycenter_lloyd([features.to(task.device)], task.ipc, [draw])[0]

    return _cached(method, task, label, depends_on, solve)


def sliced_barycenter(method: SlicedWMDD, task: DistillTask, label: int) -> Barycenter:
    """The sliced barycenter of one class's features: points [IPC, d], uniform weights [IPC]. Cached without lambda."""

    def solve(features: Tensor, draw: torch.Generator) -> Barycenter:
        on_device = features.to(task.device)
        return ot.barycenter_sliced(on_device, task.ipc, draw, method.projections, method.iterations)

    depends_on = {"class": label, "projections": method.projections, "iterations": method.iterations}
    return _cached(method, task, label, depends_on, solve)


def _cached(
    method: BarycenterMatching,
    task: DistillTask,
    label: int,
    depends_on: Mapping[str, object],
    solve: Callable[[Tensor, torch.Generator], Barycenter],
) -> Barycenter:
    def build() -> dict[str, Tensor]:
        found = solve(_features(method, task, label), task.generator("barycenter", label))
        tensors = {"points": found.points.float().cpu(), "weights": found.weights.float().cpu()}
        require_finite(f"the barycenter of class '{task.info.class_names[label]}'", tensors)
        return tensors

    layer = {} if method.layer is None else {"layer": method.layer}
    tensors = task.cached("barycenter", {**depends_on, **layer}, build)
    return Barycenter(points=tensors["points"], weights=tensors["weights"])


def _features(method: BarycenterMatching, task: DistillTask, label: int) -> Tensor:
    """Of a class's real images, at the layer that is matched: [n, d] on the CPU."""
    return task.statistics(label, method.layer).features


def distill(method: BarycenterMatching, task: DistillTask, unit: Unit) -> UnitResult:
    """Images of one unit and their weights: Eq. 15, feature match + lambda PCBN, or a combination of Table 4.

    Barycenters, and weights other than uniform, belong to `feature_loss=wasserstein` alone.
    """
    classes = sorted({slot.label for slot in unit.slots})
    labels = torch.tensor([slot.label for slot in unit.slots])
    terms: dict[str, Term] = {}
    targets: dict[int, Barycenter] = {}
    weights = torch.full((len(labels),), 1 / task.ipc)
    if method.feature_loss == "wasserstein":
        targets = {label: method.barycenter(task, label) for label in classes}
        weights = torch.cat([target.weights for target in targets.values()])
        points = torch.cat([target.points for target in targets.values()]).to(task.device)
        terms["feature"] = lambda output: losses.feature_match(output.features, points, method.feature_form)
    elif method.feature_loss == "mmd":
        terms["mmd"] = _mmd(method, task, classes)
    cross_entropy_weight = 1.0 if method.feature_loss == "cross-entropy" else method.cross_entropy_weight
    if cross_entropy_weight:
        on_device = labels.to(task.device)
        terms["cross_entropy"] = lambda output: cross_entropy_weight * losses.cross_entropy(output.logits, on_device)
    if method.regularised:
        terms[method.regulariser] = _regulariser(method, task, classes, labels, weights)

    def objective(output: Output) -> dict[str, Tensor]:
        return {name: term(output) for name, term in terms.items()}

    initial = task.noise(unit) if method.initial == "noise" else real_images(method, task, classes, targets)
    images = task.recover(unit, objective, initial, method, layer=method.layer)
    return UnitResult(images=images, weights=weights)


def real_images(
    method: BarycenterMatching, task: DistillTask, classes: Sequence[int], targets: Mapping[int, Barycenter]
) -> Tensor:
    """Central views of IPC distinct real images a class, normalised [K * IPC, 3, S, S], in the slots' order.

    Those that lie nearest to the points of the class's barycenter in `targets`: the assignment of different
    images to the points with the least sum of squared distances of features. Random ones for other classes.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    chosen: list[Tensor] = []
    for label in classes:
        if label in targets:
            features = _features(method, task, label).double()
            centre = features.mean(0)
            distances = ot.squared_distances(targets[label].points.double() - centre, features - centre)
            nearest = torch.from_numpy(linear_sum_assignment(distances.numpy())[1])
            chosen.append(task.dataset.train.of_class(label)[nearest])
        else:
            chosen.append(task.sample(label, task.ipc, "initial"))
    return task.dataset.evaluation_view("train", torch.cat(chosen))


def _mmd(method: BarycenterMatching, task: DistillTask, classes: Sequence[int]) -> Term:
    """Sum over classes of the biased MMD^2 of its images' features and all its real ones, bandwidths of the latter."""
    real = [_features(method, task, label).to(task.device) for label in classes]
    bandwidths = [_bandwidths(task, *pair).cpu() for pair in zip(classes, real, strict=True)]
    fixed = [losses.gaussian_kernel_mean(*pair) for pair in zip(real, bandwidths, strict=True)]

    def term(output: Output) -> Tensor:
        synthetic = output.features.reshape(len(classes), task.ipc, -1)
        parts = zip(synthetic, real, bandwidths, fixed, strict=True)
        return torch.stack([losses.gaussian_mmd(x, y, s, y_kernel_mean=own) for x, y, s, own in parts]).sum()

    return term


def _bandwidths(task: DistillTask, label: int, features: Tensor) -> Tensor:
    try:
        return losses.median_bandwidths(features)
    except DDBenchError as error:
        raise DDBenchError(f"feature_loss=mmd, class '{task.info.class_names[label]}': {error}") from error


def _regulariser(
    method: BarycenterMatching, task: DistillTask, classes: Sequence[int], labels: Tensor, weights: Tensor
) -> Term:
    """lambda times PCBN, its images weighted, or times the match of the whole batch, its images alike."""
    if method.regulariser == "bn":
        means, variances = task.teacher.running_statistics()
        return lambda output: (
            method.bn_weight * losses.global_bn(output.bn_inputs, means, variances, form=method.bn_form)
        )
    statistics = [task.statistics(label) for label in classes]
    means, variances = (
        [torch.stack(layer).to(task.device) for layer in zip(*moments, strict=True)]
        for moments in ([part.bn_means for part in statistics], [part.bn_vars for part in statistics])
    )
    rows = losses.class_weight_matrix(labels, weights).to(task.device)
    return lambda output: method.bn_weight * losses.pcbn(output.bn_inputs, rows, means, variances, method.bn_form)
