"""The command line with the authors' protocols: one run of all, and one column for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell

AUTHORS = ("rded", "edc", "mtt", "datm-dsa", "minimax-hard")


@pytest.mark.slow
def test_one_run_evaluates_a_set_by_every_authors_protocol(shell: Shell) -> None:
    digits = ("--method", "random", "--dataset", "digits", "--ipc", "1", "--image-size", "16")
    rows = shell.run(*digits, "--evaluator", ",".join(AUTHORS), "--set", "rded.factor=2").rows
    assert [row["protocol"] for row in rows] == [f"{name} v1" for name in AUTHORS]
    assert [row["student"] for row in rows] == [*["convnet-bn-d3"] * 2, *["convnet-d3"] * 2, "resnetap-10"]
    shown = shell("table", "comparison", "--method", "random", "--evaluator", ",".join(AUTHORS), "--dataset", "digits")
    assert shown.code == 0, shown.err
    (line,) = shown.rows
    for row in rows:
        assert line[f"IPC 1 {row['protocol'].split()[0]}"].startswith(row["top-1 (last epoch)"].split()[0])
