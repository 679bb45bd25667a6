"""The dependencies of every stage. They determine when a cached artifact can be reused. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.api.measure import Measure
from ddbench.config.experiment import Experiment
from ddbench.config.schema import TeacherConfig, device_kind, replace_paths
from ddbench.core import versions
from ddbench.core.canonical import key_of
from ddbench.core.files import file_digest, name_in_keys

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset

Depends = dict[str, Any]


@dataclass(frozen=True)
class Keys:
    """The dependencies of each stage of one experiment on one dataset, as JSON trees.

    Attributes:
        experiment: The configuration of the cell.
        dataset: The real data.
        method_version: The version of the method.
        evaluator_version: The version of the protocol.
        stage_keys: Returns the keys of the stages in `Distiller.stages`, by stage.
    """

    experiment: Experiment
    dataset: Dataset
    method_version: str
    evaluator_version: str
    stage_keys: Callable[[], dict[str, list[str]]] = dict

    @property
    def _real(self) -> Depends:
        info = self.dataset.info
        return {
            "data": self.dataset.depends_on,
            "classes": list(info.class_names),
            "image_size": info.image_size,
            "mean": [float(value) for value in self.dataset.mean],
            "std": [float(value) for value in self.dataset.std],
        }

    @property
    def _device(self) -> Depends:
        return {
            "kind": device_kind(self.experiment.runtime.device),
            "precision": self.experiment.runtime.precision,
        }

    @cached_property
    def _checkpoint_digest(self) -> str | None:
        from ddbench.nn.checkpoint_files import check_path

        checkpoint = self.experiment.teacher.checkpoint
        if checkpoint is None:
            return None
        check_path(checkpoint)
        return file_digest(checkpoint)

    @cached_property
    def _named_outputs(self) -> Depends:
        """The class names of the checkpoint's outputs, if they are not the dataset's classes in its order."""
        from ddbench.nn.checkpoint_files import read_checkpoint
        from ddbench.nn.class_order import read_class_names

        config = self.experiment.teacher
        assert config.checkpoint is not None
        names: tuple[str, ...] | None = None
        if config.classes is not None:
            names = read_class_names(config.classes)
        elif config.checkpoint.suffix.lower() != ".safetensors":
            # Keys without names come from versions that read the names in the header of safetensors only.
            names = read_checkpoint(config.checkpoint).classes
        return {} if names in (None, self.dataset.info.class_names) else {"outputs": list(names or ())}

    def teacher(self, arch: str | None = None) -> Depends:
        """Returns the dependencies of a teacher: data, and either recipe and device or the checkpoint's content.

        Args:
            arch: Its network; None: the configured one.
        """
        config = self.experiment.teacher.of(arch or self.experiment.teacher.arch)
        if config.checkpoint is not None:
            made: Depends = {
                "arch": config.arch,
                "stem": config.stem,
                "checkpoint": self._checkpoint_digest,
                **self._named_outputs,
            }
        else:
            made = {**config.model_dump(mode="json", exclude={"checkpoint", "classes"}), **self._device}
        core = {"models": versions.MODELS, "training": versions.TRAINING, "views": versions.VIEWS}
        return {**self._real, "teacher": made, "versions": core}

    def _teachers(self, pool: Iterable[str]) -> Depends:
        keys = {arch: key_of(self.teacher(arch)) for arch in pool}
        return {"teachers": keys} if keys else {}

    def statistics(self, label: int, layer: int | None = None) -> Depends:
        """Returns the dependencies of the float32 statistics of one class, of `layer` if it is given."""
        return {
            "teacher": key_of(self.teacher()),
            "statistics": self.experiment.statistics.model_dump(mode="json"),
            "class": self.dataset.info.class_names[label],
            "device": self._device["kind"],
            "version": versions.STATISTICS,
            **({} if layer is None else {"layer": layer}),
        }

    @cached_property
    def _method_settings(self) -> Depends:
        return replace_paths(self.experiment.method, _content).model_dump(mode="json")

    @cached_property
    def _evaluator_settings(self) -> Depends:
        return replace_paths(self.experiment.evaluator, _content).model_dump(mode="json")

    @property
    def _method(self) -> Depends:
        experiment = self.experiment
        real: Depends = self._real
        if experiment.method.needs_teacher:
            real = {
                "teacher": key_of(self.teacher()),
                "statistics": self._statistics,
                **self._teachers(experiment.method.teacher_pool()),
            }
        return {
            "method": experiment.method_name,
            "method_version": self.method_version,
            "real": real,
            "ipc": experiment.ipc,
            "seed": experiment.seed + experiment.repeat,
            **({"stages": self.stage_keys()} if experiment.method.stages() else {}),
        }

    def inputs(self, stages: Iterable[str], numerics: Iterable[str]) -> Depends:
        """Returns the common dependencies of a plugin's stage: its inputs, the device, the versions of the core."""
        inputs: Depends = {}
        for stage in stages:
            if stage == "data":
                inputs["real"] = self._real
            elif stage == "teacher":
                inputs["teacher"] = key_of(self.teacher())
            elif stage == "statistics":
                inputs["statistics"] = self._statistics
        return {**inputs, "device": self._device, "versions": {name: getattr(versions, name) for name in numerics}}

    @property
    def _statistics(self) -> Depends:
        return {**self.experiment.statistics.model_dump(mode="json"), "version": versions.STATISTICS}

    @property
    def _numerics(self) -> dict[str, str]:
        names = self.experiment.method.numerics()
        return {name.lower(): getattr(versions, name) for name in names}

    def intermediate(self, name: str, depends_on: Depends) -> Depends:
        """Returns the dependencies of an intermediate result of a method: data, teacher, seed, and `depends_on`."""
        core = {"transport": versions.TRANSPORT, **self._numerics}
        return {**self._method, "name": name, "depends_on": depends_on, "device": self._device, "versions": core}

    def unit(self, index: int) -> Depends:
        """Returns the dependencies of one unit of the distilled set."""
        core = {
            "models": versions.MODELS,
            "views": versions.VIEWS,
            "objectives": versions.OBJECTIVES,
            "recover": versions.RECOVER,
            "transport": versions.TRANSPORT,
            "distilled": versions.DISTILLED,
            **self._numerics,
        }
        return {
            **self._method,
            "unit": index,
            "settings": self._method_settings,
            "jpeg_quality": self.experiment.distill.jpeg_quality,
            "device": self._device,
            "versions": core,
            **({"compile": True} if self.experiment.runtime.compile == "on" else {}),
        }

    def labels(self, units: tuple[str, ...], name: str, depends_on: Depends) -> Depends:
        """Returns the dependencies of stored labels: set, teacher, protocol, and `depends_on`."""
        return {**self._protocol(units), "name": name, "depends_on": depends_on}

    def evaluate(self, units: tuple[str, ...]) -> Depends:
        """Returns the dependencies of one student with one seed."""
        experiment = self.experiment
        return {
            **self._protocol(units),
            "student": experiment.student,
            "stem": experiment.student_stem,
            "seed": experiment.seed + experiment.student_seed,
        }

    def measure(self, units: tuple[str, ...]) -> Depends:
        """Returns the dependencies of the transport cost between a distilled set and the real data."""
        config = self.experiment.statistics.model_dump(mode="json")
        return {
            "units": list(units),
            "teacher": key_of(self.teacher()),
            "statistics": config,
            "version": [versions.TRANSPORT, versions.STATISTICS],
        }

    def measurement(
        self, measure: Measure, code: str, student: Mapping[str, Any] | None, units: tuple[str, ...] | None
    ) -> Depends:
        """Returns the dependencies of a measure.

        Args:
            measure: The measure.
            code: The digest of a plugin's code; empty for the core.
            student: The dependencies of the student, if the measure needs it.
            units: The keys of the units, if the measure needs the set.
        """
        core = {"models": versions.MODELS, "statistics": versions.STATISTICS}
        return {
            "measure": measure.name,
            "measure_version": measure.version,
            "code": code,
            "settings": replace_paths(measure, _content).model_dump(mode="json"),
            "real": self._real,
            "device": self._device,
            "versions": core,
            **({} if student is None else {"student": key_of(student)}),
            **({} if units is None else {"units": list(units)}),
            **({"teacher": key_of(self.teacher())} if "teacher" in measure.needs else {}),
            **({"statistics": self._statistics} if "teacher" in measure.needs else {}),
        }

    def _protocol(self, units: tuple[str, ...]) -> Depends:
        experiment = self.experiment
        settings = experiment.evaluator
        teacher = key_of(self.teacher()) if settings.needs_teacher else None
        recipe = experiment.teacher.model_dump(mode="json", exclude={"checkpoint", "classes", "seed", "arch", "stem"})
        core = {"models": versions.MODELS, "training": versions.TRAINING, "views": versions.VIEWS}
        return {
            "units": list(units),
            "real": self._real,
            "teacher": teacher,
            **self._teachers(settings.teacher_pool() if settings.needs_teacher else ()),
            "recipe": recipe if settings.on_real_data else None,
            "evaluator": experiment.evaluator_name,
            "evaluator_version": self.evaluator_version,
            "settings": self._evaluator_settings,
            "device": self._device,
            "versions": core,
        }


def teacher_label(config: TeacherConfig) -> str:
    """Returns the name of a teacher in progress lines and records."""
    return f"{config.arch} (checkpoint {config.checkpoint.name})" if config.checkpoint else config.arch


def _content(path: Path) -> Path:
    """Returns `name_in_keys` as a path, the type of the setting."""
    return Path(name_in_keys(path))
