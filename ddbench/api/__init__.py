"""The public API for plugins: methods, protocols, measures, datasets, tables and hooks. Imports no torch.

The names in `__all__` of `ddbench.ot`, `ddbench.losses`, `ddbench.nn`, `ddbench.augment`, `ddbench.training` and
`ddbench.data` are public too, as is `ddbench.testing` for the tests of a plugin. All other modules can change without
notice.
"""

from ddbench.api.context import Cached, CheckpointIO, DistillTask, EvaluateTask, ImageLoss, Progress
from ddbench.api.cost import Cost, Passes
from ddbench.api.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DatasetInfo,
    DatasetSpec,
    Download,
    MissingDataError,
    RemoteFile,
    Source,
    Split,
)
from ddbench.api.distiller import Distiller, no_batch_norm, too_few_images
from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.api.hookspecs import hookimpl
from ddbench.api.images import DistilledImages, Images, RealData
from ddbench.api.measure import Measure, MeasureTask, Refusal
from ddbench.api.settings import DSA_STRATEGY, CommitteeSettings, RecoverSettings, Strategy, TrainingSettings
from ddbench.api.stage import Stage, StageRun
from ddbench.api.table import TOP1, Cell, Metric, TableQuery, TableSpec
from ddbench.api.teacher import ClassStatistics, Objective, Output, Phase, Teacher
from ddbench.api.tracker import Tracker
from ddbench.api.units import Slot, Unit, UnitResult, units_across_classes, units_of_whole_classes
from ddbench.core import interruption, seeds
from ddbench.core.checks import require_finite
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Context, Event

__all__ = [
    "DSA_STRATEGY",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "TOP1",
    "Cached",
    "Cell",
    "CheckpointIO",
    "ClassStatistics",
    "CommitteeSettings",
    "Context",
    "Cost",
    "DDBenchError",
    "DatasetInfo",
    "DatasetSpec",
    "DistillTask",
    "DistilledImages",
    "Distiller",
    "Download",
    "EvaluateTask",
    "Evaluator",
    "Event",
    "ImageLoss",
    "Images",
    "Measure",
    "MeasureTask",
    "Metric",
    "Metrics",
    "MissingDataError",
    "Objective",
    "Output",
    "Passes",
    "Phase",
    "Progress",
    "RealData",
    "RecoverSettings",
    "Refusal",
    "RemoteFile",
    "Slot",
    "Source",
    "Split",
    "Stage",
    "StageRun",
    "Strategy",
    "TableQuery",
    "TableSpec",
    "Teacher",
    "Tracker",
    "TrainingSettings",
    "Unit",
    "UnitResult",
    "hookimpl",
    "interruption",
    "no_batch_norm",
    "require_finite",
    "seeds",
    "too_few_images",
    "units_across_classes",
    "units_of_whole_classes",
]
