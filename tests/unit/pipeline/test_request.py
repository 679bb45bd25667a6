"""From what was asked for to cells: the grid's order, which recipe wins, what `--set` may say."""

import json
from collections.abc import Callable

import pytest

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, experiment_of, experiments
from ddbench.registry.registry import PluginRegistry

Ask = Callable[..., list[Experiment]]
One = Callable[..., Experiment]


def test_a_grid_is_every_cell_in_order(ask: Ask) -> None:
    cells = ask(
        datasets=("digits", "cifar10"),
        methods=("wmdd", "full", "random"),
        ipcs=(5, 1),
        students=("convnet-d3", "resnet18"),
        seeds=2,
        repeats=3,
    )
    expected = [
        (dataset, method, ipc, repeat, student, seed)
        for dataset in ("digits", "cifar10")
        for method in ("wmdd", "full", "random")
        for ipc in ((5, 1) if method != "full" else (None,))
        for repeat in range(3 if method != "full" else 1)
        for student in ("convnet-d3", "resnet18")
        for seed in range(2)
    ]
    assert [(c.dataset, c.method_name, c.ipc, c.repeat, c.student, c.student_seed) for c in cells] == expected


def test_a_cell_named_twice_counts_once(ask: Ask) -> None:
    """Otherwise two copies of one number would be shown as two students without deviation."""
    once = ask(students=("convnet-d3",))
    twice = ask(
        methods=("wmdd", "wmdd"),
        datasets=("digits", "digits"),
        ipcs=(1, 1),
        students=("convnet-d3", "convnet-d3"),
    )
    assert twice == once


def test_a_protocol_is_the_methods_own_or_the_one_asked_for(one: One) -> None:
    assert one().evaluator_name == "fkd"
    assert one(methods=("full",)).evaluator_name == "full-data"


def test_several_protocols_are_several_cells(ask: Ask, one: One) -> None:
    cells = ask(methods=("wmdd", "random"), evaluators=("hard", "fkd", "hard"), repeats=2)
    assert [(cell.method_name, cell.evaluator_name, cell.repeat) for cell in cells] == [
        (method, evaluator, repeat)
        for method in ("wmdd", "random")
        for evaluator in ("hard", "fkd")
        for repeat in (0, 1)
    ]
    assert len({cell.name for cell in cells}) == len(cells)
    assert ask(evaluators=("hard", "fkd")) == [one(evaluators=(name,)) for name in ("hard", "fkd")]


def test_an_unknown_protocol_among_several_is_refused(ask: Ask) -> None:
    with pytest.raises(DDBenchError, match="unknown evaluator 'hrad'; did you mean 'hard'"):
        ask(evaluators=("fkd", "hrad"))


def test_a_distilled_set_is_not_evaluated_by_training_on_the_real_one(one: One) -> None:
    with pytest.raises(DDBenchError, match="use it with --method full"):
        one(methods=("random",), evaluators=("full-data",))


def test_the_student_is_the_teachers_network_with_its_stem(one: One) -> None:
    same = one(datasets=("imagenette",), recipes=("quick",))
    assert (same.student, same.student_stem, same.teacher.stem) == ("resnet18", "imagenet", "imagenet")
    other = one(datasets=("imagenette",), recipes=("quick",), students=("convnet-d3",))
    assert (other.student, other.student_stem, other.teacher.arch) == ("convnet-d3", "auto", "resnet18")


def test_a_wrong_cell_anywhere_in_the_grid_refuses_the_whole(ask: Ask) -> None:
    with pytest.raises(DDBenchError, match="--ipc 0"):
        ask(ipcs=(10, 0))
    with pytest.raises(DDBenchError, match="unknown method 'randon'"):
        ask(methods=("wmdd", "randon"))


def test_an_experiment_comes_back_from_json() -> None:
    registry = PluginRegistry()
    request = Request(("wmdd",), ("digits",), (2,), ("smoke",), assignments=("evaluator.labels=stored",))
    (cell,) = experiments(request, registry)
    tree = json.loads(json.dumps(cell.model_dump(mode="json")))
    again = experiment_of(tree, registry)
    assert again == cell
    assert type(again.method) is type(cell.method)
