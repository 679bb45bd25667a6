"""WMDD's two steps for one unit: barycenters of the classes' features, then pixels that match them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench import objectives, transport
from ddbench.distiller import Unit, UnitResult
from ddbench.errors import DDBenchError

if TYPE_CHECKING:
    from ddbench.models import Output
    from ddbench.task import DistillTask
    from ddbench_wmdd import WMDD


def barycenter(method: WMDD, task: DistillTask, label: int) -> transport.Barycenter:
    """The barycenter of one class's features: points [IPC, d] and weights [IPC]. Cached without lambda."""
    depends_on: dict[str, object] = {"class": label, "solver": method.solver}
    if method.solver == "paper":
        depends_on |= {
            "iterations": method.iterations,
            "weight_step": method.weight_step,
            "start": method.start,
        }

    def solve() -> dict[str, Tensor]:
        features = task.statistics(label).features
        draw = task.generator("barycenter", label)
        if method.solver == "paper":
            found = transport.barycenter_paper(
                features, task.ipc, draw, method.iterations, method.weight_step, method.start
            )
        elif method.solver == "released":
            found = transport.barycenter_released(features, task.ipc, draw)
        else:
            (found,) = transport.barycenter_lloyd([features], task.ipc, [draw])
        return {"points": found.points.float(), "weights": found.weights.float()}

    tensors = task.cached("barycenter", depends_on, solve)
    return transport.Barycenter(points=tensors["points"], weights=tensors["weights"])


def distill(method: WMDD, task: DistillTask, unit: Unit) -> UnitResult:
    """Images of one unit (Eq. 15: feature match + lambda PCBN), with the barycenters' weights."""
    if method.bn_weight and not task.teacher.bn_names:
        raise DDBenchError(
            "wmdd matches BatchNorm statistics, and this teacher has none: take another --arch "
            "(e.g. convnet-bn-d3), or --set method.bn_weight=0"
        )
    labels = torch.tensor([slot.label for slot in unit.slots])
    classes = torch.unique(labels).tolist()
    found = {label: barycenter(method, task, label) for label in classes}
    targets = torch.cat([found[label].points for label in classes]).to(task.device)
    weights = torch.cat([found[label].weights for label in classes])
    statistics = [task.statistics(label) for label in classes]
    layers = range(len(statistics[0].bn_means))
    means = [torch.stack([part.bn_means[layer] for part in statistics]).to(task.device) for layer in layers]
    variances = [torch.stack([part.bn_vars[layer] for part in statistics]).to(task.device) for layer in layers]
    class_weights = objectives.class_weight_matrix(labels, weights).to(task.device)
    labels_on_device = labels.to(task.device)

    def objective(output: Output) -> dict[str, Tensor]:
        terms = {"feature": objectives.feature_match(output.features, targets, method.feature_form)}
        if method.cross_entropy_weight:
            cross_entropy = objectives.cross_entropy(output.logits, labels_on_device)
            terms["cross_entropy"] = method.cross_entropy_weight * cross_entropy
        if method.bn_weight:
            regulariser = objectives.pcbn(output.bn_inputs, class_weights, means, variances, method.bn_form)
            terms["pcbn"] = method.bn_weight * regulariser
        return terms

    images = task.recover(unit, objective, task.noise(unit), method)
    return UnitResult(images=images, weights=weights)
