"""Built-in measures of students and of distilled sets beside top-1. `ddbench.evaluators` registers them.

Imports no torch.
"""

from ddbench.api.measure import Measure
from ddbench.measures.of_sets import Coverage, FrechetDistance, LinearProbe
from ddbench.measures.of_students import CalibrationError, CommonCorruptions, ProjectedGradient

MEASURES: tuple[type[Measure], ...] = (
    *(CalibrationError, CommonCorruptions, ProjectedGradient),
    *(Coverage, FrechetDistance, LinearProbe),
)
"""The built-in measures."""
