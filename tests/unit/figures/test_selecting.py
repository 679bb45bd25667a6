"""The records that a figure shows, and the command of a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.figures.selecting import Filters, select
from ddbench.results import records
from ddbench.results.records import Record


def test_records_are_selected_by_every_filter(tmp_path: Path, record: Callable[..., Record]) -> None:
    actual = [record(1.0), record(2.0, ipc=1), record(3.0, recipes=("quick", "lloyd")), record(4.0, method="random")]
    for one in actual:
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
