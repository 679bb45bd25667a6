"""Stage `measure`: the transport cost between the distilled set and the real data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.cost import Cost, Passes
from ddbench.api.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline

BATCH_SIZE = 100


class TransportCost(Stage["Pipeline"]):
    """Measures W_2^2 between the features of the distilled and the real images, class by class."""

    name = "measure"
    version = "1"
    inputs = ("data", "teacher", "statistics", "distill")
    outputs = ()

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part if a teacher and a distilled set are used, else none."""
        return (0,) if run.measures_transport else ()

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the units, the teacher and the settings of the statistics."""
        return run.keys.measure(run.unit_keys)

    def cost(self, run: Pipeline, part: int) -> Cost:
        """Counts every distilled image once."""
        return Cost((Passes(run.student_images, "forward", (run.experiment.teacher.arch,), BATCH_SIZE),))

    def label(self, run: Pipeline, part: int) -> str:
        """Returns the name of the set."""
        return run.set_label

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns no tensors. The metadata hold the cost of each class and the mean over classes."""
        import torch

        from ddbench.nn import memory
        from ddbench.ot.exact import transport_cost

        teacher, distilled = run.teacher, run.distilled.decoded

        def forward(pixels: Tensor) -> list[Tensor]:
            return [teacher(run.dataset.normalise(pixels), bn=False).features]

        in_parts = memory.in_parts(forward, "images")
        costs = []
        for label in range(run.info.num_classes):
            rows = distilled.labels == label
            pixels = distilled.pixels[rows].to(run.device)
            with torch.no_grad():
                features = torch.cat([in_parts(batch)[0] for batch in torch.split(pixels, BATCH_SIZE)])
            cost = transport_cost(features.float().cpu(), distilled.weights[rows], run.statistics(label).features)
            costs.append(cost)
        return {}, {"transport_cost": sum(costs) / len(costs), "per_class": costs}
