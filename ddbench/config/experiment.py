"""The resolved configuration of one run. Imports no torch."""

from typing import Any

from pydantic import Field, SerializeAsAny

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.measure import Measure
from ddbench.api.settings import Section
from ddbench.config.datasets import dataset_name
from ddbench.config.schema import (
    DataConfig,
    DistillConfig,
    RuntimeConfig,
    StatisticsConfig,
    Stem,
    TeacherConfig,
    with_digests,
    without_folders,
)


class Experiment(Section, serialize_by_alias=True):
    """The complete configuration of one distilled set and one student.

    Records and cache keys store the fields under their aliases.
    """

    dataset: str = Field(description="as on the command line; in a pipeline the name in records, without a path")
    method_name: str = Field(alias="method")
    ipc: int | None = Field(ge=1)
    evaluator_name: str = Field(alias="evaluator")
    student: str
    student_stem: Stem = "auto"
    seed: int = Field(default=0, ge=0, description="base seed")
    repeat: int = Field(default=0, ge=0, description="number of the distilled set: its seed is seed + repeat")
    student_seed: int = Field(default=0, ge=0, description="number of the student: its seed is seed + student_seed")
    recipes: tuple[str, ...]
    recipe_files: dict[str, str] = Field(default={}, description="files of the recipes that are not installed, by name")
    changed: tuple[str, ...] = Field(default=(), description="settings given by --set, which override the recipes")
    trial: dict[str, Any] | None = Field(
        default=None,
        exclude=True,  # it determines no result: keys and configurations do not have it
        description="the trial of a search that the cell belongs to, as in `Record.trials`",
    )
    data: DataConfig
    teacher: TeacherConfig
    statistics: StatisticsConfig
    distill: DistillConfig
    runtime: RuntimeConfig
    method: SerializeAsAny[Distiller] = Field(alias="method_settings")
    evaluator: SerializeAsAny[Evaluator] = Field(alias="evaluator_settings")
    measures: dict[str, SerializeAsAny[Measure]] = Field(
        default={}, exclude_if=lambda measures: not measures, description="measures by name"
    )

    def public(self) -> dict[str, Any]:
        """Returns the configuration as JSON for records and observers: files are named without their folder.

        Those of the method, the protocol and the measures are named with a digest.
        """
        plugins = {
            "method": with_digests(self.method),
            "evaluator": with_digests(self.evaluator),
            "measures": {name: with_digests(measure) for name, measure in self.measures.items()},
        }
        return without_folders(self.model_copy(update=plugins)).model_dump(mode="json") | {
            "dataset": dataset_name(self.dataset)
        }

    @property
    def keeps_student(self) -> bool:
        """Whether a measure needs the weights of the student, which are not kept otherwise."""
        return any("student" in measure.needs for measure in self.measures.values())

    @property
    def name(self) -> str:
        """The cell in words: `wmdd, digits, IPC 10, set 0, fkd, resnet18 seed 0`."""
        size = "whole training set" if self.ipc is None else f"IPC {self.ipc}"
        student = f"{self.student} seed {self.seed + self.student_seed}"
        words = (self.method_name, dataset_name(self.dataset), size, f"set {self.repeat}", self.evaluator_name, student)
        return ", ".join(words)
