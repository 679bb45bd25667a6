"""Units of work without a cluster: how a grid is cut, what may begin, what fails; resources; Ray not installed."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.execution import worker
from ddbench.execution.choose import choose
from ddbench.execution.event_queue import decode_event
from ddbench.execution.resources import DistributedResources, Resources
from ddbench.execution.work_list import Failure, WorkItem, WorkList
from ddbench.execution.worker import experiment_of
from ddbench.pipeline.executor import Inline
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

if TYPE_CHECKING:
    from torch import Tensor

    from conftest import Shell
    from ddbench.api.context import DistillTask

ASKED = Request(
    methods=("wmdd",),
    datasets=("digits",),
    ipcs=(2,),
    recipes=("smoke",),
    image_size=8,
    arch="convnet-bn-d1",
    device="cpu",
    precision="fp32",
    assignments=(
        "teacher.batch_size=256",
        "teacher.epochs=1",
        "wmdd.batch_size=4",
        "wmdd.steps=2",
        "evaluator.epochs=1",
    ),
)


def grid(folder: Path, asked: Request, force: frozenset[str] = frozenset()) -> list[Pipeline]:
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(folder, force), None)
    return [Pipeline(workspace, cell) for cell in experiments(asked, registry)]


def drained(plan: WorkList) -> list[WorkItem]:
    """All that can begin, one after the other, each done before the next."""
    order = []
    while work := plan.pop_ready():
        order.append(work)
        plan.mark_done(work)
    return order


def test_a_grid_is_cut_along_the_stage_graph_and_shared_parts_are_there_once(tmp_path: Path) -> None:
    cells = grid(tmp_path, replace(ASKED, ipcs=(1, 2), seeds=2))
    plan = WorkList(cells)
    order = drained(plan)
    # One teacher, ten classes; units of four images: 3 of IPC 1, 5 of IPC 2; two students and one measure a set.
    expected = {"teacher": 1, "statistics": 10, "distill": 3 + 5, "evaluate": 4, "measure": 2}
    assert {stage: sum(work.stage == stage for work in order) for stage in expected} == expected
    assert len(order) == plan.total == sum(expected.values())
    made: set[str] = set()
    for work in order:
        assert made >= work.inputs, work.name
        assert made.isdisjoint(work.outputs)
        made.update(work.outputs)
    units = [work for work in order if work.stage == "distill"]
    classes = [{"teacher", "statistics"} == {name.partition("/")[0] for name in work.inputs} for work in units]
    assert all(classes)
    assert [len(work.inputs) for work in units] == [1 + 4, 1 + 4, 1 + 2] + 5 * [1 + 2]
    assert all(plan.is_done(cell) for cell in cells)
    assert plan.remaining == 0


def test_what_needs_something_waits_for_it(tmp_path: Path) -> None:
    plan = WorkList(grid(tmp_path, ASKED))
    teacher = plan.pop_ready()
    assert teacher is not None
    assert (teacher.stage, plan.pop_ready()) == ("teacher", None)
    plan.requeue(teacher)  # its worker died
    assert plan.pop_ready() is teacher
    plan.mark_done(teacher)
    assert {work.stage for work in (plan.pop_ready() for _ in range(10)) if work} == {"statistics"}
    assert plan.pop_ready() is None


def test_what_is_in_the_cache_is_no_work_and_the_keys_are_those_of_a_run(tmp_path: Path) -> None:
    (cell,) = grid(tmp_path, ASKED)
    order = drained(WorkList([cell]))
    for work in order:
        build_artifacts(cell, work.stage, work.parts)
        assert all((tmp_path / f"{name}.safetensors").is_file() for name in work.outputs)
    assert WorkList(grid(tmp_path, ASKED)).total == 0
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    grid(tmp_path, ASKED)[0].run()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == made
    next(tmp_path.glob("statistics/*")).unlink()
    (work,) = drained(WorkList(grid(tmp_path, ASKED)))
    assert (work.stage, len(work.parts)) == ("statistics", 1)
    # Forced: that stage and those after it, until it is there anew.
    forced = grid(tmp_path, ASKED, frozenset({"distill"}))
    todo = drained(WorkList(forced))
    assert [work.stage for work in todo if work.stage != "statistics"] == 5 * ["distill"] + ["evaluate", "measure"]
    assert all(forced[0].workspace.cache.made_elsewhere(name) for work in todo[1:] for name in work.outputs)
    assert {work.stage for work in drained(WorkList(forced))} <= {"statistics"}


def test_a_thousand_classes_are_some_blocks(tmp_path: Path) -> None:
    (cell,) = grid(tmp_path, ASKED)
    plan, cache = WorkList([]), cell.workspace.cache
    depends_on = [cell.keys.statistics(label % 10, layer=label) for label in range(1000)]
    names = plan._stage(cell, "statistics", depends_on, [()] * 1000, "class", -(-1000 // BLOCKS))
    order = drained(plan)
    assert len(order) == 63 <= BLOCKS
    assert [part for work in order for part in work.parts] == list(range(1000))
    assert [name for work in order for name in work.outputs] == names
    assert names[0] == f"statistics/{cache.path('statistics', depends_on[0]).stem}"
    assert (order[0].name, order[-1].name) == ("statistics class 1-16", "statistics class 993-1000")


def test_a_failure_takes_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    cells = grid(tmp_path, replace(ASKED, ipcs=(1, 2)))
    plan = WorkList(cells)
    broken = 0
    while work := plan.pop_ready():
        if work.stage == "distill" and work.experiment.ipc == 1:
            plan.mark_failed(work, Failure("diverged", "Traceback: ..."))
            broken += 1
        else:
            plan.mark_done(work)
    assert (broken, plan.remaining) == (3, 0)
    found = plan.failure(cells[0])
    assert found is not None
    error = found.error()
    assert isinstance(error, PluginError)
    assert (str(error), "Traceback: ..." in str(error.__cause__)) == ("diverged", True)
    assert plan.failure(cells[1]) is None
    assert type(Failure("disk full").error()) is DDBenchError


def test_an_experiment_comes_back_from_json(tmp_path: Path) -> None:
    (cell,) = grid(tmp_path, replace(ASKED, assignments=(*ASKED.assignments, "evaluator.labels=stored")))
    tree = json.loads(json.dumps(cell.experiment.model_dump(mode="json")))
    again = experiment_of(tree, PluginRegistry())
    assert again == cell.experiment
    assert type(again.method) is type(cell.method)


class Kept:
    """Stands for the handle of the mailbox: keeps what is posted."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.post = SimpleNamespace(remote=self.letters.append)


def test_a_worker_answers_with_the_reason_that_inline_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_registry", lambda: registry)
    monkeypatch.setattr(worker, "VISIBLE_SECONDS", 0.0)

    class Broken(Distiller):
        name, version, needs_teacher = "broken", "1", False

        def distill(self, task: DistillTask, unit: Unit) -> Tensor:
            raise KeyError("no such thing")

    registry = PluginRegistry()
    plugin = SimpleNamespace(ddbench_distillers=hookimpl(specname="ddbench_distillers")(lambda: [Broken]))
    registry.register(plugin, "ddbench-broken")
    workspace = Workspace(registry, Cache(tmp_path), None)
    asked = replace(ASKED, methods=("broken",), assignments=(), evaluator="hard")
    (cell,) = (Pipeline(workspace, each) for each in experiments(asked, registry))
    with pytest.raises(PluginError) as inline:
        cell.run()
    (unit,) = (work for work in drained(WorkList([cell])) if work.stage == "distill")
    order = {
        **{"folder": str(tmp_path), "cache": str(tmp_path), "data": None, "force": [], "threads": 1, "needs": []},
        **{"experiment": unit.experiment.model_dump(mode="json"), "stage": "distill", "parts": [0]},
        "makes": unit.outputs,
    }
    mailbox = Kept()
    answer = json.loads(worker.run_work(json.dumps(order), mailbox))
    assert answer["reason"] == str(inline.value)
    assert "raise KeyError" in answer["traceback"]
    assert [(event.kind, event.stage) for event in map(decode_event, mailbox.letters)][-1] == ("started", "distill")
    # What another node made cannot be seen here.
    answer = json.loads(worker.run_work(json.dumps({**order, "needs": ["teacher/" + 32 * "0"]}), mailbox))
    assert "must be on shared storage" in answer["reason"]


def test_resources_are_of_a_stage_and_what_is_wrong_is_one_line() -> None:
    asked = ("resources.distill.gpus=0.5", "resources.distill.cpus=4", "resources.evaluate.memory=1.5")
    found = resources_of(asked)
    assert found.of("distill") == Resources(cpus=4, gpus=0.5)
    assert found.of("measure") == found.of("evaluate") == DistributedResources(memory=1.5)
    assert found.of("statistics") == Resources(cpus=1)
    together = resources_of(("resources.teacher.processes=4", "resources.evaluate.processes=2"))
    assert {stage: together.processes(stage) for stage in ("teacher", "distill", "evaluate", "measure")} == {
        **{"teacher": 4, "distill": 1, "evaluate": 2, "measure": 1}
    }
    wrong = {
        "resources.distil.gpus=1": "no stage 'distil'; did you mean 'distill'?",
        "resources.distill.gpu=1": "no resource 'gpu'; did you mean 'gpus'?",
        "resources.distill.processes=2": "distill has no resource 'processes'",
        "resources.teacher.processes=0": "resources.teacher.processes",
        "resources.distill=1": "write it as resources.STAGE.WHAT=VALUE",
        "resources.distill.cpus=": "write it as resources.STAGE.WHAT=VALUE",
        "resources.distill.cpus=0": "resources.distill.cpus",
        "resources.distill.cpus=[1]": "resources.distill.cpus",
        "resources.distill.gpus=1.5": "a share of one GPU, or a whole number",
        "resources.distill.memory=!!python/name:os.system": "is not a plain value",
    }
    for text, line in wrong.items():
        with pytest.raises(DDBenchError) as caught:
            resources_of((text,))
        assert line in str(caught.value)
    with pytest.raises(DDBenchError, match="processes: they need a whole GPU each"):
        resources_of(("resources.teacher.gpus=0.5", "resources.teacher.processes=2"))


def test_inline_leaves_settings_alone_and_has_no_resources() -> None:
    executor, left = choose("inline", "ignored", ("teacher.epochs=1",))
    assert (type(executor), left) == (Inline, ("teacher.epochs=1",))
    with pytest.raises(DDBenchError, match="--executor ray"):
        choose("inline", None, ("resources.distill.cpus=2",))


def test_an_address_where_nobody_listens_is_one_line(shell: Shell) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ddbench[ray]'")
    asked = ("--method", "random", "--dataset", "digits", "--ipc", "1", "--device", "cpu")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        for wrong, line in ((address, "no Ray cluster answers"), ("ray://there:10001", "write HOST:PORT")):
            outcome = shell("run", *asked, "--executor", "ray", "--ray-address", wrong)
            assert (outcome.code, len(outcome.errors)) == (2, 1), outcome.err
            assert line in outcome.err


def test_without_ray_one_line_says_what_to_install(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = ("--method", "random", "--dataset", "digits", "--ipc", "1", "--executor", "ray")
    for command in (("run", *asked), ("table", "comparison", *asked[2:])):
        outcome = shell(*command)
        assert outcome.code == 2
        (line,) = outcome.errors
        assert "pip install 'ddbench[ray]'" in line
    assert not shell.files()
