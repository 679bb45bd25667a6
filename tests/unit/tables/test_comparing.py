"""Scores beside the numbers of their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddbench.tables.layout import text_blocks

if TYPE_CHECKING:
    from ddbench.results.records import Record
    from tests.unit.tables.conftest import Stored


def test_a_score_that_is_missing_says_why(stored: Stored) -> None:
    students = [stored.experiment().model_copy(update={"student_seed": seed}) for seed in (0, 1)]
    random = stored.record(stored.experiment(methods=("random",)), 30.0)
    frame = stored.frame(*[stored.record(made, 50.0) for made in students], random, name="regimes", ipcs=(10,))
    (block,) = text_blocks(stored.registry.table("regimes"), frame[frame["dataset"] == "digits"])
    shown = dict(zip(block.cells["method"], block.cells["IPC 10 fkd IOR"], strict=True))
    assert (shown["wmdd"], shown["random"]) == ("– [1]", "0.00")
    assert block.notes == ["[1] random: no record of student seed 1"]


def test_robust_scores_are_shown_where_their_students_are(stored: Stored) -> None:
    """Those without augmentation are in no cell: its mean stays."""

    def of(method: str, top1: float, *assignments: str, **changes: Any) -> Record:
        return stored.record(stored.experiment(methods=(method,), assignments=assignments, **changes), top1)

    usual = [of("wmdd", 50.0), of("random", 30.0), of("kmeans", 40.0)]
    none = "evaluator.augmentation=none"
    frame = stored.frame(*usual, of("wmdd", 20.0, none), of("random", 16.0, none), name="regimes", ipcs=(10,))
    (block,) = text_blocks(stored.registry.table("regimes"), frame[frame["dataset"] == "digits"])
    shown = block.cells.set_index("method")
    assert list(shown) == [f"IPC 10 fkd {name}" for name in ("top-1", "IOR", "raw ARS", "ARS")] + [
        f"IPC 10 {regime} top-1" for regime in ("soft", "hard")
    ] + ["all full-data top-1"]
    assert list(shown.loc["wmdd"])[:4] == ["50.00 (1 set)", "20.00", "12.00", "0.323"]  # (e^0.12 - 1/e) / (e - 1/e)
    assert list(shown.loc["random"])[:4] == ["30.00 (1 set)", "0.00", "0.00", "0.269"]
    assert list(shown.loc["kmeans"])[:4] == ["40.00 (1 set)", "10.00", "– [1]", "– [1]"]
    assert block.notes == ["[1] unaugmented: no record"]
