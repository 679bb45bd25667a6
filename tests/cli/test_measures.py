"""Measures on the command line: all of them in one run, their columns, bad names, and a grid without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from conftest import Shell

RANDOM = ("--method", "random", "--dataset", "digits", "--ipc", "2", "--evaluator", "hard")
STUDENTS = ("--measure", "ece,corruptions", "--measure", "pgd", "--set", "corruptions.severities=[5]")
SETS = ("--measure", "coverage,fid,linear-probe", "--set", "coverage.neighbours=1")
COLUMNS = {
    *("measure.ece", "measure.pgd.top1", "measure.pgd.clean"),
    *(f"measure.corruptions.{name}" for name in ("top1", "gaussian_noise", "defocus_blur", "contrast", "brightness")),
    *("measure.corruptions.jpeg", "measure.linear-probe.top1"),
    *("measure.coverage", "measure.coverage.nearest", "measure.coverage.recall"),
}


def record_in(shell: Shell) -> dict[str, Any]:
    (path,) = (shell.results / "records").glob("*.json")
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


@pytest.mark.slow
def test_all_measures_in_one_run_and_one_by_one(shell: Shell) -> None:
    backbone = shell.root / "backbone.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), str(backbone))
    probe = ("--set", "linear-probe.backbone=test_resnet", "--set", "linear-probe.weights=backbone.safetensors")
    plan = shell("run", *RANDOM, *STUDENTS, "--recipe", "smoke", "--dry-run")
    assert plan.rows[0]["measures"] == "to do"

    first = shell.run(*RANDOM, *STUDENTS)
    assert {name for name in first.rows[0] if name.startswith("measure.")} == {
        name for name in COLUMNS if name.split(".")[1] in ("ece", "corruptions", "pgd")
    }
    students = shell.files("cache/evaluate")
    second = shell.run(*RANDOM, *SETS, *probe)
    assert shell.files("cache/evaluate") == students
    assert any("fid: no value: " in line and "features need more than" in line for line in second.errors)

    record = record_in(shell)
    measures = record["measures"]
    assert list(measures) == ["corruptions", "coverage", "ece", "fid", "linear-probe", "pgd"]
    assert measures["fid"]["values"] == {}
    assert "and the set has 20" in measures["fid"]["refused"]
    assert measures["pgd"]["values"]["top1"] <= measures["pgd"]["values"]["clean"]
    assert measures["corruptions"]["settings"] == {"severities": [5]}
    assert measures["linear-probe"]["settings"]["weights"].startswith("backbone.safetensors@")
    assert "measures" not in record["configuration"]

    (row,) = shell("records", "--wide").rows
    assert {name for name in row if name.startswith("measure.")} == COLUMNS
    assert row["measure.ece"] == f"{measures['ece']['values']['ece']:.2f}"
    assert "measure.ece" not in shell("records").out
    shown = shell("show").out
    assert f"ece {measures['ece']['values']['ece']:.4g}" in shown
    assert "no value: " in shown
    again = shell.run(*RANDOM)
    assert {name for name in again.rows[0] if name.startswith("measure.")} == COLUMNS
    assert record_in(shell) == record  # a run without measures keeps those that its record has


def test_measures_are_listed(shell: Shell) -> None:
    rows = shell("list", "measures").rows
    names = [row["name"] for row in rows if row["name"]]
    assert names == ["corruptions", "coverage", "ece", "fid", "linear-probe", "pgd"]
    page = shell("list", "measures", "pgd").out
    assert "Parameters (--set pgd.NAME=VALUE)" in page
    assert "Madry et al." in page
    shell("list", "measures", "pgx").refused("unknown measure 'pgx'", "did you mean 'pgd'?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--measure", "eec"), ("unknown measure 'eec'", "did you mean 'ece'?")),
        (("--measure", "ece", "--set", "ece.bin=3"), ("measure ece has no setting 'bin'", "did you mean 'bins'?")),
        (("--measure", "ece", "--set", "ece.bins=0"), ("measure ece.bins", "greater than or equal to 1 (got 0)")),
        (("--measure", "ece", "--set", "pgd.steps=3"), ("--set pgd.steps=3: this run has no --measure pgd",)),
        (("--measure", "linear-probe"), ("measure linear-probe.weights: Field required",)),
        (
            ("--measure", "linear-probe", "--set", "linear-probe.weights=absent.pt"),
            ("checkpoint 'absent.pt' does not exist",),
        ),
        (("--measure", "coverage", "--set", "coverage.neighbours=999"), ("the smallest class has only",)),
    ],
)
def test_bad_measures_end_in_one_line_before_anything_is_trained(
    shell: Shell, options: tuple[str, ...], message: tuple[str, ...]
) -> None:
    outcome = shell("run", *RANDOM, "--recipe", "smoke", *options)
    outcome.refused(*message)
    assert not (shell.cache / "teacher").exists()
    assert not shell.results.exists()


def test_a_measure_that_is_given_twice_is_one(shell: Shell) -> None:
    outcome = shell("run", *RANDOM, "--recipe", "smoke", "--measure", "ece,ece", "--dry-run")
    assert (outcome.code, outcome.rows[0]["measures"]) == (0, "to do")


def test_the_weights_of_a_given_set_are_measured_too(shell: Shell, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 3, 16, 16), generator=generator).to(torch.uint8)
    save_file({"images": images, "labels": torch.arange(20) // 2}, str(tmp_path / "set.safetensors"))
    outcome = shell(
        *("evaluate", tmp_path / "set.safetensors", "--dataset", "digits", "--recipe", "smoke", "--evaluator", "hard"),
        *("--no-random", "--measure", "ece", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    assert 0 <= float(outcome.rows[0]["measure.ece"]) <= 100
