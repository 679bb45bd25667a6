"""Confidence: even parts of the teacher's ranking."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator
from torch.nn import functional

from ddbench.api.context import DistillTask
from ddbench.methods.confidence import Confidence


def test_the_confidence_is_that_of_the_teacher(make_task: Callable[..., DistillTask]) -> None:
    task = make_task()
    actual = Confidence().describe(task, 4)
    for index, confidence in zip(task.dataset.train.of_class(4), actual, strict=True):
        logits = task.teacher(task.dataset.evaluation_view("train", index[None])).logits
        expected = -functional.cross_entropy(logits.double(), torch.tensor([4]))
        torch.testing.assert_close(confidence, expected, rtol=1e-4, atol=1e-5)


def test_each_part_gives_one_image_and_every_image_can_be_drawn() -> None:
    confidences = torch.randn(23, dtype=torch.float64, generator=Generator().manual_seed(0))
    ranks = confidences.argsort(descending=True).argsort()
    seen = set()
    for seed in range(200):
        rows = Confidence().choose(confidences, 4, Generator().manual_seed(seed))
        parts = [next(part for part, end in enumerate((6, 12, 18, 23)) if rank < end) for rank in ranks[rows].tolist()]
        assert parts == [0, 1, 2, 3]
        seen |= set(rows.tolist())
    assert seen == set(range(23))


def test_a_share_holds_the_most_confident_and_at_least_ipc_images() -> None:
    confidences = torch.arange(20, dtype=torch.float64)
    for seed in range(20):
        rows = Confidence(share=0.25).choose(confidences, 3, Generator().manual_seed(seed))
        assert set(rows.tolist()) <= {15, 16, 17, 18, 19}
    assert sorted(Confidence(share=0.01).choose(confidences, 20, Generator()).tolist()) == list(range(20))
