"""Stage `statistics`: features and BatchNorm statistics of the real images, class by class. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.cost import Cost, Passes
from ddbench.api.stage import Stage

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline

TASKS = 64
"""The largest number of worker tasks for the statistics of one teacher."""


class Statistics(Stage["Pipeline"]):
    """Collects the teacher's features and BatchNorm statistics. Each part is one class, so only one class is in memory.

    With K classes, part k + L x K is class k with the features of layer L. L = 0 is the classifier's input.
    """

    name = "statistics"
    version = "1"
    inputs = ("data", "teacher")
    outputs = ()

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part per class for the classifier's input, and one per class for each layer of the method."""
        if not run.method.needs_teacher:
            is_needed = run.measures_transport or run.measures_need_teacher
            return range(run.info.num_classes) if is_needed else ()
        layers = (0, *run.method.layers())
        return [label + layer * run.info.num_classes for layer in layers for label in range(run.info.num_classes)]

    def needs(self, run: Pipeline, part: int) -> Iterable[tuple[str, int]]:
        """Returns the data and the configured teacher."""
        return [("data", 0), ("teacher", 0)]

    def _class_and_layer(self, run: Pipeline, part: int) -> tuple[int, int | None]:
        layer, label = divmod(part, run.info.num_classes)
        return label, layer or None

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the teacher, the settings of the statistics, the class and the layer."""
        return run.keys.statistics(*self._class_and_layer(run, part))

    def cost(self, run: Pipeline, part: int) -> Cost:
        """Counts every image of the class once."""
        images, experiment = run.info.train_counts[part % run.info.num_classes], run.experiment
        forward = Passes(images, "forward", (experiment.teacher.arch,), experiment.statistics.batch_size)
        return Cost((forward,), stored_features=images)

    def parts_per_task(self, run: Pipeline) -> int:
        """Returns the number of classes per task, such that there are at most `TASKS` tasks per layer."""
        return -(-run.info.num_classes // TASKS)

    def label(self, run: Pipeline, part: int) -> str:
        """Returns the name of the class, and the layer if there is one."""
        label, layer = self._class_and_layer(run, part)
        return run.info.class_names[label] + ("" if layer is None else f", layer {layer}")

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns features [n, d], and mean and variance [C] for each BatchNorm layer."""
        import torch

        from ddbench.nn.statistics import collect

        config, dataset, device = run.experiment.statistics, run.dataset, run.device
        label, layer = self._class_and_layer(run, part)
        indices = dataset.train.of_class(label)
        teacher = run.teacher
        batches = (
            dataset.evaluation_view("train", rows).to(device) for rows in torch.split(indices, config.batch_size)
        )
        statistics = collect(teacher, batches, config.variance, layer)
        tensors = {"features": statistics.features}
        for number, (mean, variance) in enumerate(zip(statistics.bn_means, statistics.bn_vars, strict=True)):
            tensors[f"bn.{number}.mean"], tensors[f"bn.{number}.var"] = mean, variance
        return tensors, {"layers": len(statistics.bn_means), "images": len(indices)}
