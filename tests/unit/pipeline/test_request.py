"""From what was asked for to cells: the grid's order, which recipe wins, what `--set` may say."""

import json
from collections.abc import Callable

import pytest

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, experiment_of, experiments, protocol_note
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
    assert [one(methods=(name,)).evaluator_name for name in ("dm", "dm-rbf", "dc", "dsa")] == ["dsa"] * 4


def test_own_protocol_stands_for_the_default_among_others(ask: Ask) -> None:
    cells = ask(methods=("dm", "wmdd"), evaluators=("own-protocol", "fkd", "hard"))
    assert [(cell.method_name, cell.evaluator_name) for cell in cells] == [
        *(("dm", "dsa"), ("dm", "fkd"), ("dm", "hard")),
        *(("wmdd", "fkd"), ("wmdd", "hard")),
    ]
    assert ask(methods=("dm",), evaluators=("own-protocol",)) == ask(methods=("dm",))


@pytest.mark.parametrize(
    ("size", "convnet"), [(8, "d3"), (16, "d3"), (32, "d3"), (64, "d4"), (128, "d5"), (224, "d6"), (1024, "d6")]
)
def test_a_student_is_the_protocols_the_teachers_or_the_one_asked_for(ask: Ask, size: int, convnet: str) -> None:
    cells = ask(methods=("dm", "random"), evaluators=("dsa", "hard"), image_size=size, arch="resnet34")
    expected = {"dsa": f"convnet-{convnet}", "hard": "resnet34"}
    assert [cell.student for cell in cells] == [expected[cell.evaluator_name] for cell in cells]
    (given,) = ask(methods=("dm",), students=("resnet18",), image_size=size)
    assert given.student == "resnet18"


def test_a_grid_of_several_default_protocols_is_noted() -> None:
    def note(methods: tuple[str, ...], *evaluators: str) -> str | None:
        return protocol_note(Request(methods, ("digits",), (1,), evaluators=evaluators), PluginRegistry())

    assert note(("dm", "wmdd", "full", "dm")) == (
        "methods are evaluated by their authors' protocols: dm: dsa, wmdd: fkd; --evaluator fkd evaluates all by one"
    )
    assert note(("dm", "wmdd"), "fkd") is note(("dm", "wmdd"), "own-protocol") is None
    assert note(("dm", "dsa", "full")) is note(("wmdd", "random")) is None


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
    with pytest.raises(DDBenchError, match="unknown evaluator 'ownprotocol'; did you mean 'own-protocol'"):
        ask(evaluators=("ownprotocol",))


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
