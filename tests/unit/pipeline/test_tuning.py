"""A search: equally many trials for every method, on held-out images, in cells that are those of `run`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.tuning import Search
from ddbench.registry.registry import PluginRegistry
from ddbench.results.records import Record

REQUEST = Request(methods=("wmdd", "random"), datasets=("digits",), ipcs=(1,), recipes=("smoke",), repeats=3)
OVER = ("method.bn_weight=1,10", "evaluator.learning_rate=1e-3,5e-3")


def search(
    *over: str, trials: int | None = None, trial_repeats: int = 1, request: Request = REQUEST, **changes: Any
) -> Search:
    return Search(replace(request, **changes), over or OVER, trials, trial_repeats, PluginRegistry())


def trials_of(made: Search, method: str) -> dict[int, list[Experiment]]:
    cells: dict[int, list[Experiment]] = {}
    for cell in made.cells:
        if cell.method_name == method:
            assert cell.trial
            cells.setdefault(cell.trial["trial"], []).append(cell)
    return cells


@pytest.mark.parametrize(("trials", "expected"), [(None, 4), (7, 7)])
def test_every_method_has_equally_many_trials_and_students(trials: int | None, expected: int) -> None:
    made = search(trials=trials, trial_repeats=2, methods=("wmdd", "kmeans", "random", "full"))
    for method, sets in (("wmdd", 2), ("kmeans", 2), ("random", 2), ("full", 1)):
        assert {number: len(cells) for number, cells in trials_of(made, method).items()} == dict.fromkeys(
            range(1, expected + 1), sets
        )
    # No student is trained twice: a point that occurs again has other sets and other students.
    assert len({cell.model_dump_json() for cell in made.cells}) == len(made.cells)


def test_a_setting_that_a_method_lacks_is_not_searched_for_it() -> None:
    made = search()
    wmdd, random = trials_of(made, "wmdd"), trials_of(made, "random")
    rates = [1e-3, 5e-3, 1e-3, 5e-3]
    assert [cell.evaluator.model_dump()["learning_rate"] for (cell,) in wmdd.values()] == rates
    assert [cell.method.model_dump()["bn_weight"] for (cell,) in wmdd.values()] == [1, 1, 10, 10]
    assert [cell.evaluator.model_dump()["learning_rate"] for (cell,) in random.values()] == rates
    assert [(cell.repeat, cell.student_seed) for (cell,) in random.values()] == [(0, 0), (0, 0), (1, 1), (1, 1)]
    assert [cell.trial and cell.trial["settings"] for (cell,) in random.values()] == [
        {"evaluator.learning_rate": rate} for rate in rates
    ]


def test_trials_are_the_cells_of_run_with_held_out_images() -> None:
    assignments = ("data.holdout=0.2", "wmdd.steps=7")
    made = search(assignments=assignments, repeats=1)
    chosen = ("method.bn_weight=1", "evaluator.learning_rate=5e-3")
    request = replace(REQUEST, methods=("wmdd",), repeats=1, assignments=("wmdd.steps=7", *chosen, "data.holdout=0.2"))
    (expected,) = experiments(request, PluginRegistry())
    (cell,) = trials_of(made, "wmdd")[2]
    assert cell.data.holdout == 0.2
    assert sorted(cell.changed) == sorted(expected.changed)
    assert cell.model_copy(update={"changed": ()}) == expected.model_copy(update={"changed": (), "trial": cell.trial})


def test_winners_are_the_cells_of_run_on_the_validation_images() -> None:
    made = search(seeds=2)
    cells = made.winner_cells({"wmdd": 2, "random": 4})
    for method, own in (("wmdd", ("method.bn_weight=1", "evaluator.learning_rate=5e-3")), ("random", OVER[1:])):
        chosen = own if method == "wmdd" else ("evaluator.learning_rate=5e-3",)
        request = replace(REQUEST, methods=(method,), seeds=2, assignments=chosen)
        expected = experiments(request, PluginRegistry())
        actual = [cell for cell in cells if cell.method_name == method]
        assert [cell.model_copy(update={"trial": None}) for cell in actual] == expected
        assert {cell.trial["trial"] for cell in actual if cell.trial} == {2 if method == "wmdd" else 4}


def test_a_trial_changes_no_configuration() -> None:
    cell = search().cells[0]
    assert cell.public() == cell.model_copy(update={"trial": None}).public()


def test_the_name_is_that_of_the_trials() -> None:
    assert search().name == search(repeats=1, seeds=4).name  # of the winners only
    names = {search().name, search(seed=1).name, search(OVER[1]).name, search(trials=4).name, search(ipcs=(2,)).name}
    assert len(names) == 5
    assert all(re.fullmatch(r"tune-[0-9a-f]{8}", name) for name in names)


def test_a_setting_of_one_protocol_is_searched_for_it_alone() -> None:
    made = search("fkd.temperature=4,20", methods=("random",), evaluators=("fkd", "hard"))
    counts = Counter((cell.evaluator_name, cell.evaluator.model_dump().get("temperature")) for cell in made.cells)
    assert counts == {("fkd", 4.0): 1, ("fkd", 20.0): 1, ("hard", None): 2}


@pytest.mark.parametrize(
    ("over", "changes", "message"),
    [
        (
            ("method.bn_wieght=1,10",),
            {},
            "--over method.bn_wieght: no method of this search has setting 'bn_wieght'; did you mean 'bn_weight'",
        ),
        (
            ("method.bn_weight=1,10",),
            {"methods": ("random",)},
            "--over method.bn_weight: no method of this search has setting 'bn_weight'",
        ),
        (("random.bn_weight=1,10",), {}, "--over random.bn_weight: random has no setting 'bn_weight'"),
        (("evaluator.epoch=1,10",), {}, "no evaluator of this search has setting 'epoch'; did you mean 'epochs'?"),
        (("metod.bn_weight=1,10",), {}, "--over metod.bn_weight: unknown section 'metod'; did you mean 'method'?"),
        (("teacher.epochs=1,10",), {}, "--over teacher.epochs: only methods and protocols are searched"),
        ((OVER[0], OVER[0]), {}, "--over method.bn_weight is given 2 times"),
        ((OVER[0], "wmdd.bn_weight=2,3"), {}, "--over wmdd.bn_weight: wmdd has this setting in another --over too"),
        (OVER, {"assignments": ("method.bn_weight=1",)}, "--over method.bn_weight: --set gives it a value too"),
        (OVER, {"assignments": ("wmdd.bn_weight=1",)}, "--over method.bn_weight: --set gives it a value too"),
        (("method.bn_weight=1,many",), {}, "method.bn_weight (wmdd): Input should be a valid number"),
        (OVER, {"assignments": ("data.holdout=0",)}, "--set data.holdout=0: a search needs held-out training images"),
    ],
)
def test_what_cannot_be_searched_is_refused(over: tuple[str, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DDBenchError, match=re.escape(message)):
        search(*over, **changes)


def test_a_recipe_with_held_out_images_is_refused_before_the_search(tmp_path: Path) -> None:
    block = "blocks: [{source: here, settings: {data: {holdout: 0.2}}}]"
    (tmp_path / "mine.yaml").write_text(f"name: mine\nkind: numerics\nabout: a test\n{block}\n")
    with pytest.raises(DDBenchError, match=r"a recipe sets data.holdout, but the winners need the whole training set"):
        search(recipes=("smoke", str(tmp_path / "mine.yaml")))


def test_candidates_do_not_read_records_on_validation_images(record: Callable[..., Record]) -> None:
    """Records on validation images name the trial too: that of the winner."""
    made = search(OVER[1], methods=("random",))

    def student(trial: int, top1: float, holdout: float) -> Record:
        entry = {"search": made.name, "trial": trial, "of": 2, "settings": {}}
        one = record(top1, "random", name=f"{trial} {holdout}", trials=[entry])
        data = {**one.configuration["data"], "holdout": holdout}
        return one.model_copy(update={"configuration": {**one.configuration, "data": data}})

    held_out = [student(1, 30.0, 0.1), student(2, 20.0, 0.1)]
    assert [each.top1 for each in made.candidates([*held_out, student(2, 99.0, 0.0)])] == [30.0, 20.0]
    assert [each.top1 for each in made.candidates(held_out[1:])] == [None, 20.0]
    assert [each.top1 for each in made.candidates([record(9.0, "random")])] == [None, None]
