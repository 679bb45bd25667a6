"""Built-in experiment trackers, for `ddbench run --track`. Each imports its library when it is created."""

from collections.abc import Iterable

from ddbench.api.hookspecs import hookimpl
from ddbench.api.tracker import Tracker
from ddbench.trackers.mlflow import MLflow
from ddbench.trackers.tensorboard import TensorBoard
from ddbench.trackers.wandb import WeightsAndBiases


@hookimpl
def ddbench_trackers() -> Iterable[type[Tracker]]:
    return [MLflow, TensorBoard, WeightsAndBiases]
