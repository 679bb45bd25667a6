"""The stage graph: teacher -> statistics -> distill -> evaluate, each step through the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddbench.api.teacher import ClassStatistics
from ddbench.api.evaluator import check_metrics
from ddbench.api.units import Unit
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.core.events import Event
from ddbench.distillation.context import DistillContext, EvaluateContext
from ddbench.distillation.distilled_set import DistilledSet, assemble, check_result, check_units, to_uint8
from ddbench.nn import compile, memory
from ddbench.nn.build import build_network
from ddbench.nn.checkpoints import check_class_order, load_checkpoint
from ddbench.nn.layers import check_layer
from ddbench.nn.statistics import collect
from ddbench.nn.taps import TappedNetwork
from ddbench.ot.exact import transport_cost
from ddbench.pipeline import record
from ddbench.pipeline.build import Builder, refuse_teacher
from ddbench.pipeline.keys import Keys, teacher_label
from ddbench.pipeline.workspace import Workspace
from ddbench.results.records import Record
from ddbench.storage.cache import Artifact, Built, Checkpoint
from ddbench.training.teacher import accuracy, train_teacher

if TYPE_CHECKING:
    pass


class Pipeline:
    """The stages of one experiment. Asking for a stage computes what is missing before it.

    Raises DDBenchError before anything is trained where the method cannot do what is asked.
    """

    def __init__(self, workspace: Workspace, experiment: Experiment) -> None:
        self.workspace = workspace
        self.experiment = experiment.model_copy(update={"runtime": workspace.executor.resolve(experiment.runtime)})
        self.method = experiment.method
        self.protocol = experiment.evaluator
        self.device = torch.device(self.experiment.runtime.device)
        self.precision = self.experiment.runtime.precision
        self.dataset = workspace.dataset(experiment.dataset, experiment.data)
        compiled = compile.resolve(self.experiment, self.dataset.info.num_classes)
        self.experiment = self.experiment.model_copy(update={"runtime": compiled})
        registry, method, protocol = workspace.registry, experiment.method_name, experiment.evaluator_name
        with registry.attribute_errors("method", method):
            reason = self.method.skip(self.dataset.info, experiment.ipc)
        with registry.attribute_errors("evaluator", protocol):
            reason = reason or self.protocol.skip(experiment.ipc)
        if reason:
            raise DDBenchError(reason)
        self.builder = Builder(workspace, self.experiment, self.dataset, self.device)
        self.keys = Keys(self.experiment, self.dataset, self.method.version, self.protocol.version)
        with registry.attribute_errors("method", method):
            self.units = list(self.method.units(self.dataset.info.num_classes, experiment.ipc or 0))
            if experiment.ipc is not None:
                who = registry.who("method", method)
                check_units(self.units, self.dataset.info.num_classes, experiment.ipc, who)

    # -- stages ---------------------------------------------------------------------------------------------

    def teacher(self) -> Artifact:
        """The teacher's weights; in the meta its accuracy on the images to measure on."""
        return self.builder.artifact(
            "teacher", self.keys.teacher(), self._build_teacher, teacher_label(self.experiment.teacher)
        )

    def class_statistics(self, label: int, layer: int | None = None) -> Artifact:
        """What `statistics` reads, with its cost."""
        name = self.dataset.info.class_names[label] + ("" if layer is None else f", layer {layer}")
        depends_on = self.keys.statistics(label, layer)
        return self.builder.artifact("statistics", depends_on, lambda slot: self._build_statistics(label, layer), name)

    def statistics(self, label: int, layer: int | None = None) -> ClassStatistics:
        """Features (of `layer`, else of the classifier's input) and BatchNorm statistics of one class's real images."""
        found = self.class_statistics(label, layer)
        numbers = range(int(found.meta["layers"]))
        return ClassStatistics(
            features=found.tensors["features"],
            bn_means=[found.tensors[f"bn.{number}.mean"] for number in numbers],
            bn_vars=[found.tensors[f"bn.{number}.var"] for number in numbers],
        )

    def unit(self, unit: Unit) -> Artifact:
        """Images (or indices) and weights of one unit."""
        depends_on = self.keys.unit(unit.index)
        return self.builder.artifact(
            "distill", depends_on, lambda slot: self._build_unit(unit, slot), self._unit_name(unit)
        )

    @cached_property
    def distilled(self) -> DistilledSet:
        """The distilled set, put together from its units."""
        found = [self.unit(unit) for unit in self.units]
        keys = tuple(part.key for part in found)
        return assemble(self.dataset, [part.tensors for part in found], keys, self.experiment.method_name)

    def evaluation(self) -> Artifact:
        """One student's metrics."""
        depends_on = self.keys.evaluate(self.distilled.keys)
        return self.builder.artifact("evaluate", depends_on, self._build_evaluation, self.student_name)

    def transport_cost(self) -> float | None:
        """W_2^2 of the set's features to their class's features, mean over classes; None without a teacher."""
        needs = self.protocol.needs_teacher or self.method.needs_teacher
        if not needs or self.experiment.ipc is None:
            return None
        found = self.builder.artifact(
            "measure", self.keys.measure(self.distilled.keys), lambda slot: self._build_measure()
        )
        return float(found.meta["transport_cost"])

    def plan(self) -> list[tuple[str, str]]:
        """(stage, "cached" or "to do") in order, for `--dry-run`: nothing is computed."""
        cache, keys = self.workspace.cache, self.keys
        rows: list[tuple[str, str]] = []
        needs_statistics = self.method.needs_teacher
        if needs_statistics or self.protocol.needs_teacher:
            rows.append(("teacher", _state([cache.has("teacher", keys.teacher())])))
        if needs_statistics:
            labels = range(self.dataset.info.num_classes)
            rows.append(("statistics", _state([cache.has("statistics", keys.statistics(k)) for k in labels])))
        done = [cache.has("distill", keys.unit(unit.index)) for unit in self.units]
        rows.append(("distill", _state(done)))
        rows.append(("evaluate", _state([cache.has("evaluate", keys.evaluate(self.unit_keys))])))
        return rows

    @property
    def evaluation_key(self) -> str:
        """The key of `evaluation`, which a record of it names; nothing is computed."""
        return self.workspace.cache.path("evaluate", self.keys.evaluate(self.unit_keys)).stem

    @property
    def teacher_key(self) -> str:
        """The teacher's key; nothing is computed."""
        return self.workspace.cache.path("teacher", self.keys.teacher()).stem

    @property
    def unit_keys(self) -> tuple[str, ...]:
        """The keys of the distilled set's units; nothing is computed."""
        return tuple(self.workspace.cache.path("distill", self.keys.unit(unit.index)).stem for unit in self.units)

    def _unit_name(self, unit: Unit) -> str:
        return f"{self.experiment.method_name} {unit.index + 1}/{len(self.units)}"

    @property
    def student_name(self) -> str:
        """How the student is called in progress lines."""
        return f"{self.experiment.student} seed {self.experiment.seed + self.experiment.student_seed}"

    def blamed(self, error: Exception) -> PluginError:
        """What a plugin's code raised where nobody was watching, in a line with the method and the protocol."""
        registry = self.workspace.registry
        who = (
            registry.who("method", self.experiment.method_name),
            registry.who("evaluator", self.experiment.evaluator_name),
        )
        return PluginError(f"{', '.join(who)}: {type(error).__name__}: {error}")

    # -- builders -------------------------------------------------------------------------------------------

    def _build_teacher(self, checkpoint: Checkpoint) -> Built:
        config = self.experiment.teacher
        report = self.builder.report("teacher", teacher_label(config))
        if config.checkpoint is None:
            network = train_teacher(self.dataset, config, self.device, self.precision, checkpoint, report)
        else:
            network = self.checkpoint_network().to(self.device)
        top1, per_class = accuracy(network, self.dataset, "val", self.device, "fp32")
        if config.checkpoint is not None and top1 < 5 + 100 / self.dataset.info.num_classes:
            message = (
                f"{teacher_label(config)} is near chance ({top1:.2f} %): is its class order that of the sorted names?"
            )
            self.workspace.emit(Event("note", "teacher", message=message))
        tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        return tensors, {"top1": top1, "per_class": per_class, "classes": list(self.dataset.info.class_names)}

    def checkpoint_network(self) -> torch.nn.Module:
        """The network of the user's checkpoint, on the CPU. Raises DDBenchError where it does not fit the dataset."""
        network, info, path = self._bare_teacher(), self.dataset.info, self.experiment.teacher.checkpoint
        assert path is not None
        load_checkpoint(network, path, info.num_classes)
        check_class_order(path, info.class_names)
        return network

    def _bare_teacher(self) -> torch.nn.Module:
        config, info = self.experiment.teacher, self.dataset.info
        return build_network(config.arch, info.num_classes, info.image_size, config.stem, config.seed)

    def tapped_teacher(self) -> TappedNetwork:
        """The teacher on the device with its taps, in evaluation mode, frozen."""
        found = self.teacher()  # also where the network is there already: what is built now is made from it

        def load() -> TappedNetwork:
            network = self._bare_teacher()
            network.load_state_dict(found.tensors)
            return TappedNetwork(network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

        teacher = self.workspace.teacher(f"{found.digest} on {self.device}", load)
        self.check_teacher(len(teacher.bn_names), len(teacher.layer_names))
        return teacher

    def check_teacher(self, batch_norms: int, layers: int) -> None:
        """Raises DDBenchError where the method cannot use a teacher with so many BatchNorm and weighted layers."""
        if not self.method.needs_teacher:
            return
        with self.workspace.registry.attribute_errors("method", self.experiment.method_name):
            reason, asked = self.method.skip_teacher(batch_norms), tuple(self.method.layers())
        if reason:
            raise DDBenchError(reason)
        for layer in asked:
            check_layer(layer, layers, self.experiment.teacher.arch)

    def _build_statistics(self, label: int, layer: int | None) -> Built:
        config = self.experiment.statistics
        mine = self.dataset.train.of_class(label)
        teacher = self.tapped_teacher()
        batches = (
            self.dataset.evaluation_view("train", part).to(self.device) for part in torch.split(mine, config.batch_size)
        )
        found = collect(teacher, batches, config.variance, layer)
        tensors: dict[str, Tensor] = {"features": found.features}
        for number, (mean, variance) in enumerate(zip(found.bn_means, found.bn_vars, strict=True)):
            tensors[f"bn.{number}.mean"], tensors[f"bn.{number}.var"] = mean, variance
        return tensors, {"layers": len(found.bn_means), "images": len(mine)}

    def distill_task(self, unit: Unit, checkpoint: Checkpoint) -> DistillContext:
        """What the method gets for one unit."""
        experiment = self.experiment
        declared = self.method.needs_teacher
        refused = refuse_teacher("method", experiment.method_name)
        return DistillContext(
            dataset=self.dataset,
            ipc=experiment.ipc or 0,
            seed=experiment.seed + experiment.repeat,
            device=self.device,
            precision=self.precision,
            checkpoint=checkpoint,
            checkpoint_every=experiment.distill.checkpoint_every,
            report=self.builder.report("distill", self._unit_name(unit)),
            cached=self._intermediates,
            statistics=self.statistics if declared else refused,
            timing={},
            _teacher=self.tapped_teacher if declared else refused,
            compile=experiment.runtime.compile == "on",
            note=self.builder.note("distill", self._unit_name(unit)),
        )

    def _build_unit(self, unit: Unit, checkpoint: Checkpoint) -> Built:
        experiment, task = self.experiment, self.distill_task(unit, checkpoint)
        with self.builder.plugin("method", experiment.method_name, "distill") as who:
            returned = self.method.distill(task, unit)
            result = check_result(returned, unit, self.dataset, who)
        tensors: dict[str, Tensor] = {}
        if result.images is not None:
            tensors["images"] = to_uint8(result.images.detach(), experiment.distill.jpeg_quality)
            tensors["labels"] = torch.tensor([slot.label for slot in unit.slots])
        elif result.indices is not None:
            tensors["indices"] = result.indices.long()
            tensors["labels"] = self.dataset.train.labels[result.indices].clone()
        if result.weights is not None:
            tensors["weights"] = result.weights
        return tensors, {"classes": list(self.dataset.info.class_names), "data": self.dataset.depends_on, **task.timing}

    def _intermediates(
        self, name: str, depends_on: Mapping[str, Any], build: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        found = self.builder.artifact(
            "method", self.keys.intermediate(name, dict(depends_on)), lambda slot: (build(), {}), unit=name
        )
        return found.tensors

    def _labels(
        self, name: str, depends_on: Mapping[str, Any], build: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        key = self.keys.labels(self.distilled.keys, name, dict(depends_on))
        return self.builder.artifact("labels", key, lambda slot: (build(), {}), unit=name).tensors

    def _build_evaluation(self, checkpoint: Checkpoint) -> Built:
        experiment = self.experiment
        task = EvaluateContext(
            dataset=self.dataset,
            distilled=self.distilled,
            teacher_training=experiment.teacher,
            student_arch=experiment.student,
            student_stem=experiment.student_stem,
            seed=experiment.seed + experiment.student_seed,
            ipc=experiment.ipc,
            device=self.device,
            precision=self.precision,
            checkpoint=checkpoint,
            report=self.builder.report("evaluate", self.student_name),
            cached=self._labels,
            _teacher=self.tapped_teacher
            if self.protocol.needs_teacher
            else refuse_teacher("evaluator", experiment.evaluator_name),
        )
        with self.builder.plugin("evaluator", experiment.evaluator_name, "evaluate") as who:
            metrics = check_metrics(self.protocol.evaluate(task), self.dataset.info.num_classes, who)
        return {}, {"metrics": metrics.model_dump(mode="json"), "top1": metrics.top1_last}

    def _build_measure(self) -> Built:
        teacher, distilled = self.tapped_teacher(), self.distilled
        costs = []

        def forward(part: Tensor) -> list[Tensor]:
            return [teacher(self.dataset.normalise(part), bn=False).features]

        in_parts = memory.in_parts(forward, "images")
        for label in range(self.dataset.info.num_classes):
            mine = distilled.labels == label
            pixels = distilled.images[mine].to(self.device)
            with torch.no_grad():
                parts = [in_parts(part)[0] for part in torch.split(pixels, 100)]
            features = torch.cat(parts).float().cpu()
            costs.append(transport_cost(features, distilled.weights[mine], self.statistics(label).features))
        return {}, {"transport_cost": sum(costs) / len(costs), "per_class": costs}

    # -- the record -----------------------------------------------------------------------------------------

    def run(self) -> Record:
        """Everything up to the record of this experiment, stage by stage, so that each is timed for itself."""
        if self.method.needs_teacher or self.protocol.needs_teacher:
            self.teacher()
        if self.method.needs_teacher:
            for label in range(self.dataset.info.num_classes):
                self.statistics(label)
        evaluation = self.evaluation()
        cost = self.transport_cost()
        return record.record(self, evaluation, cost)


def _state(done: list[bool]) -> str:
    if all(done):
        return "cached"
    return "to do" if not any(done) else f"{sum(done)} of {len(done)} cached"
