"""The notebook of the page on Python runs from top to bottom, in a kernel of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "python.ipynb"


def outputs(cell: Any, *names: str) -> str:
    """The texts of a cell's outputs on these streams, or its values."""
    texts = [
        one["text"] if "text" in one else one["data"]["text/plain"]
        for one in cell["outputs"]
        if one.get("name", "value") in names
    ]
    return "".join(texts)


def test_no_outputs_are_committed() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4)["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow(17)
def test_the_notebook_runs_and_shows_progress_results_and_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    wrong = nbformat.v4.new_code_cell('ddbench.run("randm", "digits", 1)', metadata={"tags": ["raises-exception"]})
    notebook["cells"].append(wrong)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    _, run, images, loop, own, evaluate, records, table, _ = [
        cell for cell in notebook["cells"] if cell["cell_type"] == "code"
    ]
    progress = outputs(run, "stderr").splitlines()
    assert any(line.startswith("evaluate kmeans IPC 1 hard") and "finished" in line for line in progress)
    assert "3 students on 1 set" in outputs(run, "stdout")
    assert outputs(run, "value").splitlines()[0].split() == ["mean", "std", "count"]
    assert "image/png" in images["outputs"][-1]["data"]
    top1 = float(re.findall(r"top-1 (\d+\.\d) %", outputs(loop, "stdout"))[0])
    assert top1 > 50  # chance is 10
    assert outputs(own, "value").splitlines()[1].startswith("mean ")
    assert "difference to random, hard, convnet-bn-d1: " in outputs(evaluate, "stdout")
    assert len(outputs(records, "value").splitlines()) == 1 + 3
    assert "kmeans" in outputs(table, "value")
    (error,) = wrong["outputs"]
    assert error["traceback"] == ["DDBenchError: unknown method 'randm'; did you mean 'random'?"]
