"""Commands that only read: they load no PyTorch, open each record once, and neither data nor cache."""

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
    "table comparison --data-dir data --cache-dir cache",
    "table regimes --data-dir data --cache-dir cache",
    "table comparison --dataset imagenette --data-dir data --cache-dir cache",
    "table efficiency --data-dir data --cache-dir cache",
    "report",
    "leaderboard",
    "figure scaling",
)
HEAVY = ("torch", "torchvision", "timm", "sklearn", "ot")
SCRIPT = """
import collections, json, sys
from click.testing import CliRunner
opened = collections.Counter()
EVENTS = ("open", "os.listdir", "os.scandir", "os.mkdir")
sys.addaudithook(lambda event, arguments: opened.update([str(arguments[0])]) if event in EVENTS else None)
from ddbench.cli.main import cli
commands, heavy = json.loads(sys.argv[1])
for command in commands:
    opened.clear()
    done = CliRunner().invoke(cli, command.split())
    reads = {path: count for path, count in opened.items() if path.startswith("results/records/")}
    others = sorted(path for path in opened if path.startswith(("data", "cache")))
    print(json.dumps([done.exit_code, done.output[-500:], sorted(set(heavy) & sys.modules.keys()), reads, others]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Exit code, end of the output, loaded libraries and opened records of each command, in one new process."""
    root = tmp_path_factory.mktemp("reading")
    folder = root / "results" / "records"
    folder.mkdir(parents=True)
    for path in [*sorted(RECORDS.glob("random-*.json"))[:6], *sorted(RECORDS.glob("wmdd-*.json"))[:6]]:
        shutil.copy(path, folder)
    for name in ("train/n01440764", "val/n01440764"):  # a dataset that would be opened if it were looked for
        (root / "data" / "imagenette2" / name).mkdir(parents=True)
        (root / "data" / "imagenette2" / name / "a.JPEG").write_bytes(b"")
    process = [sys.executable, "-c", SCRIPT, json.dumps([COMMANDS, HEAVY])]
    done = subprocess.run(process, cwd=root, capture_output=True, text=True, check=True)
    return dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_no_heavy_library_is_loaded(command: str, outcomes: dict[str, list[Any]]) -> None:
    code, output, loaded, *_ = outcomes[command]
    assert code == 0, output
    assert loaded == []


@pytest.mark.parametrize("command", COMMANDS)
def test_neither_data_nor_cache_is_opened(command: str, outcomes: dict[str, list[Any]]) -> None:
    assert outcomes[command][4] == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith(("list", "show"))])
def test_each_record_is_opened_once(command: str, outcomes: dict[str, list[Any]]) -> None:
    reads = outcomes[command][3]
    assert len(reads) == 12
    assert set(reads.values()) == {1}
