"""`full` holds every training image and has no IPC."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.record import build_record


def test_full_is_every_training_image_without_an_ipc(pipeline: Callable[..., Pipeline]) -> None:
    made = pipeline("full", "teacher.epochs=1", "teacher.batch_size=256")
    assert made.experiment.ipc is None
    assert made.experiment.evaluator_name == "full-data"
    actual = made.distilled
    assert actual.indices is not None
    assert actual.indices.tolist() == list(range(len(made.dataset.train)))
    assert torch.equal(actual.labels, made.dataset.train.labels)
    made.run()
    record = build_record(made)
    assert record.teacher == {}
    assert record.feature_transport_cost is None
    assert record.metrics.student_steps == -(-len(actual) // 256)
    assert record.metrics.regime == "hard"
    assert record.distilled_images == len(made.dataset.train)
