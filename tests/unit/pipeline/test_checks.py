"""Checks before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.pipeline.checks import check_networks

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk


def test_a_method_that_cannot_do_it_says_so_before_anything_is_trained(desk_in: type[Desk], tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    for method in ("wmdd", "random"):
        with pytest.raises(DDBenchError, match=r"--ipc 500 is more than the \d+ training images of class '\d'"):
            desk.run(method=method, ipcs=(500,))
        assert "teacher" not in desk.computed()


def test_a_size_of_the_first_epochs_that_does_not_fit_is_refused_before_anything_is_trained(
    desk_in: type[Desk], tmp_path: Path
) -> None:
    desk = desk_in(tmp_path)

    def check(assignment: str) -> None:
        check_networks([desk.pipeline(desk.cell(assignment, method="random", ipcs=(1,)))])

    with pytest.raises(DDBenchError, match=r"network 'convnet-bn-d\d' .* does not take images of 4 pixels"):
        check("teacher.start_size=4")
    with pytest.raises(DDBenchError, match=r"teacher.start_size 64 is larger than image_size \d+"):
        check("teacher.start_size=64")
