"""MLflow's client reads what the tracker wrote to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.trackers.mlflow import MLflow

if TYPE_CHECKING:
    from conftest import Grid
    from ddbench.api import Tracker


@pytest.mark.slow  # the import of the library
def test_mlflow_reads_values_picture_and_record(
    grid: Grid, track: Callable[[Tracker], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'ddbench[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    track(MLflow(tmp_path / "tracking"))
    client = MlflowClient((tmp_path / "tracking").as_uri())
    experiment = client.get_experiment_by_name("ddbench")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    run = runs[grid.record.name]
    assert (run.info.status, runs["random-digits-ipc1-01234567"].info.status) == ("FINISHED", "FAILED")
    assert (run.data.params["method"], run.data.params["ipc"]) == ("wmdd", str(grid.record.ipc))
    assert runs["random-digits-ipc1-01234567"].data.params == {"method": "random", "data.size": "8"}
    history = client.get_metric_history(run.info.run_id, "distill/loss 2")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.5), (2, 1.25)]
    assert run.data.metrics["evaluate/top1"] == 61.5
    assert run.data.metrics["record/top1_last"] == grid.record.metrics.top1_last
    folder = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (folder / "preview.png").read_bytes() == grid.picture.read_bytes()
    assert json.loads((folder / "record.json").read_text()) == grid.record.model_dump(mode="json")
