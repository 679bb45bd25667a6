"""Several teachers: each has the key and the cache of the teacher of its network; labels are their mean logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from ddbench.api import Distiller, DistillTask, Unit, hookimpl
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.results.conditions import distillation_config, evaluation_conditions

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk

ENSEMBLE = "evaluator.teachers=[convnet-d1,convnet-bn-d2]"
RANDOM = {"method": "random", "ipcs": (1,), "evaluators": ("soft",)}


class Pooled(Distiller, frozen=True, extra="forbid"):
    """Gray images, one value for each teacher that it asks for."""

    name = "pooled"
    version = "1"
    declared: tuple[str, ...] = ("convnet-d1",)

    def teacher_pool(self) -> tuple[str, ...]:
        return self.declared

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        (teacher,) = task.teachers("convnet-d1")
        size = task.info.image_size
        logits = teacher(torch.zeros(1, 3, size, size), bn=False).logits
        return torch.sigmoid(logits.mean()).expand(len(unit.slots), 3, size, size).clone()


@pytest.fixture
def desk(desk_in: Callable[..., Desk], tmp_path: Path) -> Desk:
    return desk_in(tmp_path, [SimpleNamespace(ddbench_distillers=hookimpl(lambda: [Pooled]))])


def test_each_teacher_is_trained_once_for_methods_protocols_and_as_the_configured_one(desk: Desk) -> None:
    plan = dict(desk.pipeline(desk.cell(ENSEMBLE, **RANDOM)).plan())
    assert plan["teacher"] == "to do"
    record = desk.run(ENSEMBLE, **RANDOM)
    assert desk.computed()["teacher"] == 2
    assert list(record.teacher["others"]) == ["convnet-d1"]
    assert record.teacher["others"]["convnet-d1"]["used_by"] == ["evaluator"]

    alone = desk.run("teacher.arch=convnet-d1", **RANDOM)  # the other network, as the configured teacher
    assert "teacher" not in desk.computed()
    assert alone.teacher["key"] == record.teacher["others"]["convnet-d1"]["key"] == record.keys["teacher"][1]
    assert alone.teacher["digest"] == record.teacher["others"]["convnet-d1"]["digest"]

    pooled = desk.run(**{**RANDOM, "method": "pooled"})
    assert "teacher" not in desk.computed()
    assert pooled.teacher["others"]["convnet-d1"]["used_by"] == ["method"]
    forced = desk.pipeline(desk.cell(ENSEMBLE, **RANDOM), frozenset({"teacher"})).plan()
    assert dict(forced)["teacher"] == "to do"


def test_a_pool_changes_only_keys_that_depend_on_it(desk: Desk) -> None:
    plain, ensemble = (desk.pipeline(desk.cell(*more, **RANDOM)).keys for more in ((), (ENSEMBLE,)))
    assert plain.teacher() == plain.teacher("convnet-bn-d2") == ensemble.teacher()
    assert plain.unit(0) == ensemble.unit(0)
    assert "teachers" not in plain.evaluate(("unit",))
    names = {name: key_of(plain.teacher(name)) for name in ("convnet-d1", "convnet-bn-d2")}
    assert ensemble.evaluate(("unit",))["teachers"] == names
    pooled = desk.pipeline(desk.cell(**{**RANDOM, "method": "pooled"})).keys
    assert pooled.unit(0)["real"]["teachers"] == {"convnet-d1": names["convnet-d1"]}


def test_records_of_other_teachers_are_other_conditions(desk: Desk) -> None:
    record = desk.run(ENSEMBLE, **RANDOM)
    others = {"convnet-d1": {**record.teacher["others"]["convnet-d1"], "digest": "other"}}
    changed = record.model_copy(update={"teacher": {**record.teacher, "others": others}})
    assert evaluation_conditions(changed) != evaluation_conditions(record)
    assert distillation_config(changed) == distillation_config(record)  # random images have no teacher


def test_a_teacher_that_is_not_declared_is_refused(desk: Desk) -> None:
    with pytest.raises(DDBenchError, match="'pooled' uses the teacher convnet-d1, which its teacher_pool"):
        desk.run("method.declared=[]", **{**RANDOM, "method": "pooled"})
