"""An Experiment: the whole configuration tree of one cell of a grid. Imports no torch."""

from pydantic import Field, SerializeAsAny

from ddbench.config import (
    DataConfig,
    DistillConfig,
    RuntimeConfig,
    Section,
    StatisticsConfig,
    Stem,
    TeacherConfig,
)
from ddbench.distiller import Distiller
from ddbench.evaluator import Evaluator


class Experiment(Section):
    """Everything that one cell of a grid depends on: one distilled set, one student, one seed."""

    dataset: str
    method: str
    ipc: int | None = Field(ge=1)
    evaluator: str
    student: str
    student_stem: Stem = "auto"
    seed: int = Field(default=0, ge=0, description="base seed")
    repeat: int = Field(default=0, ge=0, description="which distilled set: its seed is seed + repeat")
    student_seed: int = Field(default=0, ge=0, description="which student on the set: its seed is seed + student_seed")
    recipes: tuple[str, ...]
    changed: tuple[str, ...] = Field(default=(), description="settings that were changed by --set, over the recipes")
    data: DataConfig
    teacher: TeacherConfig
    statistics: StatisticsConfig
    distill: DistillConfig
    runtime: RuntimeConfig
    method_settings: SerializeAsAny[Distiller]
    evaluator_settings: SerializeAsAny[Evaluator]
