"""Stages `distill`, the images of the distilled set, and `method`, intermediate results. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.cost import Cost, Passes
from ddbench.api.stage import Stage
from ddbench.distillation.given import Given
from ddbench.pipeline.stages.on_demand import OnDemand

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.distillation.context import DistillContext
    from ddbench.pipeline.pipeline import Pipeline


class Intermediate(OnDemand):
    """Keeps the expensive intermediate results that a method requests by `task.cached`."""

    name = "method"
    inputs = ("data", "teacher", "statistics")

    def key_for(self, run: Pipeline, name: str, depends_on: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the dependencies of an intermediate result."""
        return run.keys.intermediate(name, dict(depends_on))


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A method can write into the copies without affecting its other units."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


class Distill(Stage["Pipeline"]):
    """Runs the method. Each part is one unit of slots."""

    name = "distill"
    version = "1"
    inputs = ("data", "teacher", "statistics", "method")
    outputs = ()

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part per unit."""
        return range(len(run.units))

    def needs(self, run: Pipeline, part: int) -> Iterable[tuple[str, int]]:
        """Returns the data and the method's stages; with a teacher also teachers and the unit's class statistics."""
        needed = [("data", 0), *((name, number) for name in run.method.stages() for number in run.parts_of(name))]
        if run.method.needs_teacher:
            labels = {slot.label for slot in run.units[part].slots}
            statistics = [number for number in run.parts_of("statistics") if number % run.info.num_classes in labels]
            needed += [("teacher", number) for number in run.pool.parts(run.method)]
            needed += [("statistics", number) for number in statistics]
        return needed

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the method with all its settings, the teacher, the statistics, IPC, seed and unit."""
        return run.keys.unit(part)

    def cost(self, run: Pipeline, part: int) -> Cost:
        """Counts the method's image passes times the unit's fraction of all slots."""
        slots, own = sum(len(unit.slots) for unit in run.units), len(run.units[part].slots)
        total = run.method.image_passes(run.info.num_classes, run.experiment.ipc or 0)
        images, bounds = total * own / max(1, slots), [getattr(run.method, name) for name in run.method.batch_settings]
        if run.method.recover_steps() is not None:
            passes = Passes(images, "pixels", batch_size=own)
        elif run.method.networks():
            passes = Passes(images, "training", batch_size=max([value for value in bounds if value], default=own))
        else:  # the method only evaluates the teacher, and counts each evaluation as a third
            passes = Passes(3 * images, "forward")
        return Cost((passes,), stored_bytes=3 * run.info.image_size**2 * own)

    def label(self, run: Pipeline, part: int) -> str:
        """Returns the name of the set and the number of the unit."""
        return f"{run.set_label} {part + 1}/{len(run.units)}"

    def task(
        self, run: Pipeline, part: int, checkpoint: CheckpointIO, verify: Callable[[], None] = lambda: None
    ) -> DistillContext:
        """Returns the task that is passed to the method. `verify` runs before an intermediate result is stored."""
        from ddbench.distillation.context import DistillContext
        from ddbench.pipeline.build import refuse_teacher

        def cached(
            name: str, depends_on: Mapping[str, Any], build: Callable[[], dict[str, Tensor]]
        ) -> dict[str, Tensor]:
            return _copies(Intermediate().cached(run, verify, name, depends_on, build))

        def tensors(stage: str, part: int = 0, names: Iterable[str] | None = None) -> dict[str, Tensor]:
            stored = run.tensors(stage, part)
            return _copies(stored if names is None else {name: stored[name] for name in names})

        experiment = run.experiment
        refused = refuse_teacher("method", experiment.method_name)
        return DistillContext(
            dataset=run.dataset,
            ipc=experiment.ipc or 0,
            seed=experiment.seed + experiment.repeat,
            device=run.device,
            precision=run.precision,
            checkpoint=checkpoint,
            checkpoint_every=experiment.distill.checkpoint_every,
            report=run.builder.report("distill", self.label(run, part)),
            cached=cached,
            statistics=run.statistics if run.method.needs_teacher else refused,
            timing={},
            _teacher=(lambda: run.teacher) if run.method.needs_teacher else refused,
            compile=experiment.runtime.compile == "on",
            note=run.builder.note("distill", self.label(run, part)),
            tensors=tensors,
            teachers=(lambda *names: run.pool.teachers(run.method, names)) if run.method.needs_teacher else refused,
        )

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns images or indices of real images, labels, and optional weights and extras of one unit."""
        import torch

        from ddbench.distillation.distilled_set import stored_images
        from ddbench.distillation.units import check_result, extras_of

        facts = {"classes": list(run.info.class_names), "data": run.dataset.depends_on}
        if isinstance(run.method, Given):
            return run.tensors("given"), facts
        experiment, unit = run.experiment, run.units[part]
        shared = run.shared_state("method", experiment.method_name, run.pool.parts(run.method))
        task = self.task(run, part, checkpoint, shared.verify)
        with run.builder.plugin("method", experiment.method_name, "distill", shared) as owner:
            result = check_result(run.method.distill(task, unit), unit, run.dataset, owner)
        tensors: dict[str, Tensor] = {}
        if result.images is not None:
            tensors["images"] = stored_images(result, run.dataset, experiment.distill.jpeg_quality)
            tensors["labels"] = torch.tensor([slot.label for slot in unit.slots])
        elif result.indices is not None:
            tensors["indices"] = result.indices.long()
            tensors["labels"] = run.dataset.train.labels[result.indices].clone()
        if result.weights is not None:
            tensors["weights"] = result.weights
        if run.method.decode_factor() > 1:
            tensors["decode_factor"] = torch.tensor([run.method.decode_factor()])
        return {**tensors, **extras_of(result)}, {**facts, **task.timing}
