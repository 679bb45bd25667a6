"""MTT and DATM from the command line: experts are shared, diverged and impossible ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Shell

RUN = (
    *("--method", "mtt", "--dataset", "digits", "--student", "convnet-d1"),
    *("--set", "evaluator.epochs=1", "--set", "runtime.threads=1"),
)

Digests = dict[tuple[int, int], str]
"""The digests of sets, by IPC and number of the set."""


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((results / "records").glob("*.json"))]


def digests(results: Path) -> Digests:
    return {(record["ipc"], record["repeat"]): record["distilled_digest"] for record in records(results)}


def artifacts(cache: Path, stage: str) -> list[Path]:
    return sorted((cache / stage).glob("[!.]*.safetensors"))


@pytest.mark.slow
def test_experts_are_trained_once_for_two_ipcs_and_two_seeds_and_sets_hold_floats_and_a_rate(shell: Shell) -> None:
    plan = shell.run(*RUN, "--ipc", "1", "--dry-run")
    assert "experts" in plan.out
    shell.run(*RUN, "--ipc", "1")
    experts = artifacts(shell.cache, "experts")
    assert len(experts) == 2
    before = [path.stat().st_mtime_ns for path in experts]
    outcome = shell.run(*RUN, "--ipc", "1", "--ipc", "10", "--repeats", "2")
    assert artifacts(shell.cache, "experts") == experts
    assert [path.stat().st_mtime_ns for path in experts] == before
    assert "experts 1/2: started" not in outcome.err
    assert len(set(digests(shell.results).values())) == 4
    for record in records(shell.results):
        assert record["evaluator"] == "mtt"
        assert record["distilled_form"]["pixels"] == "float32"
        assert record["distilled_form"]["learning_rate"] != 0.01
        assert record["metrics"]["image_bytes"] == 10 * record["ipc"] * 3 * 8 * 8 * 4
        assert len(record["stages"]["experts"]) == 1
    assert not artifacts(shell.cache, "teacher")
    forced = shell.run(*RUN, "--ipc", "1", "--force", "experts", "--dry-run")
    (row,) = forced.rows
    assert row["experts"] == row["distill"] == row["evaluate"] == "to do"


@pytest.mark.slow
def test_datm_stores_soft_labels_and_uses_the_experts_of_mtt_if_their_paths_are_not_flat(shell: Shell) -> None:
    shell.run(*RUN, "--ipc", "1")
    experts = artifacts(shell.cache, "experts")
    datm = ("--method", "datm", *RUN[2:], "--ipc", "1")
    outcome = shell.run(*datm, "--set", "datm.expert_rho=0")
    assert artifacts(shell.cache, "experts") == experts
    assert "experts 1/2: cached" in outcome.err
    (record,) = (record for record in records(shell.results) if record["method"] == "datm")
    assert record["evaluator"] == "datm-dsa"
    assert {**record["distilled_form"], "learning_rate": None} == {
        "pixels": "float32", "soft_labels": "logits", "learning_rate": None
    }  # fmt: skip
    assert record["distilled_form"]["learning_rate"] not in (None, 0.01)
    plan = shell.run(*datm, "--dry-run")
    (row,) = plan.rows
    assert row["experts"] == "to do"


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        (
            "mtt.learning_rate=1e30",
            (
                "the gradient of the loss is not finite in iteration 2",
                "lower learning_rate (1e+30)",
                "student_steps (2)",
            ),
        ),
        ("mtt.max_start_epoch=5", ("max_start_epoch 5 and target_epochs 1", "raise expert_epochs, or lower one")),
    ],
)
def test_a_diverged_or_impossible_run_ends_with_one_line_and_nothing_half_written(
    shell: Shell, assignment: str, parts: tuple[str, ...]
) -> None:
    outcome = shell.quick_run(*RUN, "--ipc", "1", "--set", assignment)
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    lines = [line for line in outcome.errors if parts[0] in line]
    assert lines
    assert all(part in lines[-1] for part in parts)
    assert not artifacts(shell.cache, "distill")
    assert not records(shell.results)
