"""Training on real images, and accuracy on the validation set."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api.settings import TrainingSettings
from ddbench.augment import crops, mixing, views
from ddbench.config.schema import TeacherConfig
from ddbench.data.dataset import Dataset
from ddbench.training import teacher
from ddbench.training.schedules import one_cycle

CPU = torch.device("cpu")


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


class Recorder(nn.Module):
    """Keeps the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return images.mean((1, 2, 3))[:, None] * self.scale


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8)


def test_accuracy_is_a_count(digits: Dataset) -> None:
    """A network that knows one bit of each image, against a loop over the images."""

    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return functional.one_hot((images.mean((1, 2, 3)) > -0.2).long() * 3, 10).float()

    top1, per_class = teacher.accuracy(Brightness(), digits, "val", CPU, "fp32", batch_size=100)
    hits = [0] * 10
    for index, label in enumerate(digits.val.labels.tolist()):
        guess = 3 if float(digits.evaluation_view("val", torch.tensor([index])).mean()) > -0.2 else 0
        hits[label] += guess == label
    assert top1 == pytest.approx(100 * sum(hits) / len(digits.val))
    assert per_class == pytest.approx([100 * h / c for h, c in zip(hits, digits.info.val_counts, strict=True)])


@pytest.mark.slow
def test_teacher_learns_digits_and_is_reproducible(digits: Dataset) -> None:
    config = TeacherConfig(arch="convnet-d2", epochs=3, batch_size=32, learning_rate=0.05)
    first = teacher.train_teacher(digits, config, CPU, "fp32")
    assert not first.training
    assert teacher.accuracy(first, digits, "val", CPU, "fp32")[0] > 60
    again = teacher.train_teacher(digits, config, CPU, "fp32")
    assert_equal(first.state_dict(), again.state_dict())
    other = teacher.train_teacher(digits, config.model_copy(update={"seed": 1, "epochs": 1}), CPU, "fp32")
    assert not torch.equal(first.state_dict()["classifier.weight"], other.state_dict()["classifier.weight"])


def test_real_images_reach_the_loss_as_cropped_views_with_their_own_labels(digits: Dataset) -> None:
    """What the network is given, against single crops computed one by one."""
    network = Recorder()
    settings = TrainingSettings(epochs=1, batch_size=500)
    steps = teacher.train_on_real_images(network, digits, settings, 3, CPU, "fp32")
    count = len(digits.train)
    assert steps == len(network.seen) == math.ceil(count / 500)
    expected = views.epoch_views(count, digits.train.sizes, 3, 0, 500)
    decoded, _ = digits.train.read(expected.order[:5])
    for place in range(5):
        crop = crops.crop_resize(decoded[place : place + 1].float() / 255, expected.boxes[place], 8)
        crop = crop.flip(-1) if expected.flips[place] else crop
        torch.testing.assert_close(network.seen[0][place : place + 1], digits.normalise(crop), atol=1e-5, rtol=0)


def test_cutmix_of_real_images_mixes_both_classes_by_area(digits: Dataset) -> None:
    """The reported loss of two steps, image by image, with a network that does not learn."""
    reported: list[float] = []

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(10.0))

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))[:, None] * self.scale

    settings = TrainingSettings(epochs=1, batch_size=800, learning_rate=1e-12, weight_decay=0)
    arguments = (
        Mean(),
        digits,
        settings,
        3,
        CPU,
        "fp32",
        None,
        lambda step, total, **metrics: reported.append(metrics["loss"]),
    )
    teacher.train_on_real_images(*arguments, cutmix_alpha=1.0)
    count = len(digits.train)
    drawn = views.epoch_views(count, digits.train.sizes, 3, 0, 800, cutmix_alpha=1.0, image_size=8)
    losses = []
    for part, mix in zip(drawn.batches, drawn.mixes, strict=True):
        rows = drawn.order[part]
        pixels, _ = digits.train.read(rows)
        images = crops.crop_resize(pixels.float() / 255, drawn.boxes[part], 8, drawn.flips[part])
        images = digits.normalise(mixing.cutmix(images, mix.partner, mix.box))
        log_probabilities = torch.log_softmax(Mean()(images).detach().double(), 1)
        share = 1 - mix.box[2] * mix.box[3] / 64
        own, other = digits.train.labels[rows], digits.train.labels[rows[mix.partner]]
        places = range(len(rows))
        total = sum(share * log_probabilities[i, own[i]] + (1 - share) * log_probabilities[i, other[i]] for i in places)
        losses.append(-float(total) / len(rows))
    assert 0 < share < 1
    assert reported == [pytest.approx(sum(losses) / len(losses), rel=1e-4)]


def test_images_grow_and_the_learning_rate_follows_one_cycle(digits_at: Callable[..., Dataset]) -> None:
    digits = digits_at(32)
    network = Recorder()
    reported: list[float] = []

    def report(step: int, total: int, **metrics: float) -> None:
        reported.append(metrics["learning_rate"])

    settings = TrainingSettings(epochs=4, batch_size=2000, start_size=16, schedule="one-cycle", learning_rate=0.2)
    teacher.train_on_real_images(network, digits, settings, 3, CPU, "fp32", None, report)
    assert [images.shape[-2:] for images in network.seen] == [(16, 16), (16, 16), (16, 16), (32, 32)]
    assert reported == pytest.approx([0.2 * one_cycle(epoch, 4) for epoch in range(4)])


def test_crops_of_real_images_cover_at_least_the_given_area(digits: Dataset) -> None:
    network = Recorder()
    settings = TrainingSettings(epochs=1, batch_size=5, crop_scale_min=0.9)
    teacher.train_on_real_images(network, digits, settings, 3, CPU, "fp32")
    drawn = views.epoch_views(len(digits.train), digits.train.sizes, 3, 0, 5, scale=(0.9, 1.0))
    pixels, _ = digits.train.read(drawn.order[:5])
    crop = crops.crop_resize(pixels.float() / 255, drawn.boxes[:5], 8, drawn.flips[:5])
    torch.testing.assert_close(network.seen[0], digits.normalise(crop), atol=1e-5, rtol=0)
