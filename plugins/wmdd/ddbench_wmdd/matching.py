"""The two steps of WMDD for one unit: barycenters of the classes' features, and images that match them."""

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
"""Maps an output of the teacher to one weighted loss term."""
LARGE_SHARE = 0.01
"""The share of images with large features from which a class is named before the recover loop."""


def wasserstein_barycenter(method: WMDD, task: DistillTask, label: int) -> Barycenter:
    """Returns the Wasserstein barycenter of one class's features. Its cache key does not contain `bn_weight` (lambda).

    Args:
        method: The hyper-parameters.
        task: The task.
        label: The class.

    Returns:
        Points [IPC, d] and weights [IPC].
    """
    depends_on: dict[str, object] = {"class": label, "solver": method.solver}
    if method.solver == "paper":
        depends_on |= {
            "iterations": method.iterations,
            "weight_step": method.weight_step,
            "start": method.start,
        }

    def solve(features: Tensor, generator: torch.Generator) -> Barycenter:
        if method.solver == "paper":
            return ot.barycenter_paper(
                features, task.ipc, generator, method.iterations, method.weight_step, method.start
            )
        if method.solver == "released":
            return ot.barycenter_released(features, task.ipc, generator)
        return ot.barycenter_lloyd([features.to(task.device)], task.ipc, [generator])[0]

    return _cached(method, task, label, depends_on, solve)


def sliced_barycenter(method: SlicedWMDD, task: DistillTask, label: int) -> Barycenter:
    """Returns the sliced barycenter of one class's features. Its cache key does not contain `bn_weight` (lambda).

    Args:
        method: The hyper-parameters.
        task: The task.
        label: The class.

    Returns:
        Points [IPC, d] and uniform weights [IPC].
    """

    def solve(features: Tensor, generator: torch.Generator) -> Barycenter:
        on_device = features.to(task.device)
        return ot.barycenter_sliced(on_device, task.ipc, generator, method.projections, method.iterations)

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
        barycenter = solve(_features(method, task, label), task.generator("barycenter", label))
        tensors = {"points": barycenter.points.float().cpu(), "weights": barycenter.weights.float().cpu()}
        require_finite(f"the barycenter of class '{task.info.class_names[label]}'", tensors)
        return tensors

    layer = {} if method.layer is None else {"layer": method.layer}
    tensors = task.cached("barycenter", {**depends_on, **layer}, build)
    return Barycenter(points=tensors["points"], weights=tensors["weights"])


def _features(method: BarycenterMatching, task: DistillTask, label: int) -> Tensor:
    """Returns the features of a class's real images at `method.layer`, [n, d] on the CPU."""
    return task.statistics(label, method.layer).features


def distill(method: BarycenterMatching, task: DistillTask, unit: Unit) -> UnitResult:
    """Optimises the images of one unit: feature loss + lambda PCBN (Eq. 15), or another combination of Table 4.

    Only `feature_loss=wasserstein` computes barycenters and returns weights that are not uniform.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit.

    Returns:
        The images and their weights.
    """
    classes = sorted({slot.label for slot in unit.slots})
    labels = torch.tensor([slot.label for slot in unit.slots])
    terms: dict[str, Term] = {}
    targets: dict[int, Barycenter] = {}
    weights = torch.full((len(labels),), 1 / task.ipc)
    if method.feature_loss == "wasserstein":
        targets = {label: method.barycenter(task, label) for label in classes}
        weights = _of_slots(unit, {label: target.weights for label, target in targets.items()})
        points = _of_slots(unit, {label: target.points for label, target in targets.items()}).to(task.device)
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

    initial = real_images(method, task, unit, targets) if method.initial == "real" else task.noise(unit)
    images = task.recover(unit, objective, initial, method, layer=method.layer)
    return UnitResult(images=images, weights=weights)


def _of_slots(unit: Unit, of_classes: Mapping[int, Tensor]) -> Tensor:
    """Returns the entries of a unit's slots. Each class has one entry per image."""
    return torch.stack([of_classes[slot.label][slot.index] for slot in unit.slots])


def real_images(method: BarycenterMatching, task: DistillTask, unit: Unit, targets: Mapping[int, Barycenter]) -> Tensor:
    """Returns distinct real images of each class as the initial images of a unit.

    For a class in `targets`, IPC images are assigned to the points of its barycenter so that the sum of the squared
    distances between features and points is minimal. For other classes they are random.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit.
        targets: The barycenters of classes.

    Returns:
        The central views, normalised [n, 3, S, S], one per slot.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    indices: dict[int, Tensor] = {}
    for label in {slot.label for slot in unit.slots}:
        if label in targets:
            features = _features(method, task, label).double()
            centre = features.mean(0)
            distances = ot.squared_distances(targets[label].points.double() - centre, features - centre)
            nearest = torch.from_numpy(linear_sum_assignment(distances.numpy())[1])
            indices[label] = task.dataset.train.of_class(label)[nearest]
        else:
            indices[label] = task.sample(label, task.ipc, "initial")
    return task.dataset.evaluation_view("train", _of_slots(unit, indices))


def _mmd(method: BarycenterMatching, task: DistillTask, classes: Sequence[int]) -> Term:
    """Returns the loss term of the biased MMD^2 between the synthetic and all real features of each class, summed.

    The bandwidths come from the real features.
    """
    real = [_features(method, task, label).to(task.device) for label in classes]
    bandwidths = [_bandwidths(task, *pair).cpu() for pair in zip(classes, real, strict=True)]
    real_means = [losses.gaussian_kernel_mean(*pair) for pair in zip(real, bandwidths, strict=True)]

    def term(output: Output) -> Tensor:
        synthetic = output.features.reshape(len(classes), task.ipc, -1)
        parts = zip(synthetic, real, bandwidths, real_means, strict=True)
        return torch.stack([losses.gaussian_mmd(x, y, s, y_kernel_mean=mean) for x, y, s, mean in parts]).sum()

    return term


def _bandwidths(task: DistillTask, label: int, features: Tensor) -> Tensor:
    try:
        return losses.median_bandwidths(features)
    except DDBenchError as error:
        raise DDBenchError(f"feature_loss=mmd, class '{task.info.class_names[label]}': {error}") from error


def _regulariser(
    method: BarycenterMatching, task: DistillTask, classes: Sequence[int], labels: Tensor, weights: Tensor
) -> Term:
    """Returns the loss term lambda times PCBN with weighted images, or lambda times the unweighted BatchNorm term."""
    if method.regulariser == "bn":
        means, variances = task.teacher.running_statistics()
        return lambda output: (
            method.bn_weight * losses.global_bn(output.bn_inputs, means, variances, form=method.bn_form)
        )
    statistics = [task.statistics(label) for label in classes]
    if method.initial == "noise":
        for label, part in zip(classes, statistics, strict=True):
            _note_large_features(method, task, label, part.features)
    means, variances = (
        [torch.stack(layer).to(task.device) for layer in zip(*moments, strict=True)]
        for moments in ([part.bn_means for part in statistics], [part.bn_vars for part in statistics])
    )
    rows = losses.class_weight_matrix(labels, weights).to(task.device)
    return lambda output: method.bn_weight * losses.pcbn(output.bn_inputs, rows, means, variances, method.bn_form)


def _note_large_features(method: BarycenterMatching, task: DistillTask, label: int, features: Tensor) -> None:
    """Prints a line for a class whose images from noise may become saturated (results/README.md, on parachute).

    In such a class, more than `LARGE_SHARE` of the real images have features of more than twice the median norm.
    """
    norms = features.norm(dim=1)
    large, count = int((norms > 2 * norms.median()).sum()), len(norms)
    if large > LARGE_SHARE * count:
        name = task.info.class_names[label]
        task.note(
            f"{method.name}: class '{name}': {large} of {count} images have features of more than twice the median "
            "norm; its distilled images may stay noise (the recipe tuned starts from real images)"
        )
