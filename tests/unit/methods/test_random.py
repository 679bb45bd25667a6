"""Random selection: how many images, of which class, from which seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ddbench.core.errors import DDBenchError
from ddbench.pipeline.pipeline import Pipeline


@pytest.mark.parametrize("ipc", [1, 7])
def test_random_takes_ipc_different_images_of_each_class(pipeline: Callable[..., Pipeline], ipc: int) -> None:
    made = pipeline("random", ipcs=(ipc,), evaluators=("hard",))
    actual = made.distilled
    assert actual.indices is not None
    assert len(set(actual.indices.tolist())) == 10 * ipc
    assert actual.labels.tolist() == [label for label in range(10) for _ in range(ipc)]
    assert torch.equal(made.dataset.train.labels[actual.indices], actual.labels)
    torch.testing.assert_close(actual.weights, torch.full((10 * ipc,), 1 / ipc))


def test_random_draws_by_seed_and_class_alone(pipeline: Callable[..., Pipeline]) -> None:
    first = pipeline("random").distilled
    assert first.indices is not None
    assert pipeline("random", "teacher.seed=4", evaluators=("hard",)).distilled.digest == first.digest
    other, repeat = pipeline("random", seed=1).distilled, pipeline("random", repeats=2).distilled
    assert other.digest == repeat.digest != first.digest
    # A larger set begins with the smaller one's images: a curve over IPC is nested.
    larger = pipeline("random", ipcs=(5,)).distilled
    assert larger.indices is not None
    assert torch.equal(larger.indices.reshape(10, 5)[:, :3], first.indices.reshape(10, 3))


def test_random_can_take_a_whole_class_and_not_one_image_more(pipeline: Callable[..., Pipeline]) -> None:
    smallest = min(pipeline("random").dataset.info.train_counts)
    assert len(pipeline("random", ipcs=(smallest,)).distilled) == 10 * smallest
    with pytest.raises(DDBenchError, match=rf"--ipc {smallest + 1} is more than the {smallest} training images"):
        pipeline("random", ipcs=(smallest + 1,))
