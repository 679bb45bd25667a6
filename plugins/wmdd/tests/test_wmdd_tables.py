"""WMDD's own tables: the ablation by hand from its records, killed for real and run again, and what cells set."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_wmdd import WMDD

from ddbench.config.experiment import Experiment
from ddbench.pipeline.composition import load_recipes
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.tables.cells import cell_experiments, cells_of

if TYPE_CHECKING:
    from conftest import Outcome, Shell

OPTIONS = (
    *("--dataset", "digits", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32"),
    *("--arch", "convnet-bn-d1", "--image-size", "8", "--set", "teacher.batch_size=256"),
)
ABLATION = ("table", "ablation", *OPTIONS, "--ipc", "2", "--seeds", "2", "--run")
ROWS = ("wasserstein + pcbn", "cross-entropy + pcbn", "wasserstein + bn", "cross-entropy + bn")


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> tuple[Shell, Outcome]:
    """A shell in which the ablation was made, and what it printed."""
    shell = shell_in(tmp_path_factory.mktemp("ablation"))
    outcome = shell(*ABLATION)
    assert outcome.code == 0, outcome.err
    return shell, outcome


def records_in(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((results / "records").glob("*.json"))]


def row_of(record: dict[str, Any]) -> str:
    settings = record["configuration"]["method_settings"]
    return f"{settings['feature_loss']} + {settings['regulariser']}"


def test_the_ablation_is_four_rows_of_what_the_records_say(ablation: tuple[Shell, Outcome]) -> None:
    shell, outcome = ablation
    actual = records_in(shell.results)
    assert len(actual) == len(ROWS) * 2
    heading, titles, _, *lines = outcome.out.splitlines()
    assert re.split(" {2,}", titles.strip()) == ["loss + regulariser", "IPC 2"]
    shown = dict(re.split(" {2,}", line.strip()) for line in lines)
    assert list(shown) == list(ROWS)
    for row in ROWS:
        top1 = [record["metrics"]["top1_last"] for record in actual if row_of(record) == row]
        assert shown[row] == f"{fmean(top1):.2f} ± {stdev(top1):.2f} (2 on 1 set)"
    assert "recipe smoke --set teacher.batch_size=256" in heading
    # Everything but the ablated is shared, and made once.
    count = {folder.name: len(list(folder.glob("*.safetensors"))) for folder in shell.cache.iterdir()}
    # With BatchNorm, a unit has one image of each class, and the version is another, also that of the barycenters.
    assert (count["teacher"], count["statistics"], count["method"]) == (1, 10, 20)
    assert (count["distill"], count["evaluate"]) == (2 * 1 + 2 * 2, len(ROWS) * 2)
    assert len({record["distilled_digest"] for record in actual}) == len(ROWS)


def test_its_records_alone_are_the_same_table(ablation: tuple[Shell, Outcome]) -> None:
    shell, outcome = ablation
    alone = shell("table", "ablation", "--data-dir", "nowhere", "--recipe", "smoke")
    assert alone.code == 0
    (digits,) = [block for block in alone.out.split("\n\n") if block.startswith("digits, ")]
    assert digits.strip() == outcome.out.strip()


def made(results: Path, cache: Path) -> dict[str, int]:
    """Every record and artifact, and when it was written."""
    paths = [*results.glob("records/*.json"), *cache.glob("[!.]*/[!.]*.safetensors")]
    return {path.name: path.stat().st_mtime_ns for path in paths if path.parent.name not in ("locks", "checkpoints")}


@pytest.mark.slow
def test_killed_and_run_again_no_finished_cell_is_repeated(
    ablation: tuple[Shell, Outcome], shell: Shell, stop_at: Callable[..., dict[str, str]]
) -> None:
    students = random.SystemRandom().randrange(1, len(ROWS) * 2)
    environment = {**os.environ, "DDBENCH_CACHE": str(shell.cache), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment |= stop_at("evaluate", "started", students + 1, "SIGKILL")
    done = subprocess.run(
        [sys.executable, "-m", "ddbench", *ABLATION], cwd=shell.root, env=environment, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = made(shell.results, shell.cache)
    evaluated = len(list((shell.cache / "evaluate").glob("[!.]*.safetensors")))
    assert evaluated == students

    outcome = shell(*ABLATION)
    assert outcome.code == 0, outcome.err
    assert outcome.out == ablation[1].out
    after = made(shell.results, shell.cache)
    assert {name: after[name] for name in finished} == finished
    started = [line for line in outcome.errors if re.match(r"evaluate .*: (started|resumed)", line)]
    assert len(started) == len(ROWS) * 2 - evaluated
    top1 = {record["name"]: record["metrics"] for record in records_in(shell.results)}
    assert top1 == {record["name"]: record["metrics"] for record in records_in(ablation[0].results)}


def test_the_cache_fills_a_table_whose_records_are_lost(ablation: tuple[Shell, Outcome], shell: Shell) -> None:
    shutil.copytree(ablation[0].cache, shell.cache)
    before = shell.files("cache")
    outcome = shell(*ABLATION)
    assert outcome.code == 0
    assert outcome.out == ablation[1].out
    assert shell.files("cache") == before


# -- what cells set -------------------------------------------------------------------------------------------

REGISTRY = PluginRegistry()
KNOWN = load_recipes((), REGISTRY)


def cells(name: str, **fields: Any) -> dict[tuple[str, str | None], Experiment]:
    """The experiment of each cell of a table on ImageNette, by row and protocol."""
    request = Request(**{"methods": (), "datasets": ("imagenette",), "ipcs": (10,), "recipes": ("paper",), **fields})
    actual = cells_of(REGISTRY.table(name), request, REGISTRY, [])
    return {(cell.row, cell.evaluator): cell_experiments(cell, request, REGISTRY, KNOWN)[0] for cell in actual}


def settings(experiment: Experiment) -> WMDD:
    assert isinstance(experiment.method, WMDD)
    return experiment.method


@pytest.mark.parametrize(
    ("table", "setting", "values"),
    [
        ("lambda", "bn_weight", {"0.1": 0.1, "1": 1, "10": 10, "100": 100, "1000": 1000}),
        ("layers", "layer", {str(layer): layer for layer in (5, 10, 15, 16, 17, 18)}),
    ],
)
def test_a_sweep_changes_one_setting_alone(table: str, setting: str, values: dict[str, float]) -> None:
    plain = settings(cells("sliced")["wmdd", None])
    actual = {row: settings(experiment) for (row, _), experiment in cells(table).items()}
    assert actual == {row: plain.model_copy(update={setting: value}) for row, value in values.items()}


@pytest.mark.parametrize("recipes", [("paper",), ("paper", "released"), ("quick",)])
@pytest.mark.parametrize(
    ("dataset", "weight_of_sre2l"), [("imagenette", 0.01), ("tiny-imagenet", 1), ("imagenet-1k", 0.01)]
)
def test_the_ablation_is_the_released_scripts_four_combinations(
    dataset: str, weight_of_sre2l: float, recipes: tuple[str, ...]
) -> None:
    """`data_synthesis_new.py` with PCBN, `data_synthesis.py` with BatchNorm; `run.sh` has the weights of the latter."""
    actual = {
        row: settings(experiment)
        for (row, _), experiment in cells("ablation", datasets=(dataset,), recipes=recipes).items()
    }
    assert tuple(actual) == ROWS
    plain, *others = (actual[row] for row in ROWS)
    assert plain == settings(cells("sliced", datasets=(dataset,), recipes=recipes)["wmdd", None])
    changes = [
        {"feature_loss": "cross-entropy"},
        {"regulariser": "bn", "cross_entropy_weight": 0},
        {"feature_loss": "cross-entropy", "regulariser": "bn", "bn_weight": weight_of_sre2l, "bn_form": "norm"},
    ]
    assert others == [plain.model_copy(update=change) for change in changes]
    (sre2l,) = experiments(
        Request(methods=("sre2l",), datasets=(dataset,), ipcs=(10,), recipes=recipes), PluginRegistry()
    )
    assert sre2l.method.model_dump()["bn_weight"] == weight_of_sre2l
    shared = ["betas", "batch_size", "crop_scale_min", "crop_per_image", *(["learning_rate"] * ("paper" in recipes))]
    assert [getattr(sre2l.method, name) for name in shared] == [getattr(others[2], name) for name in shared]


def test_the_metric_table_has_no_tricks_under_hard_and_fkds_own_under_fkd() -> None:
    actual = cells("metric")
    assert [row for row, _ in actual] == [
        row for row in ("wasserstein (wmdd)", "mmd (dm)", "mmd in WMDD") for _ in range(2)
    ]
    for (row, protocol), experiment in actual.items():
        assert experiment.evaluator_name == protocol
        cutmix = experiment.evaluator.model_dump()["cutmix_alpha"]
        assert cutmix == (None if protocol == "hard" else 1)
        made = experiment.method.model_dump()
        if experiment.method_name == "dm":
            assert made["strategy"] is None
        else:
            assert made["feature_loss"] == ("mmd" if row == "mmd in WMDD" else "wasserstein")
    assert {row for row, _ in cells("metric", methods=("wmdd",))} == {"wasserstein (wmdd)", "mmd in WMDD"}


def test_a_layer_that_the_teacher_does_not_have_is_said_before_anything_is_trained(shell: Shell) -> None:
    outcome = shell("table", "layers", *OPTIONS, "--ipc", "1", "--run")
    assert outcome.code == 1
    assert len(re.findall(r"^\[\d\] .*layer", outcome.out, re.MULTILINE)) == 6
    assert not (shell.cache / "teacher").exists()
