"""Built-in measures of students and of distilled sets beside top-1. Imports no torch."""

from collections.abc import Iterable

from ddbench.api.hookspecs import hookimpl
from ddbench.api.measure import Measure
from ddbench.measures.of_sets import Coverage, FrechetDistance, LinearProbe
from ddbench.measures.of_students import CalibrationError, CommonCorruptions, ProjectedGradient


@hookimpl
def ddbench_measures() -> Iterable[type[Measure]]:
    return [CalibrationError, CommonCorruptions, ProjectedGradient, Coverage, FrechetDistance, LinearProbe]
