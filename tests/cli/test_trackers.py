"""`ddbench run --track`: a run of the tracker for each record, and one line where the library is missing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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


def test_an_unknown_tracker_is_one_line(shell: Shell) -> None:
    outcome = shell(*REQUEST, "--track", "tensorbord", "--dry-run")
    assert (outcome.code, outcome.errors) == (2, ["ddbench: unknown tracker 'tensorbord'; did you mean 'tensorboard'?"])
