"""What the protocols on a distilled set share."""

import pytest

from ddbench.evaluators.base import DistilledSetProtocol
from ddbench.evaluators.protocols import KnowledgeDistillation


@pytest.mark.parametrize(
    ("share", "ipc", "refused"), [(None, 1, False), (0.2, 1, True), (0.2, 2, False), (0.2, None, False)]
)
def test_holding_out_needs_two_images_a_class(share: float | None, ipc: int | None, refused: bool) -> None:
    reason = KnowledgeDistillation(select_share=share).skip(ipc)
    assert (reason is not None) == refused
    assert reason is None or "evaluator.select_share" in reason


def test_every_image_is_passed_once_an_epoch() -> None:
    assert KnowledgeDistillation(epochs=7).image_passes(20) == 140


def test_a_setting_that_came_later_is_not_in_older_keys() -> None:
    assert "select_share" not in KnowledgeDistillation().model_dump()
    assert KnowledgeDistillation(select_share=0.2).model_dump()["select_share"] == 0.2
    assert issubclass(KnowledgeDistillation, DistilledSetProtocol)
