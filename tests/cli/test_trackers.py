"""`ddbench run --track`: a run of the tracker for each record, and one line where the library is missing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ddbench.api import Context, Event, Tracker, hookimpl
from ddbench.registry.registry import PluginRegistry
from ddbench.registry.tracking import tracking

if TYPE_CHECKING:
    from conftest import Finished, Shell

REQUEST = ("run", "--method", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke")


@pytest.mark.slow
def test_each_cell_of_a_grid_has_a_run(finished: Finished, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'ddbench[tensorboard]'")
    shutil.copytree(finished.shell.root, tmp_path, dirs_exist_ok=True)
    shell = type(finished.shell)(tmp_path)
    shell.run(*finished.grid, "--track", "tensorboard")
    records = {path.stem for path in (shell.results / "records").glob("*.json")}
    assert {path.name for path in (shell.results / "tracking" / "tensorboard").iterdir()} == records


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_library_is_one_line(name: str, module: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    outcome = shell(*REQUEST, "--track", name)
    assert outcome.code == 2
    assert outcome.errors == [f"ddbench: --track {name}: {module} is not installed: pip install 'ddbench[{name}]'"]
    assert not (shell.results / "records").exists()


def test_a_tracker_that_fails_does_not_end_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Tracker):
        name = "failing"

        def start(self, run: str, configuration: Mapping[str, Any]) -> None:
            raise OSError("no server")

        def log(self, run: str, values: Mapping[str, float], step: int) -> None: ...

        def finish(self, run: str, record: Mapping[str, Any] | None) -> None: ...

        def close(self) -> None:
            raise OSError("no server again")

    registry = PluginRegistry(())
    registry.register(SimpleNamespace(ddbench_trackers=hookimpl(lambda: [Failing])), "ddbench-failing")
    context = Context("a cell", "random-1", {})
    with tracking(registry, [registry.tracker("failing")], Path()):
        for step in (1, 2):
            registry.emit(Event("step", "distill", step=step, metrics={"loss": 1.0}, context=context))
    first, last = capsys.readouterr().err.splitlines()
    assert "observer of ddbench-failing failed and is not called again: OSError: no server" in first
    assert last == "ddbench: warning: tracker 'failing' of ddbench-failing: OSError: no server again"


def test_an_unknown_tracker_is_one_line(shell: Shell) -> None:
    outcome = shell(*REQUEST, "--track", "tensorbord", "--dry-run")
    assert (outcome.code, outcome.errors) == (2, ["ddbench: unknown tracker 'tensorbord'; did you mean 'tensorboard'?"])
