"""Plugins that misbehave while they run: named with their distribution, undone, and no other cell's business."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pytest
import torch

from ddbench.api.context import DistillTask
from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit, UnitResult
from ddbench.nn import global_state
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell

CPU = torch.device("cpu")


def first_images(task: DistillTask) -> UnitResult:
    labels = range(task.info.num_classes)
    return UnitResult(indices=torch.cat([task.dataset.train.of_class(label)[: task.ipc] for label in labels]))


def method(name: str, deed: Callable[[], object]) -> type[Distiller]:
    """A method that does `deed`, then takes the first images of every class."""

    def distill(self: Distiller, task: DistillTask, unit: Unit) -> UnitResult:
        deed()
        return first_images(task)

    return type(
        name.title(),
        (Distiller,),
        {"__module__": __name__, "__doc__": "Misbehaves.", "name": name, "version": "1", "paper": "none"}
        | {"needs_teacher": False, "distill": distill},
        frozen=True,
        extra="forbid",
    )


def fail() -> None:
    raise ValueError("the cat\nsat on it")


DEEDS: dict[str, tuple[Callable[[], object], str]] = {
    "typist": (lambda: torch.set_default_dtype(torch.float64), "torch's default dtype"),
    "seeder": (lambda: torch.manual_seed(0), "torch's global generator"),
    "drawer": (lambda: random.random() + float(np.random.rand()), "NumPy's global generator, the generator of the"),
    "threader": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), "torch's number of threads"),
    "gradient": (lambda: torch.set_grad_enabled(False), "torch's gradient mode"),
    "flusher": (lambda: torch.set_flush_denormal(True), "torch's flushing of denormal numbers"),
}


@pytest.fixture
def plugins() -> PluginRegistry:
    registry = PluginRegistry()
    methods = [method(name, deed) for name, (deed, _) in DEEDS.items()]
    methods += [method("printer", lambda: print("look at me")), method("raiser", fail)]
    registry.register(SimpleNamespace(ddbench_distillers=hookimpl(lambda: methods)), "ddbench-menace")
    return registry


def run(shell: Shell, registry: PluginRegistry, *methods: str) -> tuple[int, str, str]:
    named = [word for name in methods for word in ("--method", name)]
    with mock.patch("ddbench.cli.main.PluginRegistry", return_value=registry):
        outcome = shell(
            *("run", *named, "--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--evaluator", "hard"),
            *("--device", "cpu", "--precision", "fp32", "--image-size", "8", "--student", "convnet-d2"),
        )
    return outcome.code, outcome.out, outcome.err


def test_what_a_method_changes_for_everybody_is_put_back_and_named(shell: Shell, plugins: PluginRegistry) -> None:
    before = global_state.global_state(CPU)
    code, out, err = run(shell, plugins, *DEEDS)
    assert code == 0, err
    left = set(global_state.changed_names(before, global_state.global_state(CPU)))
    assert left <= {global_state.RANDOM, global_state.NUMPY}  # which libraries (tempfile, matplotlib) draw from as well
    for name, (_, changed) in DEEDS.items():
        (line,) = [line for line in err.splitlines() if f"method '{name}' (ddbench-menace) changed" in line]
        assert changed in line
        assert name in out


def test_what_a_method_prints_is_not_among_the_results(shell: Shell, plugins: PluginRegistry) -> None:
    code, out, err = run(shell, plugins, "printer")
    assert (code, "look at me" in out, "look at me" in err) == (0, False, True)
    assert "method 'printer' (ddbench-menace) printed to stdout" in err


def test_a_method_that_raises_is_named_and_the_other_cells_go_on(shell: Shell, plugins: PluginRegistry) -> None:
    code, out, err = run(shell, plugins, "raiser", "random")
    assert code == 1
    assert len(list((shell.results / "records").glob("random-*.json"))) == 1
    assert not list((shell.results / "records").glob("raiser-*.json"))
    (line,) = [line for line in out.splitlines() if line.startswith("failed:")]
    assert "method 'raiser' of ddbench-menace" in line
    assert "ValueError: the cat sat on it" in line
    assert "Traceback" not in out + err
    (path,) = (shell.results / "failures").glob("raiser-*.txt")
    assert str(path.relative_to(shell.root)) in line
    assert "in fail" in path.read_text()


def test_alone_it_is_one_line_and_exit_code_2(shell: Shell, plugins: PluginRegistry, tmp_path: Path) -> None:
    code, out, err = run(shell, plugins, "raiser")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("ddbench: method 'raiser' of ddbench-menace")


def test_random_numbers_that_a_first_import_draws_are_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drawing_library.py").write_text("import random\nrandom.random()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reports: list[list[str]] = []
    before = random.getstate()
    with global_state.restore_global_state(CPU, lambda changed, printed: reports.append(changed)):
        importlib.import_module("drawing_library")
    with global_state.restore_global_state(CPU, lambda changed, printed: reports.append(changed)):
        random.random()
    assert reports == [[], [global_state.RANDOM]]
    assert random.getstate() == before
