"""The store of a run's processes and their strategy, in one process; several are in tests/faults."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import torch

from ddbench.core.errors import DDBenchError

pytest.importorskip("lightning_fabric", reason="Fabric is not installed: pip install 'ddbench[fabric]'")

if TYPE_CHECKING:
    from ddbench.execution.rendezvous import Rendezvous


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Rendezvous:
    """The store of a run of one process."""
    from ddbench.execution.rendezvous import Rendezvous

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    for name, value in {**values, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return Rendezvous()


def test_texts_are_stored_for_all(alone: Rendezvous) -> None:
    assert (alone.rank, alone.world_size) == (0, 1)
    assert not alone.has("stage/1")
    alone.set("stage/1", "teacher é")
    alone.set("end")
    assert alone.get("stage/1") == "teacher é"
    assert alone.get("end") == ""
    assert alone.has("stage/1", "end")
    assert not alone.has("stage/1", "stage/2")


def test_ranks_that_do_not_come_are_not_waited_for_without_end(
    alone: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alone.wait_for_ranks("left")  # there are no others
    monkeypatch.setattr("ddbench.execution.rendezvous.PATIENCE", 0.0)
    alone.world_size = 3
    alone.set("left/1")
    assert not alone.wait_for_ranks("left")
    alone.set("left/2")
    assert alone.wait_for_ranks("left")


def test_devices_that_processes_cannot_share_are_refused(alone: Rendezvous, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DDBenchError, match="--device cuda:1: use --device cuda, which chooses one device for each"):
        alone.strategy(torch.device("cuda:1"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    with pytest.raises(DDBenchError, match="1000 processes were started on a node with"):
        alone.strategy(torch.device("cuda"))
