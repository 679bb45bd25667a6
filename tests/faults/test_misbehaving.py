"""Methods and protocols that do what they must not: named with their distribution, undone, and left out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch
from pydantic import field_validator

from ddbench.api.context import DistillTask
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.api.units import Slot, Unit, UnitResult
from ddbench.core.errors import DDBenchError
from ddbench.nn import global_state
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import BadPlugin, Shell


class Weird(BaseException):
    """No Exception: what catches those lets it through."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def gray(unit: Unit) -> torch.Tensor:
    return torch.full((len(unit.slots), 3, 8, 8), 0.5)


def method(name: str, make: Callable[[DistillTask, Unit], Any], **more: Any) -> type[Distiller]:
    """A method that hands back what `make` gives; `more` are other attributes of its class."""
    body = {"__module__": __name__, "__doc__": "Misbehaves.", "name": name, "version": "1", "needs_teacher": False}
    distill = {"distill": lambda self, task, unit: make(task, unit)}
    return type(name, (Distiller,), {**body, **distill, **more}, frozen=True, extra="forbid")


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def weighted(value: float, dtype: torch.dtype = torch.float32) -> Callable[[DistillTask, Unit], UnitResult]:
    return lambda task, unit: UnitResult(gray(unit), weights=torch.full((len(unit.slots),), value, dtype=dtype))


def opens(task: DistillTask, unit: Unit) -> None:
    Path("nowhere.bin").read_bytes()


# By name: what `distill` does or gives, and what the line about it says.
FATAL: dict[str, tuple[Callable[[DistillTask, Unit], Any], str]] = {
    "leaves": (raising(SystemExit(0)), "SystemExit: 0"),
    "quits": (lambda task, unit: sys.exit(), "SystemExit"),
    "weird": (raising(Weird("two\nlines")), "Weird: two lines"),
    "unspeakable": (raising(Unspeakable()), "Unspeakable"),
    "stopper": (raising(StopIteration(3)), "StopIteration: 3"),
    "opener": (opens, "FileNotFoundError"),
    "aborter": (raising(click.exceptions.Exit(0)), "Exit: 0"),
    "nothing": (lambda task, unit: None, "returned NoneType instead of images"),
    "numpy": (lambda task, unit: UnitResult(gray(unit).numpy()), "returned images that are not a tensor but ndarray"),  # type: ignore[arg-type]
    "nan": (lambda task, unit: gray(unit) * float("nan"), "outside [0, 1] (from nan to nan)"),
    "whole": (lambda task, unit: gray(unit).to(torch.uint8), "returned images of torch.uint8; expected floats"),
    "sparse": (lambda task, unit: gray(unit).to_sparse(), "sparse"),
    "flat": (lambda task, unit: gray(unit).flatten(), "returned images of shape (1920,)"),
    "massless": (weighted(0.0), "weights of a class sum to zero"),
    "nan-weights": (weighted(float("nan")), "weights that are not one number >= 0 per slot"),
    "below": (weighted(-1.0), "weights that are not one number >= 0 per slot"),
    "beyond": (weighted(1e300, torch.float64), "weights that are not one number >= 0 per slot"),  # as float32 infinite
}
# What is undone, and the cell goes on.
UNDONE: dict[str, tuple[Callable[[], object], str]] = {
    "mover": (lambda: os.chdir("/"), global_state.FOLDER),
    "placer": (lambda: torch.set_default_device("meta"), global_state.DEVICE),
    "rounder": (lambda: torch.set_float32_matmul_precision("medium"), global_state.MATMUL),
}


def doing(deed: Callable[[], object]) -> Callable[[DistillTask, Unit], torch.Tensor]:
    def make(task: DistillTask, unit: Unit) -> torch.Tensor:
        images = gray(unit)
        deed()
        return images

    return make


# -- methods ------------------------------------------------------------------------------------------------


def test_whatever_methods_do_they_are_named_and_the_other_cells_go_on(
    bad_plugin: BadPlugin, shell: Shell, tally: Callable[[str], None]
) -> None:
    methods = [method(name, make) for name, (make, _) in FATAL.items()]
    methods += [method(name, doing(deed)) for name, (deed, _) in UNDONE.items()]
    registry = bad_plugin.registry(distillers=methods)
    named = [word for name in (*FATAL, *UNDONE, "random") for word in ("--method", name)]
    before = global_state.global_state(torch.device("cpu"))
    outcome = bad_plugin.run(shell, registry, "run", *named, *bad_plugin.small, "--evaluator", "hard")
    after = global_state.global_state(torch.device("cpu"))
    assert set(global_state.changed_names(before, after)) <= {global_state.RANDOM, global_state.NUMPY}
    assert outcome.code == 1, outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    failed = {line.split()[1].rstrip(","): line for line in outcome.out.splitlines() if line.startswith("failed:")}
    assert failed.keys() == FATAL.keys()
    for name, (_, message) in FATAL.items():
        assert f"method '{name}'" in failed[name]
        assert message in failed[name]
        if name != "massless":  # refused where the set is put together, of units each of which was sound
            assert f"method '{name}' of {bad_plugin.name}" in failed[name]
    lines = outcome.err.splitlines()
    for name, (_, changed) in UNDONE.items():
        assert any(f"method '{name}' ({bad_plugin.name}) changed {changed}" in line for line in lines), outcome.err
    kept = {json.loads(path.read_text())["method"] for path in (shell.results / "records").iterdir()}
    assert kept == {*UNDONE, "random"}
    tally(f"methods that misbehave: {len(FATAL)} named and left out, {len(UNDONE)} undone, the others went on")


def renumbered(self: Distiller, num_classes: int, ipc: int) -> list[Unit]:
    return [Unit(0, (Slot(label, 0),)) for label in range(num_classes)]


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "units that end the program": ({"units": raising(SystemExit(0))}, "SystemExit: 0"),
    "no units": ({"units": lambda *_: None}, "TypeError"),
    "units of anything": ({"units": lambda *_: ["a", "b"]}, "AttributeError"),
    "units of one number": ({"units": renumbered}, "must number its 10 units in order, from 0"),
    "too few": ({"units": lambda *_: [Unit(0, (Slot(0, 0),))]}, "must make each of 1 images of 10 classes once"),
    "a class too many": ({"units": lambda *_: [Unit(0, tuple(Slot(k, 0) for k in range(11)))]}, "must make each of"),
    "a skip that fails": ({"skip": raising(KeyError("x"))}, "KeyError: 'x'"),
    "networks that fail": ({"networks": raising(Weird("x"))}, "Weird: x"),
}


@pytest.mark.parametrize("what", PLANS)
def test_a_method_that_cannot_say_what_it_does_is_refused_before_anything_runs(
    bad_plugin: BadPlugin, shell: Shell, what: str
) -> None:
    more, message = PLANS[what]
    registry = bad_plugin.registry(distillers=[method("planless", lambda task, unit: gray(unit), **more)])
    outcome = bad_plugin.run(shell, registry, "run", "--method", "random", "--method", "planless", *bad_plugin.small)
    outcome.refused(f"method 'planless' of {bad_plugin.name}", message)
    assert not (shell.results / "records").exists()


def test_settings_that_fail_in_their_own_way_are_one_line(bad_plugin: BadPlugin, shell: Shell) -> None:
    class Touchy(Distiller, frozen=True, extra="forbid"):
        """Its validator divides by zero, and its other setting is nothing that JSON has."""

        name = "touchy"
        version = "1"
        level: int = 1
        things: Any = None

        @field_validator("level")
        @classmethod
        def _divide(cls, value: int) -> int:
            return 1 // value

        @field_validator("things")
        @classmethod
        def _build(cls, value: object) -> object:
            return object()

    registry = bad_plugin.registry(distillers=[Touchy])
    for setting, message in (("level=0", "ZeroDivisionError"), ("things=1", "PydanticSerializationError")):
        outcome = bad_plugin.run(
            shell, registry, "run", "--method", "touchy", *bad_plugin.fast, "--set", f"touchy.{setting}"
        )
        outcome.refused(f"method 'touchy' of {bad_plugin.name}", message)
        assert len(outcome.errors) == 1


# -- protocols ----------------------------------------------------------------------------------------------


def protocol(evaluate: Callable[[Any], Any]) -> type[Evaluator]:
    class Odd(Evaluator, frozen=True, extra="forbid"):
        """Misbehaves."""

        name = "odd"
        version = "1"
        needs_teacher = False

        def evaluate(self, task: Any) -> Metrics:
            return evaluate(task)  # type: ignore[no-any-return]

    return Odd


def metrics(**changes: Any) -> Metrics:
    sound = {"top1_last": 50.0, "per_class": [50.0] * 10, "student_steps": 1, "label_bytes": 0, "image_bytes": 0}
    return Metrics.model_construct(**{**sound, "regime": "hard", **changes})


ODD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NaN": (lambda task: metrics(top1_last=float("nan")), "returned top1_last: Input should be a finite number"),
    "above 100": (lambda task: metrics(top1_last=100.5), "returned top1_last: Input should be less than or equal"),
    "a fraction below 0": (
        lambda task: metrics(per_class=[-0.1] * 10),
        "returned per_class.0: Input should be greater",
    ),
    "infinite best": (lambda task: metrics(top1_best=float("inf")), "returned top1_best: Input should be a finite"),
    "other classes": (lambda task: metrics(per_class=[50.0] * 9), "returned top-1 of 9 classes, not 10"),
    "text": (lambda task: metrics(top1_last="high"), "returned top1_last: Input should be a valid number"),
    "nothing": (lambda task: None, "returned NoneType, not Metrics"),
    "leaves": (raising(SystemExit(0)), "SystemExit: 0"),
    "checked by itself": (lambda task: Metrics(**{**dict(metrics()), "top1_last": 1e9}), "ValidationError"),
}


@pytest.fixture(scope="module")
def one_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[[PluginRegistry], Pipeline]:
    """A pipeline of one random set on digits, whose protocol is the registry's `odd`."""
    from ddbench.pipeline.request import Request, experiments
    from ddbench.storage.cache import Cache

    cache = Cache(tmp_path_factory.mktemp("one") / "cache")

    def pipeline(registry: PluginRegistry) -> Pipeline:
        request = Request(
            *(("random",), ("digits",), (1,), ("smoke",), 8),
            students=("convnet-d2",),
            evaluators=("odd",),
            device="cpu",
        )
        (experiment,) = experiments(request, registry)
        return Pipeline(Workspace(registry, cache, None), experiment)

    return pipeline


@pytest.mark.parametrize("what", ODD)
def test_what_no_student_can_reach_is_no_result(
    bad_plugin: BadPlugin, one_set: Callable[[PluginRegistry], Pipeline], what: str
) -> None:
    evaluate, message = ODD[what]
    pipeline = one_set(bad_plugin.registry(evaluators=[protocol(evaluate)]))
    with pytest.raises(DDBenchError) as caught:
        pipeline.artifact("evaluate")
    assert str(caught.value).startswith(f"evaluator 'odd' of {bad_plugin.name}")
    assert message in str(caught.value)
    assert not pipeline.workspace.cache.has("evaluate", pipeline.keys.evaluate(pipeline.unit_keys))


def test_what_a_protocol_changes_is_put_back_and_named(bad_plugin: BadPlugin, shell: Shell) -> None:
    def evaluate(task: Any) -> Metrics:
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        print("look at me")
        return metrics()

    before = global_state.global_state(torch.device("cpu"))
    registry = bad_plugin.registry(evaluators=[protocol(evaluate)])
    outcome = bad_plugin.run(shell, registry, "run", "--method", "random", *bad_plugin.small, "--evaluator", "odd")
    assert outcome.code == 0, outcome.err
    after = global_state.global_state(torch.device("cpu"))
    assert set(global_state.changed_names(before, after)) <= {global_state.RANDOM, global_state.NUMPY}
    assert "look at me" not in outcome.out
    assert f"evaluator 'odd' ({bad_plugin.name}) changed torch's global generator, torch's default dtype" in outcome.err
