"""`ddbench new-plugin`: what is refused, and that nothing is left then. What it writes: tests/unit/registry."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Blur",), "'Blur' is not a valid name: use lower-case letters, digits and dashes, and begin with a letter"),
        (("../blur",), "is not a valid name"),
        (("blur-",), "is not a valid name"),
        (("wmdd",), "method 'wmdd' is in ddbench-wmdd already"),
        (("random",), "method 'random' is in ddbench already"),
        (("hard", "--evaluator"), "evaluator 'hard' is in ddbench already"),
        (("wmdd", "--evaluator"), "ddbench-wmdd is installed already"),
    ],
)
def test_names_that_cannot_be_are_refused_in_a_line(shell: Shell, arguments: tuple[str, ...], says: str) -> None:
    outcome = shell("new-plugin", *arguments)
    assert (outcome.code, outcome.out, len(outcome.errors)) == (2, "", 1)
    assert says in outcome.err
    assert shell.files() == {}


def test_a_folder_that_is_there_is_not_touched(shell: Shell) -> None:
    assert shell("new-plugin", "blur", "--output", "mine").code == 0
    files = shell.files()
    outcome = shell("new-plugin", "blur", "--output", "mine")
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert "mine/ddbench-blur exists already" in outcome.err
    assert shell.files() == files


def test_where_the_disk_refuses_nothing_is_left(tmp_path: Path) -> None:
    """No file can grow beyond nothing: the first one that is written fails."""
    command = f"ulimit -f 0; {shlex.join([sys.executable, '-m', 'ddbench', 'new-plugin', 'blur'])}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
