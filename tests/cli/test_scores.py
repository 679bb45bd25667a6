"""Scores of students that the command line trains, and what their records state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ddbench.pipeline import probe
from ddbench.results import records

if TYPE_CHECKING:
    from conftest import Shell


@pytest.fixture
def watched() -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """The parameters before every optimiser step of this process, without those of the estimate."""
    seen: list[tuple[torch.Tensor, ...]] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups = optimizer.param_groups
        if groups[0]["lr"] <= probe.LEARNING_RATE:
            return
        seen.append(tuple(one.detach().clone() for group in groups for one in group["params"]))

    handle = register_optimizer_step_pre_hook(note)
    yield seen
    handle.remove()


@pytest.mark.slow
def test_records_of_all_regimes_state_steps_and_bytes_and_have_scores(
    shell: Shell, watched: list[tuple[torch.Tensor, ...]]
) -> None:
    """Steps are counted where they happen; bytes by hand: 20 images, 10 classes, 3 epochs in batches of 8, 8, 4."""
    grid = ("--dataset", "digits", "--method", "random", "--method", "wmdd", "--ipc", "2")
    settings = ("--set", "evaluator.epochs=3", "--set", "evaluator.batch_size=8", "--set", "wmdd.steps=1")
    shell.run("--dataset", "digits", "--method", "full")
    shell.run(*grid, *settings)  # the teacher and the sets are there from here on
    starts = {}
    for evaluator in ("fkd", "soft", "hard"):
        watched.clear()
        shell.run(*grid, "--evaluator", evaluator, *settings, "--force", "evaluate")
        assert len(watched) == 2 * 3 * 3  # two methods; three epochs of three batches
        starts[evaluator] = watched[0]
    for evaluator in ("soft", "hard"):
        for one, other in zip(starts["fkd"], starts[evaluator], strict=True):
            assert torch.equal(one, other)  # the student of one seed starts from the same weights

    label_bytes = {
        # A view: order and CutMix partner of 4, box of 8, flip of 1, ten fp16 logits; a batch: the CutMix box of 8.
        "fkd": 3 * (20 * (4 + 4 + 8 + 1 + 20) + 3 * 8),
        "soft": 20 * 10 * 2,
        "hard": 20 * 8,
    }
    top1: dict[tuple[str, str], float] = {}
    for path in (shell.results / "records").glob("*.json"):
        record = records.read(path)
        metrics = record.metrics
        top1[record.method, record.evaluator] = metrics.top1_last
        if record.method != "full":
            assert metrics.regime == record.evaluator
            assert metrics.student_steps == 3 * 3
            assert metrics.label_bytes == label_bytes[record.evaluator]
            assert metrics.image_bytes == 20 * 3 * 8 * 8

    outcome = shell("records", "--scores", "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(outcome.out)
    assert {(row["method"], row["regime"]) for row in rows} == top1.keys() - {("full", "full-data")}
    for row in rows:
        method, regime = row["method"], row["regime"]
        assert row["missing"] == ""
        assert row["ior"] == pytest.approx(top1[method, regime] - top1["random", regime], abs=1e-9)
        assert row["hlr"] == pytest.approx(top1["full", "full-data"] - top1[method, "hard"], abs=1e-9)
        assert 0 < row["lrs"] < 1
    assert f"{rows[0]['lrs']:.4f}" in shell("records", "--scores").out
