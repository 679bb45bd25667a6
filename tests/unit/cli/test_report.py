"""`ddbench report`: what its help loads, and what is refused. What the file holds: tests/unit/report."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Shell


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom ddbench.cli.main import cli\ncli.main(['report', '--help'], standalone_mode=False)\n"
        "print(sorted({'torch', 'pandas', 'itables', 'jinja2', 'PIL'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--output" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_records_there_is_no_report(shell: Shell) -> None:
    shell("report").refused("no records in results/records")
    assert shell.files() == {}
