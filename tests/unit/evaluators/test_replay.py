"""Labels of every view in SRe2L's format train the student of the teacher's own labels; wrong files are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler

from ddbench.augment.views import EpochViews
from ddbench.core.errors import DDBenchError
from ddbench.distillation.distilled_set import class_weights
from ddbench.evaluators.fkd_labels import OnlineLabels
from ddbench.evaluators.label_folders import open_labels
from ddbench.evaluators.protocols import KnowledgeDistillation
from ddbench.evaluators.replay import Replay
from ddbench.evaluators.students import evaluate_student

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

EPOCHS, BATCH, SIZE = 3, 8, 8


def released_orders(count: int, seed: int) -> list[Tensor]:
    """The order of the images in each epoch: the sampler of SRe2L's relabel code."""
    sampler = RandomSampler(range(count), generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(sampler, BATCH, drop_last=False)
    return [torch.tensor([row for batch in batches for row in batch]) for _ in range(EPOCHS)]


class KnownViews(OnlineLabels):
    """The teacher's labels of drawn views in the order of SRe2L's sampler. Writes them in SRe2L's format."""

    def __init__(self, task: WatchedTask, settings: KnowledgeDistillation, folder: Path, with_weights: bool) -> None:
        super().__init__(task, settings, settings.temperature)
        self.orders = released_orders(self.count, 42)
        for epoch in range(EPOCHS):
            (folder / f"epoch_{epoch}").mkdir(parents=True)
            views = self.views(epoch)
            for number, batch in enumerate(self.batches(views)):
                part = views.batches[number]
                mix = views.mixes[number] if views.mixes else None
                top, left, height, width = mix.box if mix else (0, 0, 0, 0)
                ends = (top, left, top + height, left + width)
                content = [
                    torch.tensor([[end / SIZE for end in box] for box in views.boxes[part].tolist()]),
                    views.flips[part],
                    mix.partner if mix else None,
                    0.25 if mix else None,
                    [np.clip(end, 0, SIZE) for end in ends] if mix else None,  # NumPy numbers, as there
                    self.logits(epoch, batch).cpu(),
                    *([task.weights[views.order[part]] * 7] if with_weights else []),
                ]
                torch.save(content, folder / f"epoch_{epoch}" / f"batch_{number}.tar")

    def views(self, epoch: int) -> EpochViews:
        return dataclasses.replace(super().views(epoch), order=self.orders[epoch])


@pytest.mark.parametrize("cutmix_alpha", [1.0, None])
@pytest.mark.parametrize("with_weights", [False, True])
def test_the_student_is_that_of_the_teachers_own_labels(
    make_task: Callable[..., WatchedTask], tmp_path: Path, cutmix_alpha: float | None, with_weights: bool
) -> None:
    task = make_task()
    known = KnowledgeDistillation(epochs=EPOCHS, batch_size=BATCH, cutmix_alpha=cutmix_alpha)
    expected = evaluate_student(task, known, KnownViews(task, known, tmp_path / "fkd", with_weights))

    again = make_task(_teacher=lambda: pytest.fail("the protocol asked for a teacher"))
    if with_weights:  # those of the files replace the equal weights of the set
        equal = dataclasses.replace(again.distilled, weights=class_weights(again.labels, None))  # type: ignore[type-var]
        again = dataclasses.replace(again, distilled=equal)
    actual = Replay(epochs=EPOCHS, labels=tmp_path / "fkd").evaluate(again)
    assert (actual.top1_last, actual.per_class) == (expected.top1_last, expected.per_class)
    assert (actual.student_steps, actual.regime) == (expected.student_steps, "fkd")
    assert actual.label_bytes == expected.label_bytes
    rounding = 5e-5 if with_weights else 0.0  # the weights in the files are scaled to those of the set
    for one, other in zip(task.students[0].parameters(), again.students[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=rounding)
    moved = sum(
        float((a - b).detach().abs().sum())
        for a, b in zip(again.students[0].parameters(), make_task().student().parameters(), strict=True)
    )
    assert moved > 1


@pytest.fixture
def folder(make_task: Callable[..., WatchedTask], tmp_path: Path) -> Path:
    known = KnowledgeDistillation(epochs=EPOCHS, batch_size=BATCH)
    KnownViews(make_task(), known, tmp_path / "fkd", with_weights=False)
    return tmp_path / "fkd"


def test_another_seed_of_the_order_gives_other_images(folder: Path) -> None:
    first, other = (open_labels(folder, SIZE, seed).epoch(1)["order"] for seed in (42, 43))
    assert torch.equal(first.long(), released_orders(20, 42)[1])
    assert not torch.equal(first, other)


def test_crops_are_rounded_as_pillow_rounds_their_edges(folder: Path) -> None:
    content = torch.load(folder / "epoch_0" / "batch_0.tar", weights_only=False)
    content[0] = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) / 2
    torch.save(content, folder / "epoch_0" / "batch_0.tar")
    boxes = open_labels(folder, 100, 42).epoch(0)["boxes"][:8]
    for (top, left, height, width), (y, x, h, w) in zip(
        boxes.tolist(), (content[0].double() * 100).tolist(), strict=True
    ):
        assert (top, left, top + height, left + width) == (round(y), round(x), round(y + h), round(x + w))


class Attack:
    """A pickle that creates a file when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("attacked"),)


def change(position: int, value: Any) -> Callable[[Path], None]:
    """Replaces an entry of the first batch."""

    def write(folder: Path) -> None:
        path = folder / "epoch_0" / "batch_0.tar"
        content = torch.load(path, weights_only=False)
        content[position] = value
        torch.save(content, path)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(3, Attack()), r"nothing else is unpickled: save plain values: torch.save\(\[coords, flips, index"),
        (change(4, None), "the labels are of mixup"),
        (change(4, [0, 0, 9, 4]), r"outside of views of 8 px"),
        (change(4, [0.5, 0, 4, 4]), "not four whole numbers"),
        (change(5, torch.full((8, 10), torch.nan)), "the logits are not finite"),
        (change(5, torch.zeros(7, 10)), "are not tensors of one length"),
        (change(2, torch.arange(8) + 1), "are not positions in the batch"),
        (change(0, torch.full((8, 4), 1.5)), "not fractions of the image"),
        (lambda folder: (folder / "epoch_0" / "batch_1.tar").unlink(), "their numbers must be 0, 1, 2"),
        (
            lambda folder: (folder / "epoch_0" / "batch_2.tar").unlink(),
            "the labels are of 16 images, and the set has 20",
        ),
        (lambda folder: (folder / "epoch_0").rename(folder / "other"), "holds no labels"),
        (
            lambda folder: (folder / "epoch_2").rename(folder / "other"),
            r"labels of 2 epochs \(--set evaluator.epochs=2",
        ),
    ],
)
def test_wrong_labels_are_refused_in_one_line(
    spoil: Callable[[Path], None], message: str, folder: Path, make_task: Callable[..., WatchedTask]
) -> None:
    spoil(folder)
    with pytest.raises(DDBenchError, match=message) as refused:
        Replay(epochs=EPOCHS, labels=folder).evaluate(make_task())
    assert "\n" not in str(refused.value)
    assert not Path("attacked").exists()


def test_settings_that_the_labels_determine_are_refused() -> None:
    assert Replay().skip(10) == "evaluator 'replay' needs the labels of the set: --set evaluator.labels=FOLDER"
    with pytest.raises(ValidationError, match="batch_size is that of the labels: leave it out"):
        Replay(labels=Path("labels"), batch_size=10)
    with pytest.raises(ValidationError, match="augmentation is that of the labels: leave it out"):
        Replay(labels=Path("labels"), augmentation="none")
