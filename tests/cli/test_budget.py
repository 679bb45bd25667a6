"""Label budgets on the command line: the table runs them, and the figure draws the same numbers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell

OPTIONS = (
    *("--dataset", "digits", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--ipc", "1"),
    *("--arch", "convnet-bn-d1", "--image-size", "8", "--set", "teacher.batch_size=256"),
)
EPOCHS = ("--set", "evaluator.epochs=60")
LABELS = ("hard", "soft", "fkd, 1 view", "fkd, 10 views", "fkd, 50 views", "fkd, all views")


@pytest.mark.slow
def test_the_table_runs_all_budgets_and_the_figure_draws_them(shell: Shell) -> None:
    table = shell("table", "budget", *OPTIONS, "--methods", "random", *EPOCHS, "--run")
    assert table.code == 0, table.err
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert len(records) == 2 * len(LABELS)
    actual = {}
    for line in table.out.splitlines():
        if match := re.fullmatch(r"random, IPC (\d), (.*?) +(\d+\.\d+) \(1 set\).*? +(\d+) +(\d+) +(\d+)", line):
            actual[int(match[1]), match[2]] = float(match[3]), *(int(match[number]) for number in (4, 5, 6))
    assert list(actual) == [(ipc, labels) for ipc in (1, 2) for labels in LABELS]
    images, view, label = 10 * 3 * 8 * 8, 17, 10 * 2
    for ipc in (1, 2):
        stored = [actual[ipc, labels][3] for labels in LABELS]
        epoch = 10 * ipc * (view + label) + 8
        assert stored == [80 * ipc, 200 * ipc, epoch, 10 * epoch, 50 * epoch, 60 * epoch]
        for labels, (_, total, of_images, of_labels) in actual.items():
            assert total == of_images + of_labels
            assert of_images == images * labels[0]
    measured = sorted(
        (record["metrics"]["label_bytes"], round(record["metrics"]["top1_last"], 2)) for record in records
    )
    assert measured == sorted((of_labels, top1) for top1, _, _, of_labels in actual.values())

    figure = shell("figure", "budget")
    assert figure.code == 0, figure.err
    svg = (shell.results / "figures" / "budget.svg").read_text(encoding="utf-8")
    for text in ("images and labels (kB)", "random, IPC 1", "random, IPC 2", "hard", "soft", "1 view", "50 views"):
        assert f">{text}</" in svg
    for number in (0, 1):
        path = re.search(rf'<g id="mean-{number}">\s*<path d="([^"]*)"', svg)
        assert path is not None
        assert len(re.findall(r"[ML] ", path[1])) == len(LABELS)
    again = shell("table", "budget", "--methods", "random", *EPOCHS)
    assert [line.split("(1 set)")[0] for line in again.out.splitlines() if line.startswith("random")] == [
        line.split("(1 set)")[0] for line in table.out.splitlines() if line.startswith("random")
    ]
