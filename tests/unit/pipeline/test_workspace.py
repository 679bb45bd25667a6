"""Objects that the cells of a grid share: an image folder in a pipeline goes by its name in records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

SETTINGS = ("data.image_size=8", "data.stored_size=8", "evaluator.epochs=1")


def test_a_folder_has_its_name_in_a_pipeline_and_its_path_for_other_processes(
    tmp_path: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder("pets")
    monkeypatch.chdir(tmp_path)
    registry = PluginRegistry()

    def workspace(data_dir: Path | None = None) -> Workspace:
        return Workspace(registry, Cache(tmp_path / "cache"), data_dir)

    request = Request(("random",), ("imagefolder:pets",), (1,), assignments=SETTINGS, recipes=("smoke",))
    (given,) = experiments(request, registry)
    here = workspace()
    pipeline = Pipeline(here, given)
    name = pipeline.experiment.dataset
    assert name == f"imagefolder:pets@{pipeline.info.fingerprint[:8]}" == pipeline.info.name
    assert here.dataset_reference(name) == given.dataset
    assert here.dataset(name, given.data) is here.dataset(given.dataset, given.data)
    worker = Pipeline(workspace(), pipeline.experiment.model_copy(update={"dataset": here.dataset_reference(name)}))
    assert worker.unit_keys == pipeline.unit_keys
    assert worker.experiment == pipeline.experiment
    monkeypatch.chdir("/")
    with pytest.raises(DDBenchError, match=r"images of imagefolder:pets@.* --data-dir"):
        Pipeline(workspace(), pipeline.experiment)
    assert Pipeline(workspace(tmp_path), pipeline.experiment).unit_keys == pipeline.unit_keys


def test_observers_get_no_path(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    registry, events = PluginRegistry(), list[Event]()
    request = Request(("random",), (f"imagefolder:{image_folder('pets')}",), (1,), assignments=SETTINGS)
    (given,) = experiments(request, registry)
    workspace = Workspace(registry, Cache(tmp_path / "cache"), None)
    workspace.emit = events.append
    Pipeline(workspace, given).build("distill")
    of_cells = [event for event in events if event.cell]
    assert of_cells
    assert not [event for event in of_cells if str(tmp_path) in event.cell + json.dumps(event.configuration)]
