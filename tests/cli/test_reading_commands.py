"""Commands that only read: they load no PyTorch, and open each record once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
RECORDS = Path(__file__).parents[2] / "results" / "reference" / "imagenette-64px" / "records"
COMMANDS = (
    "list methods",
    "show",
    "records",
    "records --scores",
    "table comparison --data-dir .",
    "table regimes --data-dir .",
    "report",
    "figure scaling",
)
HEAVY = ("torch", "torchvision", "timm", "sklearn", "ot")
SCRIPT = """
import collections, json, sys
from click.testing import CliRunner
opened = collections.Counter()
sys.addaudithook(lambda event, arguments: opened.update([str(arguments[0])]) if event == "open" else None)
from ddbench.cli.main import cli
commands, heavy = json.loads(sys.argv[1])
for command in commands:
    opened.clear()
    done = CliRunner().invoke(cli, command.split())
    reads = {path: count for path, count in opened.items() if path.startswith("results/records/")}
    print(json.dumps([done.exit_code, done.output[-500:], sorted(set(heavy) & sys.modules.keys()), reads]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Exit code, end of the output, loaded libraries and opened records of each command, in one new process."""
    root = tmp_path_factory.mktemp("reading")
    folder = root / "results" / "records"
    folder.mkdir(parents=True)
    for path in [*sorted(RECORDS.glob("random-*.json"))[:6], *sorted(RECORDS.glob("wmdd-*.json"))[:6]]:
        shutil.copy(path, folder)
    process = [sys.executable, "-c", SCRIPT, json.dumps([COMMANDS, HEAVY])]
    done = subprocess.run(process, cwd=root, capture_output=True, text=True, check=True)
    return dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_no_heavy_library_is_loaded(command: str, outcomes: dict[str, list[Any]]) -> None:
    code, output, loaded, _ = outcomes[command]
    assert code == 0, output
    assert loaded == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith(("list", "show"))])
def test_each_record_is_opened_once(command: str, outcomes: dict[str, list[Any]]) -> None:
    reads = outcomes[command][3]
    assert len(reads) == 12
    assert set(reads.values()) == {1}
