"""A terminal of 80 columns: no command prints a longer line, except for a word that is longer, such as a path."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell

pytestmark = pytest.mark.slow
RECORDS = Path(__file__).parents[2] / "results" / "reference" / "imagenette-64px" / "records"
SMALL = ("--method", "random,wmdd", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke")
TABLES = (
    "comparison",
    "regimes",
    "ablation",
    "cross-arch",
    "efficiency",
    "hyperparameters",
    "lambda",
    "sliced",
    "budget",
)
COMMANDS = (
    ("records",),
    ("records", "--scores"),
    ("show",),
    ("compare", "wmdd tuned", "random", "sre2l", "--per-class"),
    *(("table", name) for name in TABLES),
    ("table", "regimes", *SMALL, "--dry-run"),
    ("run", *SMALL, "--dry-run"),
    ("list", "methods"),
    ("list", "methods", "wmdd"),
    ("list", "recipes", "quick"),
    ("cache", "ls"),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Shell:
    """A folder with the committed records of ImageNette."""
    shell = shell_in(tmp_path_factory.mktemp("narrow"))
    shutil.copytree(RECORDS, shell.results / "records")
    return shell


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_is_longer_than_the_terminal(
    command: tuple[str, ...], measured: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = measured(*command)
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.out.splitlines() if len(line) > 80 and len(line.split()) > 1] == []
    # No number is divided.
    assert not re.search(r"(±|[0-9]\.|^ *±.*)$", outcome.out, re.MULTILINE)


def test_wide_prints_all_columns_in_one_line_per_row(measured: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    count = len(list((measured.results / "records").iterdir()))
    lines = measured("records", "--wide").out.splitlines()
    assert len(lines) == 2 + count
    assert {"method", "ipc", "student_seed", "regime"} <= set(lines[0].split())
    scores = measured("records", "--scores", "--wide").out.splitlines()
    assert {"deviation", "sets", "hard_n", "missing", "teacher"} <= set(scores[0].split())
    assert set(scores[1]) == {"-", " "}
