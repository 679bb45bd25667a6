"""Which process of a distributed run this one is."""

import sys

import pytest

from ddbench.core import processes
from ddbench.core.errors import DDBenchError


@pytest.mark.parametrize(
    ("rank", "size", "distributed", "zero"),
    [
        (None, None, False, True),
        ("0", "1", False, True),
        ("1", "1", False, True),
        ("0", "2", True, True),
        ("1", "2", True, False),
        (None, "2", False, True),
        ("3", None, False, True),
    ],
)
def test_rank_and_world_size(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, size: str | None, distributed: bool, zero: bool
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert processes.is_distributed() == distributed
    assert processes.is_rank_zero() == zero


@pytest.mark.parametrize("rank", ["0", "1"])
def test_other_ranks_print_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", sys.stdout)
        patch.setattr(sys, "stderr", sys.stderr)
        processes.silence_nonzero_ranks()
        print("result")
        print("progress", file=sys.stderr)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (("result\n", "progress\n") if rank == "0" else ("", ""))


def test_a_lost_process_is_an_error_with_its_cause() -> None:
    error = processes.LostProcessError("timed out")
    assert isinstance(error, DDBenchError)
    assert str(error).endswith("run the same command again to resume from the last checkpoint (timed out)")
