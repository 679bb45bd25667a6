"""A method with a file among its settings, from the command line: keys, records, scores and repetitions."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.results import records
from ddbench.results.command import command_of

if TYPE_CHECKING:
    from conftest import Shell

GRAY = """
    from pathlib import Path

    import torch
    from ddbench.api import Distiller, hookimpl

    class Gray(Distiller, frozen=True):
        \"\"\"Images of the level in a file.\"\"\"

        name = "gray"
        version = "1"
        needs_teacher = False
        default_evaluator = "hard"
        level: Path

        def distill(self, task, unit):
            size = task.info.image_size
            return torch.full((len(unit.slots), 3, size, size), float(self.level.read_text()))

    @hookimpl
    def ddbench_distillers():
        return [Gray]
"""


def test_a_file_counts_by_its_content_wherever_it_lies(
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    install_plugin: Callable[[Path, str, str], None],
) -> None:
    install_plugin(tmp_path / "site", "ddtest_gray", GRAY)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for place, level in (("one", "0.25"), ("two", "0.25"), ("three", "0.75")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "level.txt").write_text(level)

    def run(place: str) -> str:
        options = ("--dataset", "digits", "--method", "gray", "--ipc", "1", "--student", "convnet-d1")
        outcome = shell.quick_run(*options, "--set", f"gray.level=~/{place}/level.txt")
        assert outcome.code == 0, outcome.err
        return outcome.err

    assert "distill gray IPC 1 1/1: started" in run("one")
    assert "distill gray IPC 1 1/1: cached" in run("two")
    assert "distill gray IPC 1 1/1: started" in run("three")
    stored = {path.stem: json.loads(path.read_text()) for path in (shell.results / "records").iterdir()}
    levels = {record["configuration"]["method_settings"]["level"]: name for name, record in stored.items()}
    first, other = (f"level.txt@{hashlib.sha256(level).hexdigest()[:8]}" for level in (b"0.25", b"0.75"))
    assert levels.keys() == {first, other}
    assert str(tmp_path) not in json.dumps(stored)
    scores = json.loads(shell("records", "--scores", "--format", "json").out)
    assert [row["n"] for row in scores] == [1, 1]  # other images are no second set of one setting

    shown = shell("show", levels[first]).out
    assert "level.txt in the working directory" in shown
    (tmp_path / "two" / "level.txt").rename(shell.root / "level.txt")
    words = shlex.split(command_of(records.read(shell.results / "records" / f"{levels[first]}.json")))
    again = shell(*words[1:])
    assert again.code == 0, again.err
    assert not [line for line in again.errors if line.endswith(": started")]

    repeat = ("repeat", levels[other])
    shell(*repeat).refused("level.txt has another content than 'level.txt@")
    again = shell(*repeat, "--file", tmp_path / "three" / "level.txt")
    assert again.out.endswith("agrees: the same distilled set and the same accuracies\n"), again.err
