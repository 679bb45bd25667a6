"""`ddbench new-plugin`: what is refused, and that nothing is left then. What it writes: tests/unit/registry."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        (("digits", "--dataset"), "dataset 'digits' is in ddbench already"),
        (("regimes", "--table"), "table 'regimes' is in ddbench already"),
        (("dynamics", "--stage"), "stage 'dynamics' is in ddbench already"),
        (("kmeans", "--stage"), "method 'kmeans' is in ddbench already"),
    ],
)
def test_names_that_cannot_be_are_refused_in_a_line(shell: Shell, arguments: tuple[str, ...], says: str) -> None:
    outcome = shell("new-plugin", *arguments)
    assert (outcome.code, outcome.out, len(outcome.errors)) == (2, "", 1)
    assert says in outcome.err
    assert shell.files() == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "table", "stage"])
def test_what_is_written_runs_as_a_plugin_file(kind: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods and protocols are installed and run in tests/unit/registry/test_scaffold.py."""
    monkeypatch.setenv("DDBENCH_PLUGINS", "")
    assert shell("new-plugin", "mine", f"--{kind}").code == 0
    folder = shell.root / "ddbench-mine"
    module = shell.root / f"mine_{kind}.py"  # a process can load one plugin file of a name
    module.write_bytes((folder / "ddbench_mine" / "__init__.py").read_bytes())
    (command,) = re.findall("^ddbench (?:run|table) .*$", (folder / "README.md").read_text(), re.MULTILINE)
    outcome = shell("--plugin", module, *shlex.split(command)[1:])
    assert outcome.code == 0, outcome.err
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert {(record["method"], record["dataset"]) for record in records} == {
        "dataset": {("random", "mine")},
        "table": {("random", "digits")},
        "stage": {("mine", "digits")},
    }[kind]
    (listing,) = re.findall("^ddbench (list .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert shell("--plugin", module, *listing.split()).code == 0
    if kind != "stage":  # its tests are the conformance tests of the method
        monkeypatch.syspath_prepend(folder)
        tests: dict[str, Any] = {}
        exec((folder / "tests" / "test_conformance.py").read_text(), tests)
        del sys.modules["ddbench_mine"]
        for name in [name for name in tests if name.startswith("test_")]:
            tests[name]()


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
