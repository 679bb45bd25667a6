"""The records that a figure shows, and the command of a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.figures.selecting import Filters, command_of, select
from ddbench.results import records
from ddbench.results.records import Record

PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


def test_records_are_selected_by_every_filter(tmp_path: Path, record: Callable[..., Record]) -> None:
    found = [record(1.0), record(2.0, ipc=1), record(3.0, recipes=("quick", "lloyd")), record(4.0, method="random")]
    for one in found:
        records.write(one, tmp_path)

    def chosen(**filters: Any) -> set[float]:
        return {one.metrics.top1_last for one in select(tmp_path, Filters(**filters), pytest.fail)}

    assert chosen() == {1.0, 2.0, 3.0, 4.0}
    assert chosen(ipc=1) == {2.0}
    assert chosen(recipes=("quick",)) == {1.0, 2.0, 4.0}
    assert chosen(recipes=("quick", "lloyd")) == {3.0}
    assert chosen(methods=("random", "wmdd"), ipc=10, image_size=64, dataset="imagenette") == {1.0, 3.0, 4.0}
    with pytest.raises(DDBenchError, match=r"no record .*: ddbench run --method random --dataset digits --ipc 50$"):
        chosen(ipc=50)
    command = r"no record of method 'dm' .*: ddbench run --method dm --dataset imagenette --ipc 10 --recipe quick$"
    with pytest.raises(DDBenchError, match=command):
        chosen(methods=("random", "dm"), dataset="imagenette", recipes=("quick",))


def test_the_command_of_a_record_holds_its_recipes_and_what_was_set(record: Callable[..., Record]) -> None:
    one = record(1.0, recipes=("quick", "lloyd"), bn_weight=0.5)
    one.configuration["changed"] = ["method.bn_weight", "evaluator.epochs", "data.stored_size"]
    assert command_of(one) == (
        "ddbench run --method wmdd --dataset imagenette --ipc 10 --image-size 64 --recipe quick --recipe lloyd"
        " --set method.bn_weight=0.5 --set evaluator.epochs=300 --set data.stored_size=72"
    )
