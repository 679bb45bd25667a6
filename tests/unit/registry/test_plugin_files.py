"""Plugins in single files: `ddbench --plugin FILE`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import FAST
from ddbench.registry.plugin_files import VARIABLE, add_plugin_files, load_plugin_file, plugin_files
from ddbench.results.records import read_all

if TYPE_CHECKING:
    from conftest import Shell

METHOD = """
from ddbench.api import Distiller, UnitResult, hookimpl


class {name}(Distiller):
    name = "{method}"
    version = "1"
    needs_teacher = False

    def distill(self, task, unit):
        import torch

        indices = [task.dataset.train.of_class(slot.label)[slot.index + {start}] for slot in unit.slots]
        return UnitResult(indices=torch.stack(indices))


@hookimpl
def ddbench_distillers():
    return [{name}]
"""


def write(path: Path, method: str, start: int = 0) -> Path:
    path.write_text(METHOD.format(name="Mine", method=method, start=start), encoding="utf-8")
    return path


def test_a_file_adds_a_method(shell: Shell) -> None:
    write(shell.root / "early.py", "early")
    listed = shell("--plugin", "early.py", "list", "methods")
    assert listed.code == 0
    assert "early" in listed.out
    assert "early" not in shell("list", "methods").out


@pytest.mark.slow(26)
def test_edited_code_is_computed_again_and_workers_load_the_file(shell: Shell) -> None:
    """A new process, and its workers, find the edited file."""
    plugin = write(shell.root / "mine.py", "mine")
    run = ("run", *FAST, "--method", "mine", "--dataset", "digits", "--ipc", "1", "--evaluator", "hard")
    for _ in range(2):
        outcome = shell("--plugin", plugin.name, *run)
        assert outcome.code == 0, outcome.err
    (first,) = read_all(shell.results / "records")
    assert first.stages["distill"][0]["distribution"] == "mine.py"
    write(plugin, "mine", start=1)
    command = [sys.executable, "-m", "ddbench", "--plugin", plugin.name, *run, "--executor", "ray"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--cache-dir", "cache"], cwd=shell.root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    digests = {record.distilled_digest for record in read_all(shell.results / "records")}
    assert digests > {first.distilled_digest}


def test_code_that_is_edited_within_the_same_second_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads the cached bytecode of a file whose size and second of modification have not changed."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "edited_quickly.py"
    loaded: list[object] = []
    for number in (1, 2):
        path.write_text(f"from ddbench.api import hookimpl\nNUMBER = {number}\n@hookimpl\ndef ddbench_tables(): ...\n")
        os.utime(path, (1e9, 1e9))
        load_plugin_file(path, lambda module, _: loaded.append(vars(module)["NUMBER"]))
        del sys.modules["ddbench_plugin_file_edited_quickly"]
    assert loaded == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, "there is no such file"),
        ("text.txt", "", "this is no Python file (FILE.py)"),
        ("empty_file.py", "x = 1", "none of its functions has the decorator @hookimpl"),
        ("divides.py", "\n1 / 0", "ZeroDivisionError: division by zero (divides.py, line 2)"),
        ("taken.py", METHOD.format(name="Mine", method="kmeans", start=0), "method 'kmeans' is registered by both"),
    ],
)
def test_a_faulty_file_is_refused(shell: Shell, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (shell.root / name).write_text(content, encoding="utf-8")
    shell("--plugin", name, "list", "methods").refused(f"ddbench: plugin {shell.root / name}: {message}")


def test_two_files_of_one_name_are_refused(shell: Shell) -> None:
    (shell.root / "other").mkdir()
    write(shell.root / "twice.py", "twice")
    write(shell.root / "other" / "twice.py", "twice-2")
    refused = shell("--plugin", "twice.py", "--plugin", "other/twice.py", "list", "methods")
    refused.refused(
        f"ddbench: plugin {shell.root / 'other' / 'twice.py'}: the plugin {shell.root / 'twice.py'} has the"
    )


def test_the_option_stands_before_the_command(shell: Shell) -> None:
    shell("run", "--plugin", "mine.py").refused("ddbench: write --plugin FILE before the command")


def test_files_are_kept_in_the_environment_for_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "a.py"))
    add_plugin_files([tmp_path / "b.py", tmp_path / "a.py"])
    assert plugin_files() == [tmp_path / "a.py", tmp_path / "b.py"]
