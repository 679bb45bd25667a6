"""A cache that interrupts builds: at which moments, how often, and that a build goes on from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddbench.storage.artifacts import Built
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint
from ddbench.testing.checkpoints import Interrupter, InterruptingCache, Interruption, Moment


def steps(checkpoint: Checkpoint, interrupter: Interrupter) -> Built:
    """Counts to four; each number is saved, then reported."""
    saved = checkpoint.load()
    for step in range(int(saved[1]["step"]) if saved else 0, 4):
        checkpoint.save({"x": torch.zeros(1)}, {"step": step + 1})
        interrupter.reach("report")
    return {"x": torch.full((1,), 4.0)}, {}


@pytest.mark.parametrize("moment", ["save", "report"])
def test_a_build_is_interrupted_and_goes_on_until_none_remains(tmp_path: Path, moment: Moment) -> None:
    interrupter = Interrupter(moment, remaining=2)
    cache = InterruptingCache(tmp_path, "distill", interrupter)
    for _ in range(2):
        with pytest.raises(Interruption):
            cache.get("distill", {}, lambda slot: steps(slot, interrupter))
    assert float(cache.get("distill", {}, lambda slot: steps(slot, interrupter)).tensors["x"]) == 4
    assert (interrupter.saves, interrupter.loads, interrupter.remaining) == (4, 2, 0)


def test_builds_of_other_stages_are_not_observed(tmp_path: Path) -> None:
    interrupter, never = Interrupter("save"), Interrupter("save", remaining=0)
    InterruptingCache(tmp_path, "distill", interrupter).get("teacher", {}, lambda slot: steps(slot, never))
    assert (interrupter.saves, interrupter.remaining) == (0, 3)
    assert Cache(tmp_path).has("teacher", {})
