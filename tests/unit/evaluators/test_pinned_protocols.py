"""The results that the versions of the core's own protocols stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ddbench.evaluators import ddbench_evaluators

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 8}
PINNED: dict[str, tuple[str, dict[str, Any], float]] = {
    "fkd": ("1", SMALL, 1.109560),
    "soft": ("1", SMALL, 1.143386),
    "hard": ("1", SMALL, 1.142825),
    "dsa": ("1", SMALL, 0.9568849),
    "rded": ("1", SMALL, 1.102463),
    "cv-dd": ("1", {**SMALL, "teachers": ()}, 1.321881),
    "edc": ("1", SMALL, 1.161483),
    "gvbsm": ("1", SMALL, 0.7887336),
    "own": ("1", SMALL, 0.9568849),
    "mtt": ("1", SMALL, 0.9568849),
    "datm-dsa": ("1", SMALL, 0.9568849),
    "minimax-hard": ("1", SMALL, 0.8839188),
    "full-data": ("2", {}, 2.398409),
}
"""Its version, its settings, and the norm of the trained student's logits of one image."""


@pytest.mark.parametrize("name", PINNED)
def test_a_protocol_gives_what_its_version_stands_for(name: str, make_task: Callable[..., WatchedTask]) -> None:
    """Edits of the core's protocols do not invalidate cached artifacts: their versions do."""
    version, settings, expected = PINNED[name]
    (cls,) = (cls for cls in ddbench_evaluators() if cls.name == name)
    task = make_task()
    cls(**settings).evaluate(task)
    (student,) = task.students
    with torch.no_grad():
        logits = student.eval()(torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8))
    actual = float(logits.norm())
    assert actual == pytest.approx(expected, rel=1e-3), f"raise {cls.__name__}.version, then pin the new numbers"
    assert cls.version == version


def test_every_protocol_of_the_core_is_pinned() -> None:
    """`replay` needs files; `test_replay.py` shows that its students are those of `fkd`."""
    assert {*PINNED, "replay"} == {cls.name for cls in ddbench_evaluators()}
