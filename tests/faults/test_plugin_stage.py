"""A plugin's stage that depends on neither IPC nor seed: built once for all cells, resumed, planned, equal on Ray."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from ddbench.registry import source

if TYPE_CHECKING:
    from conftest import Outcome, Place, Shell

PARTS, STEPS = 3, 4
PLUGIN = '''
import os
import signal
from pathlib import Path

from ddbench.api import Distiller, Stage, hookimpl, seeds


class Walks(Stage):
    """Random walks; each step is a line in the log, and a checkpoint."""

    name = "walks"
    version = "1"

    def count(self, run):
        return run.method.walks

    def depends_on(self, run):
        return {"steps": run.method.steps}

    def build(self, run, part, checkpoint):
        import torch

        loaded = checkpoint.load()
        position, start = (loaded[0]["position"].clone(), loaded[1]["step"]) if loaded else (torch.zeros(64), 0)
        for step in range(start, run.method.steps):
            position += torch.randn(64, generator=seeds.generator("walks", part, step))
            checkpoint.save({"position": position}, {"step": step + 1})
            with Path(os.environ["PROBE_LOG"]).open("a") as log:
                log.write(f"{part} {step}\\n")
            run.report(step + 1, run.method.steps)
            if (part, step) == (1, 1) and os.environ.get("PROBE_KILL"):
                os.kill(os.getpid(), signal.SIGKILL)
        return {"position": position, "unread": torch.zeros(9)}, {}


class Walk(Distiller, frozen=True, extra="forbid"):
    """Images of the walks."""

    name = "walk"
    version = "1"
    needs_teacher = False
    walks: int = 3
    steps: int = 4

    def stages(self):
        return ("walks",)

    def distill(self, task, unit):
        import torch

        assert task.tensors("walks").keys() == {"position", "unread"}
        walks = [task.tensors("walks", part, names=("position",)) for part in range(self.walks)]
        positions = torch.stack([position for walk in walks for position in walk.values()])
        noise = torch.stack([task.noise(unit)[row].mean() for row in range(len(unit.slots))])
        size = task.info.image_size
        return (positions.mean() + noise).sigmoid().view(-1, 1, 1, 1).expand(-1, 3, size, size)


class OtherWalk(Walk, frozen=True, extra="forbid"):
    """A sibling that shares the stage."""

    name = "other-walk"


@hookimpl
def ddbench_stages():
    return [Walks]


@hookimpl
def ddbench_distillers():
    return [Walk, OtherWalk]
'''
COMMAND = (
    *("run", "--method", "walk", "--method", "other-walk", "--dataset", "digits", "--ipc", "1", "--ipc", "2"),
    *("--repeats", "2", "--recipe", "smoke", "--evaluator", "hard", "--student", "convnet-d1", "--image-size", "8"),
    *("--device", "cpu", "--precision", "fp32", "--set", "evaluator.epochs=1"),
    *("--set", "runtime.threads=1"),
)


class Probe:
    """Runs the command line with the plugin installed, and counts the steps of its stage."""

    def __init__(
        self, folder: Path, install_plugin: Callable[[Path, str, str], None], shell_in: Callable[[Path], Shell]
    ) -> None:
        self.site, self.log, self._shell_in = folder / "site", folder / "log", shell_in
        install_plugin(self.site, "walks-plugin", PLUGIN)

    def __call__(self, place: Place, *options: str) -> Outcome:
        """In this process, which imports the plugin anew."""
        sys.modules.pop("walks_plugin", None)
        importlib.invalidate_caches()
        source._digest.cache_clear()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, {"PROBE_LOG": str(self.log)}))
            stack.enter_context(mock.patch.object(sys, "path", [str(self.site), *sys.path]))
            stack.enter_context(mock.patch.object(sys, "dont_write_bytecode", True))
            return self._shell_in(place.root)(*COMMAND, *place.options, *options)

    def apart(self, place: Place, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """In a process of its own."""
        paths = (str(self.site), os.environ.get("PYTHONPATH", ""))
        own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PROBE_LOG": str(self.log)}
        command = [sys.executable, "-m", "ddbench", *COMMAND, *place.options, *options]
        environment = {**os.environ, **own, "RAY_USAGE_STATS_ENABLED": "0", **environment}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place.root, check=False)

    def steps(self) -> Counter[tuple[int, int]]:
        """How often each (part, step) was computed."""
        lines = self.log.read_text().splitlines()
        return Counter((int(part), int(step)) for part, step in (line.split() for line in lines))


def states(plan: str, stage: str) -> Counter[str]:
    """How many cells of a printed plan have each state of a stage."""
    heading, rule, *lines = plan.splitlines()
    (column,) = [span for span in re.finditer("-+", rule) if heading[span.start() : span.end()].strip() == stage]
    return Counter(line[column.start() : column.end()].strip() for line in lines[: lines.index("")])


@pytest.fixture(scope="module")
def probe(
    tmp_path_factory: pytest.TempPathFactory,
    install_plugin: Callable[[Path, str, str], None],
    shell_in: Callable[[Path], Shell],
) -> Probe:
    return Probe(tmp_path_factory.mktemp("probe"), install_plugin, shell_in)


@pytest.fixture(scope="module")
def inline(probe: Probe, tmp_path_factory: pytest.TempPathFactory, place_at: Callable[[Path], Place]) -> Place:
    """The artifacts of a run that was killed and given again."""
    place = place_at(tmp_path_factory.mktemp("inline"))
    plan = probe(place, "--dry-run")
    assert plan.code == 0, plan.err
    assert states(plan.out, "walks") == {"to do": 1, "shared": 7}
    killed = probe.apart(place, PROBE_KILL="1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert probe.steps() == Counter([(0, step) for step in range(STEPS)] + [(1, 0), (1, 1)])
    resumed = probe(place)
    assert resumed.code == 0, resumed.err
    assert "resumed" in resumed.err
    return place


def test_a_stage_is_built_once_for_two_methods_two_ipcs_and_two_repeats_though_it_was_killed(
    inline: Place, probe: Probe
) -> None:
    assert probe.steps() == Counter((part, step) for part in range(PARTS) for step in range(STEPS))
    assert len(list((inline.cache / "walks").glob("*.safetensors"))) == PARTS
    assert len(inline.records()) == 8
    for record in inline.records().values():
        (conditions,) = record["stages"]["walks"]
        assert conditions["distribution"] == "walks-plugin"
        assert len(conditions["digest"]) == 32
    plan = probe(inline, "--dry-run")
    assert states(plan.out, "walks") == {"cached": 8}


def test_another_setting_is_another_artifact_and_force_builds_what_depends_on_it(inline: Place, probe: Probe) -> None:
    plan = probe(inline, "--dry-run", "--set", "walk.steps=5")
    assert states(plan.out, "walks") == {"to do": 1, "shared": 3, "cached": 4}
    forced = probe(inline, "--dry-run", "--force", "walks")
    assert states(forced.out, "data") == {"cached": 8}
    assert states(forced.out, "walks") == {"to do": 1, "shared": 7}
    assert states(forced.out, "distill") == states(forced.out, "evaluate") == {"to do": 8}


def test_edited_code_is_planned_again_and_an_edited_comment_is_not(inline: Place, probe: Probe) -> None:
    (file,) = [path for path in probe.site.rglob("*.py") if "class Walks" in path.read_text()]
    code = file.read_text()
    try:
        file.write_text(f"# A comment.\n{code}".replace('"""Random walks;', '"""Walks;'))
        plan = probe(inline, "--dry-run")
        assert states(plan.out, "walks") == states(plan.out, "evaluate") == {"cached": 8}
        file.write_text(code.replace("position += ", "position += 2 * "))
        plan = probe(inline, "--dry-run")
        assert states(plan.out, "walks") == {"to do": 1, "shared": 7}
        assert states(plan.out, "distill") == states(plan.out, "evaluate") == {"to do": 8}
    finally:
        file.write_text(code)
    lines = [line for line in plan.errors if "its source has changed" in line]
    assert [line.partition(" of walks-plugin, version 1: ")[0] for line in sorted(lines)] == [
        "cache: method 'other-walk'",
        "cache: method 'walk'",
        "cache: stage 'walks'",
    ]


@pytest.mark.slow(22)
def test_on_ray_the_artifacts_are_equal(
    inline: Place, probe: Probe, tmp_path: Path, place_at: Callable[[Path], Place]
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ddbench[ray]'")
    place, before = place_at(tmp_path / "ray"), probe.steps()
    outcome = probe.apart(place, "--executor", "ray")
    assert outcome.returncode == 0, outcome.stderr
    assert probe.steps() - before == Counter((part, step) for part in range(PARTS) for step in range(STEPS))
    assert place.digests() == inline.digests()
    assert place.records().keys() == inline.records().keys()
