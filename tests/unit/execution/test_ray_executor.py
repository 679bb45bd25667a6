"""The address of a Ray cluster. Grids on Ray are in tests/faults/test_grids_on_ray.py."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell


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
