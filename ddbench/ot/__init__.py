"""Optimal transport for distillation: exact plans, barycenters of the features of one class, sliced transport."""

from ddbench.ot.barycenters import barycenter_paper, barycenter_released, newton_step, project_simplex
from ddbench.ot.exact import nearest_shares, squared_distances, transport_cost, transport_plan
from ddbench.ot.lloyd import barycenter_lloyd
from ddbench.ot.points import Barycenter
from ddbench.ot.sliced import barycenter_sliced, random_directions, sliced_cost

__all__ = [
    "Barycenter",
    "barycenter_lloyd",
    "barycenter_paper",
    "barycenter_released",
    "barycenter_sliced",
    "nearest_shares",
    "newton_step",
    "project_simplex",
    "random_directions",
    "sliced_cost",
    "squared_distances",
    "transport_cost",
    "transport_plan",
]
