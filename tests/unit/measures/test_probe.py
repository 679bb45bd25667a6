"""The linear probe with a backbone of random weights, and files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import MeasureContext
from ddbench.measures.probe import load_backbone, probe_accuracy

BACKBONE = "test_resnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the backbone, with those of a classifier."""
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model(BACKBONE, pretrained=False).state_dict(), str(path))
    return path


@pytest.fixture
def real_images(digits: Dataset) -> SimpleNamespace:
    """A set of the first ten real images of every class."""
    rows = torch.cat([digits.train.of_class(label)[:10] for label in range(10)])
    images = digits.train.centre(rows, 8)
    return type("Images", (SimpleNamespace,), {"__len__": lambda self: len(self.images)})(
        images=images, labels=digits.train.labels[rows], weights=torch.full((100,), 0.1)
    )


def test_it_is_the_logistic_regression_of_scikit_learn_on_standardised_features(
    measure_task: Callable[..., MeasureContext], real_images: SimpleNamespace, weights: Path
) -> None:
    task = measure_task(distilled=real_images)
    backbone = load_backbone(BACKBONE, weights, 32)
    mean, std = (torch.tensor(backbone.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))

    def features(images: torch.Tensor) -> torch.Tensor:
        larger = torch.nn.functional.interpolate(images / 255, (32, 32), mode="bilinear", antialias=True)
        with torch.no_grad():
            return backbone((larger - mean) / std).double()

    train, val = features(real_images.images), features(task.dataset.val.centre(torch.arange(len(task.dataset.val)), 8))
    centre, scale = train.mean(0), train.std(0, correction=0)
    scale[scale == 0] = 1
    fitted = LogisticRegression(C=0.5, max_iter=1000).fit((train - centre) / scale, real_images.labels)
    expected = 100 * fitted.score((val - centre) / scale, task.dataset.val.labels)
    top1 = probe_accuracy(task, BACKBONE, weights, 32, 0.5)
    assert top1 == pytest.approx(expected, abs=1)  # sums in another order can flip a few images
    assert top1 > 40  # ten classes
    assert probe_accuracy(task, BACKBONE, weights, 32, 0.5) == top1


def test_the_weights_of_images_count(
    measure_task: Callable[..., MeasureContext], real_images: SimpleNamespace, weights: Path
) -> None:
    real_images.weights = torch.where(real_images.labels < 5, 1.0, 1e-9)
    task = measure_task(distilled=real_images)
    top1 = probe_accuracy(task, BACKBONE, weights, 32, 1.0)
    assert top1 < 60  # half of the classes have hardly any weight


def test_a_backbone_keeps_the_global_random_state(weights: Path) -> None:
    state = torch.random.get_rng_state()
    backbone = load_backbone(BACKBONE, weights, 32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_what_does_not_fit_is_refused_in_one_line(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match=r"linear-probe.backbone\) 'test_resne'; did you mean 'test_resnet'\?"):
        load_backbone("test_resne", weights, 32)
    with pytest.raises(DDBenchError, match=r"does not fit test_vit: it has no '"):
        load_backbone("test_vit", weights, 160)
    with pytest.raises(DDBenchError, match=r"absent.pt' does not exist"):
        load_backbone(BACKBONE, tmp_path / "absent.pt", 32)
    vit = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), str(vit))
    with pytest.raises(DDBenchError, match=r"takes no images of 30 px; set linear-probe.image_size"):
        load_backbone("test_vit", vit, 30)
