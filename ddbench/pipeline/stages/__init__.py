"""The built-in stages, registered through the same hook as those of plugins. Imports no torch."""

from collections.abc import Iterable
from typing import Any

from ddbench.api.hookspecs import hookimpl
from ddbench.api.stage import Stage
from ddbench.pipeline.stages.data import Data
from ddbench.pipeline.stages.distill import Distill, Intermediate
from ddbench.pipeline.stages.evaluate import Evaluate, Labels
from ddbench.pipeline.stages.given import GivenSet
from ddbench.pipeline.stages.measures import Measures
from ddbench.pipeline.stages.statistics import Statistics
from ddbench.pipeline.stages.teacher import TeacherTraining
from ddbench.pipeline.stages.transport_cost import TransportCost


@hookimpl
def ddbench_stages() -> Iterable[type[Stage[Any]]]:
    """Returns the built-in stages."""
    first = [Data, TeacherTraining, Statistics, Intermediate, GivenSet, Distill]
    return [*first, Labels, Evaluate, TransportCost, Measures]
