"""`efficiency`: what is timed by a clock of our own, who ticks, and each method in a process of its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ddbench.api.context import DistillTask
from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint
from ddbench.tables import efficiency

if TYPE_CHECKING:
    from conftest import Shell


class Clock:
    """Stands for `ddbench.core.clock`: the k-th iteration takes k seconds, what comes before the first 1000."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """The time by this clock."""
        return self.seconds


CLOCK = Clock()


class Ticking(Distiller, frozen=True):
    """Iterates `steps` times."""

    name = "ticking"
    version = "1"
    needs_teacher = False
    default_evaluator = "hard"
    steps: int = 0

    def distill(self, task: DistillTask, unit: Unit) -> torch.Tensor:
        """Black images."""
        CLOCK.seconds += 1000
        for step in range(1, self.steps + 1):
            CLOCK.seconds += step
            task.tick()
        return torch.zeros(len(unit.slots), 3, task.info.image_size, task.info.image_size)


class Plugin:
    """Brings it."""

    @hookimpl
    def ddbench_distillers(self) -> Iterable[type[Distiller]]:
        return [Ticking]


Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a pipeline on 8-px digits at IPC 1."""
    folder = tmp_path_factory.mktemp("cache")
    registry = PluginRegistry()
    registry.register(Plugin())

    def make(method: str, *assignments: str) -> Pipeline:
        request = Request(
            methods=(method,),
            datasets=("digits",),
            ipcs=(1,),
            recipes=("smoke",),
            image_size=8,
            arch="convnet-bn-d1",
            device="cpu",
            precision="fp32",
            assignments=("teacher.batch_size=256", *assignments),
        )
        (cell,) = experiments(request, registry)
        return Pipeline(Workspace(registry, Cache(folder), None), cell)

    return make


@pytest.mark.parametrize("steps", [7, 20, 105, 3000])
def test_a_hundred_iterations_after_five_are_timed_and_the_total_is_extrapolated(
    pipeline: Make, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(efficiency, "clock", CLOCK)
    before = CLOCK.seconds
    actual = efficiency.measure(pipeline("ticking", f"method.steps={steps}"))
    each = [float(step) for step in range(6, min(steps, 105) + 1)]
    assert actual["seconds_per_iteration"] == fmean(each)
    assert actual["seconds_per_iteration_deviation"] == pytest.approx(stdev(each))
    assert actual["seconds_per_iteration_n"] == len(each)
    assert actual["total_seconds"] == 1001 + 1999 * fmean(each)
    assert actual["total_seconds_note"] == "extrapolated"
    assert 0 < actual["peak_memory_gb"] < 1000
    # More than is needed is not run.
    assert CLOCK.seconds - before == 1000 + sum(range(1, min(steps, 105) + 1))


def test_no_iterations_are_no_number_and_too_few_say_so(pipeline: Make) -> None:
    assert efficiency.measure(pipeline("ticking")) == {}
    for steps in (1, 6):
        with pytest.raises(DDBenchError, match=f"^{steps} iterations are too few: the first 5 .*; give"):
            efficiency.measure(pipeline("ticking", f"method.steps={steps}"))


@pytest.mark.parametrize(
    ("method", "settings", "iterations"),
    [
        ("wmdd", ("method.steps=3",), 3),
        ("wmdd-sliced", ("method.steps=3", "method.projections=4"), 3),
        ("sre2l", ("method.steps=3",), 3),
        ("dm", ("method.steps=3", "method.network=convnet-d1", "method.real_batch=4"), 3),
        ("dc", ("method.iterations=2", "method.network=convnet-d1", "method.real_batch=4", "method.outer_loop=3"), 6),
        ("random", (), 0),
    ],
)
def test_methods_tick_once_an_iteration(
    pipeline: Make, tmp_path: Path, method: str, settings: tuple[str, ...], iterations: int
) -> None:
    made = pipeline(method, *settings)
    ticks, steps = [], []

    def report(step: int, total: int, **metrics: float) -> None:
        steps.append(total)

    task = made.graph["distill"].task(made, 0, Checkpoint(tmp_path / "slot.safetensors"))
    made.method.distill(replace(task, tick=lambda: ticks.append(1), report=report), made.units[0])
    assert len(ticks) == iterations
    assert set(steps) <= {iterations}


# -- the command ----------------------------------------------------------------------------------------------

OPTIONS = (
    *("--dataset", "digits", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32"),
    *("--arch", "convnet-bn-d1", "--image-size", "8", "--set", "teacher.batch_size=256"),
)
PLUGIN = """
    import os
    from ddbench.api import hookimpl
    from ddbench.api import Distiller

    class Leaves(Distiller, frozen=True):
        name = "leaves"
        version = "1"
        needs_teacher = False

        def distill(self, task, unit):
            os._exit(3)

    @hookimpl
    def ddbench_distillers():
        return [Leaves]

    @hookimpl
    def ddbench_event(event):
        if (event.kind, event.stage) == ("step", "distill"):
            with open(os.environ["DDTEST_LOG"], "a") as log:
                log.write(f"{os.getpid()}\\n")
"""


def cells(text: str) -> dict[str, list[str]]:
    """The rows of a printed table's one block, empty cells and all."""
    lines = text.splitlines()
    spans = [match.span() for match in re.finditer("-+", lines[2])]
    rows = [[line[start:end].strip() for start, end in spans] for line in lines[3:] if not line.startswith("[")]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow(16)
def test_each_method_has_a_process_and_its_numbers_are_kept(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, install_plugin: Callable[[Path, str, str], None]
) -> None:
    site, log = shell.root / "site", shell.root / "log"
    install_plugin(site, "ddtest-leaves", PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("DDTEST_LOG", str(log))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))

    command = ("table", "efficiency", *OPTIONS, "--methods")
    fresh = shell(*command, "wmdd")
    assert (fresh.code, cells(fresh.out)) == (0, {"wmdd": ["never run"]})
    first = shell(*command, "random,wmdd,leaves", "--run")
    assert first.code == 1
    assert "[1] its process ended with status 3" in first.out
    assert {int(line) for line in log.read_text().split()}.isdisjoint({os.getpid()})
    actual: dict[str, Any] = {}
    for path in (shell.results / "efficiency").glob("*.json"):
        kept = json.loads(path.read_text())
        actual[kept["line"]["method"]] = kept["numbers"]
    assert actual.keys() == {"random", "wmdd"}
    assert actual["random"] == {}
    numbers = actual["wmdd"]
    assert numbers["seconds_per_iteration_n"] == 15  # 20 steps, the first 5 of them to get warm
    assert numbers["total_seconds"] > 1999 * numbers["seconds_per_iteration"]
    mean, deviation = numbers["seconds_per_iteration"], numbers["seconds_per_iteration_deviation"]
    wmdd = [f"{mean:.3g} ± {deviation:.3g} (15)", f"{numbers['peak_memory_gb']:.3g}"]
    wmdd.append(f"{numbers['total_seconds']:.3g} (extrapolated)")
    assert cells(first.out) == {"random": ["", "", ""], "wmdd": wmdd, "leaves": ["failed [1]", "", ""]}
    assert f"{torch.get_num_threads()} threads, fp32" in first.out.splitlines()[0]

    # What was measured is not measured again, and needs no data.
    before = shell.files("results")
    again = shell(*command, "random,wmdd", "--run")
    assert again.code == 0
    alone = shell("table", "efficiency", "--data-dir", "nowhere", "--methods", "random,wmdd")
    (digits,) = [block for block in alone.out.split("\n\n") if block.startswith("digits, ")]
    for text in (again.out, digits):
        assert cells(text) == {"random": ["", "", ""], "wmdd": wmdd}
    assert shell.files("results") == before
    # By another version of the method it is no number.
    path = next((shell.results / "efficiency").glob("wmdd-*.json"))
    path.write_text(path.read_text().replace('"method_version": "1"', '"method_version": "0"'))
    assert "digits" not in shell("table", "efficiency", "--data-dir", "nowhere", "--methods", "wmdd").out
    path.write_text("{}")
    broken = shell("table", "efficiency", "--data-dir", "nowhere", "--methods", "random")
    assert any(line.endswith("holds no measurement of an iteration") for line in broken.errors)
