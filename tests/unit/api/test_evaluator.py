"""The metrics that a protocol returns: what is refused, and that a copy cannot go round the checks."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ddbench.api.evaluator import Evaluator, Metrics, check_metrics
from ddbench.core.errors import DDBenchError

GOOD: dict[str, Any] = {
    **{"top1_last": 50.0, "per_class": [40.0, 60.0], "student_steps": 1},
    **{"label_bytes": 0, "image_bytes": 1, "regime": "hard"},
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"top1_last": 100.1},
        {"top1_last": float("nan")},
        {"per_class": [-1.0, 0.0]},
        {"student_steps": -1},
        {"selected_epoch": 0},
        {"top5": 1.0},
    ],
)
def test_values_out_of_range_are_refused_however_they_were_set(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Metrics(**{**GOOD, **wrong})
    copied = Metrics(**GOOD).model_copy(update=wrong)
    with pytest.raises(DDBenchError, match=rf"^the protocol returned .*{next(iter(wrong))}"):
        check_metrics(copied, 2, "the protocol")


def test_sound_metrics_of_every_class_pass() -> None:
    metrics = Metrics(**GOOD)
    assert check_metrics(metrics, 2, "the protocol") == metrics
    with pytest.raises(DDBenchError, match=r"^the protocol returned top-1 of 2 classes, not 3$"):
        check_metrics(metrics, 3, "the protocol")
    with pytest.raises(DDBenchError, match=r"^the protocol returned dict, not Metrics$"):
        check_metrics(GOOD, 2, "the protocol")


def test_a_protocol_declares_nothing_but_its_evaluation() -> None:
    class Plain(Evaluator):
        name = "plain"
        version = "1"

    plain = Plain()
    assert (plain.skip(1), plain.skip(None), plain.image_passes(10)) == (None, None, 0)
    assert (plain.needs_teacher, plain.on_real_data, plain.batch_settings) == (True, False, ())
    with pytest.raises(NotImplementedError):
        plain.evaluate(None)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Plain(stpes=3)
