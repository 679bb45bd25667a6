"""MLflow: one run of the experiment for each record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddbench.api.tracker import Tracker, metrics_of

LONGEST_VALUE = 500
"""Largest length of a parameter, which is the limit of old servers."""


class MLflow(Tracker):
    """Sends runs to the server of `MLFLOW_TRACKING_URI`, or keeps them in files in `RESULTS/tracking/mlflow`.

    The experiment is that of `MLFLOW_EXPERIMENT_NAME`, or `ddbench`.
    """

    name = "mlflow"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # files need no database
        from mlflow import MlflowClient

        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or folder.absolute().as_uri())
        self._ids: dict[str, str] = {}

    def start(self, run: str, configuration: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ddbench")
        experiment = self._client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment else self._client.create_experiment(title)
        self._ids[run] = self._client.create_run(number, run_name=run).info.run_id
        parameters = [Param(name, value[:LONGEST_VALUE]) for name, value in flat(configuration).items()]
        for start in range(0, len(parameters), 100):  # the limit of one call
            self._client.log_batch(self._ids[run], params=parameters[start : start + 100])

    def log(self, run: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._ids[run], name, value, step=step)

    def image(self, run: str, path: Path) -> None:
        self._client.log_artifact(self._ids[run], str(path))

    def finish(self, run: str, record: Mapping[str, Any] | None) -> None:
        if record:
            self.log(run, {f"record/{name}": value for name, value in metrics_of(record).items()}, 0)
            self._client.log_dict(self._ids[run], dict(record), "record.json")
        self._client.set_terminated(self._ids.pop(run), "FINISHED" if record else "FAILED")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns the values of nested mappings as text, by path.

    Example:
        >>> flat({"method": "random", "data": {"image_size": 8}})
        {'method': 'random', 'data.image_size': '8'}
    """
    texts: dict[str, str] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        texts |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: str(value)}
    return texts
