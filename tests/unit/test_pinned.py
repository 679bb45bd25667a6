"""A pinned reference: a few numbers of every part of the numerics, beside the version that stands for them.

Whoever moves these numbers makes every cached artifact wrong: bump the version in `ddbench/versions.py`, then
write the new version and the new numbers here. A change that is only faster moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddbench.api.settings import OPERATIONS, RecoverSettings, TrainingSettings
from ddbench.api.teacher import ClassStatistics, Output
from ddbench.api.units import Slot, Unit
from ddbench.augment import crops as crops_module
from ddbench.augment import mixing, views
from ddbench.augment.siamese import augment, draw_augmentation
from ddbench.core import seeds, versions
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.distillation.distilled_set import class_weights, to_uint8
from ddbench.distillation.recover import recover
from ddbench.losses import batchnorm
from ddbench.losses import features as features_module
from ddbench.nn import statistics
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.ot import barycenters, lloyd
from ddbench.ot import exact as exact_module
from ddbench.ot.points import Barycenter
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training.teacher import train_on_real_images

CPU = torch.device("cpu")
SIZE = 8
PINNED: dict[str, tuple[str, float, dict[str, float]]] = {
    "MODELS": (
        "1",
        1e-4,
        {
            "resnet18": 4.120363,
            "convnet-d3": 1.570422,
            "convnet-bn-d3": 0.1037975,
        },
    ),
    "VIEWS": (
        "1",
        1e-4,
        {
            "order": 1995.0,
            "boxes": 37160.0,
            "flips": 83.0,
            "crops": 119.7011,
            "mixed": -48.8847,
            "shares": 2.192708,
            "siamese": -357.9883,
        },
    ),
    "TRAINING": (
        "1",
        1e-3,
        {
            "first": 2.298538,
            "last": 2.132653,
        },
    ),
    "STATISTICS": (
        "1",
        1e-4,
        {
            "features": 22.48875,
            "mean": 1.088853,
            "exact": 0.1632258,
            "batch-mean": 0.1631594,
        },
    ),
    "OBJECTIVES": (
        "1",
        1e-4,
        {
            "feature squared": 40.64035,
            "pcbn squared": 88.22849,
            "feature norm": 6.374979,
            "pcbn norm": 10.75415,
            "cross-entropy": 2.769119,
            "global": 46.31528,
        },
    ),
    "TRANSPORT": (
        "1",
        1e-4,
        {
            "paper cost": 11.00487,
            "paper largest": 0.3437196,
            "released cost": 11.27278,
            "released largest": 0.25,
        },
    ),
    "LLOYD": (
        "2",
        1e-4,
        {"cost": 10.7615, "largest": 0.35, "projected cost": 118.5086, "projected largest": 0.3333333},
    ),
    "RECOVER": (
        "1",
        1e-4,
        {
            "noise": 14.43903,
            "loss": 4.644831,
            "images": 14.72408,
        },
    ),
    "DISTILLED": (
        "1",
        1e-4,
        {
            "rounded": 196767.0,
            "jpeg": 195853.0,
            "weight": 0.75,
        },
    ),
}
"""Part: its version, the relative tolerance between processors, the numbers."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE)


def teacher() -> TappedNetwork:
    return TappedNetwork(build_network("convnet-bn-d2", 10, SIZE, seed=3))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeds.generator("pinned", *shape))


def of_models(digits: Dataset, folder: Path) -> dict[str, float]:
    images = draw(4, 3, 32, 32)
    actual = {}
    for arch in ("resnet18", "convnet-d3", "convnet-bn-d3"):
        with torch.no_grad():
            logits = build_network(arch, 10, 32, seed=3).eval()(images)
        actual[arch] = float(logits.norm())
    return actual


def of_views(digits: Dataset, folder: Path) -> dict[str, float]:
    seen = views.epoch_views(20, torch.tensor([32, 40]), 5, 2, 8, (0.08, 1.0), 1.0, 24)
    position = torch.arange(1.0, 21.0)
    crops = crops_module.crop_resize(draw(20, 3, 32, 40), seen.boxes, 24, seen.flips)
    mixed = mixing.cutmix(crops[:8], seen.mixes[0].partner, seen.mixes[0].box)
    drawn = [draw_augmentation(name, 24, seeds.generator("pinned", name), 8) for name in OPERATIONS]
    siamese = torch.cat([augment(draw(8, 3, 24, 24), each) for each in drawn])
    return {
        "order": float(seen.order @ position.long()),
        "boxes": float((seen.boxes.float().T @ position) @ torch.tensor([1.0, 2.0, 3.0, 4.0])),
        "flips": float(seen.flips.float() @ position),
        "crops": float(crops.norm()),
        "mixed": float((mixed * draw(8, 3, 24, 24)).sum()),
        "shares": sum(mix.share for mix in seen.mixes),
        "siamese": float((siamese * draw(48, 3, 24, 24)).sum()),
    }


def of_training(digits: Dataset, folder: Path) -> dict[str, float]:
    network = build_network("convnet-bn-d2", 10, SIZE, seed=3)
    losses: list[float] = []
    settings = TrainingSettings(learning_rate=0.01, batch_size=256, epochs=2)
    train_on_real_images(
        network, digits, settings, 7, CPU, "fp32", report=lambda step, total, **m: losses.append(m["loss"])
    )
    return {"first": losses[0], "last": losses[1]}


def class_statistics(digits: Dataset, label: int, variance: statistics.Variance = "exact") -> ClassStatistics:
    mine = digits.train.of_class(label)
    batches = (digits.evaluation_view("train", part) for part in torch.split(mine, 50))
    return statistics.collect(teacher(), batches, variance)


def of_statistics(digits: Dataset, folder: Path) -> dict[str, float]:
    exact, by_batch = class_statistics(digits, 3), class_statistics(digits, 3, "batch-mean")
    return {
        "features": float(exact.features.norm()),
        "mean": float(exact.bn_means[1].norm()),
        "exact": float(exact.bn_vars[1].norm()),
        "batch-mean": float(by_batch.bn_vars[1].norm()),
    }


def of_objectives(digits: Dataset, folder: Path) -> dict[str, float]:
    layers = [draw(6, 4, 5, 5), draw(6, 7, 3, 3)]
    means, variances = [draw(2, 4), draw(2, 7)], [draw(2, 4).square(), draw(2, 7).square()]
    labels = torch.tensor([0, 0, 0, 4, 4, 4])
    rows = batchnorm.class_weight_matrix(labels, torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0, 2.0]))
    actual = {}
    for form in ("squared", "norm"):
        actual[f"feature {form}"] = float(features_module.feature_match(draw(6, 9), draw(6, 9) * 2, form))  # type: ignore[arg-type]
        actual[f"pcbn {form}"] = float(batchnorm.pcbn(layers, rows, means, variances, form))  # type: ignore[arg-type]
    actual["cross-entropy"] = float(features_module.cross_entropy(draw(6, 10), labels))
    actual["global"] = float(batchnorm.global_bn(layers, [m[0] for m in means], [v[0] for v in variances]))
    return actual


def of_transport(digits: Dataset, folder: Path) -> dict[str, float]:
    features = draw(60, 12) + torch.arange(60)[:, None] % 3
    actual = {}
    for name, solve in (
        ("paper", lambda g: barycenters.barycenter_paper(features, 4, g, 5)),
        ("released", lambda g: barycenters.barycenter_released(features, 4, g)),
    ):
        solved: Barycenter = solve(seeds.generator("pinned", name))
        actual[f"{name} cost"] = exact_module.transport_cost(solved.points, solved.weights, features)
        actual[f"{name} largest"] = float(solved.weights.max())
    return actual


def of_lloyd(digits: Dataset, folder: Path) -> dict[str, float]:
    features = draw(60, 12) + torch.arange(60)[:, None] % 3
    actual = {}
    # In more than 64 dimensions it starts from a projection.
    for name, z in (("", features), ("projected ", features.repeat(1, 10) + 0.3 * draw(60, 120))):
        solved = lloyd.barycenter_lloyd([z], 4, [seeds.generator("pinned", "lloyd")])[0]
        actual[f"{name}cost"] = exact_module.transport_cost(solved.points, solved.weights, z)
        actual[f"{name}largest"] = float(solved.weights.max())
    return actual


def of_recover(digits: Dataset, folder: Path) -> dict[str, float]:
    losses: list[float] = []
    network = teacher()
    task = DistillContext(
        dataset=digits,
        ipc=2,
        seed=1,
        device=CPU,
        precision="fp32",
        checkpoint=Checkpoint(folder / "slot.safetensors"),
        checkpoint_every=1000,
        report=lambda step, total, **metrics: losses.append(metrics["loss"]),
        cached=lambda name, depends_on, fn: fn(),
        statistics=lambda label: class_statistics(digits, label),
        timing={},
        _teacher=lambda: network,
    )
    unit = Unit(2, tuple(Slot(label, index) for label in (0, 5) for index in range(2)))
    targets = torch.cat([task.statistics(label).features[:2] for label in (0, 5)])

    def objective(output: Output) -> dict[str, Tensor]:
        return {"feature": features_module.feature_match(output.features, targets, "squared")}

    images = recover(task, unit, objective, task.noise(unit), RecoverSettings(steps=8, jitter=1))
    return {"noise": float(task.noise(unit)[3].norm()), "loss": losses[-1], "images": float(images.norm())}


def of_distilled(digits: Dataset, folder: Path) -> dict[str, float]:
    images = draw(2, 3, 16, 16).sigmoid()
    labels = torch.tensor([0, 0, 1])
    return {
        "rounded": float(to_uint8(images, None).long().sum()),
        "jpeg": float(to_uint8(images, 75).long().sum()),
        "weight": float(class_weights(labels, torch.tensor([1.0, 3.0, 9.0]))[1]),
    }


PARTS: dict[str, Callable[[Dataset, Path], dict[str, float]]] = {
    "MODELS": of_models,
    "VIEWS": of_views,
    "TRAINING": of_training,
    "STATISTICS": of_statistics,
    "OBJECTIVES": of_objectives,
    "TRANSPORT": of_transport,
    "LLOYD": of_lloyd,
    "RECOVER": of_recover,
    "DISTILLED": of_distilled,
}


@pytest.mark.parametrize("part", PARTS)
def test_the_numbers_are_those_that_their_version_stands_for(part: str, digits: Dataset, tmp_path: Path) -> None:
    version, tolerance, expected = PINNED[part]
    actual = PARTS[part](digits, tmp_path)
    moved = {
        name: (value, actual[name])
        for name, value in expected.items()
        if actual[name] != pytest.approx(value, rel=tolerance)
    }
    here = getattr(versions, part)
    assert not moved, (
        f"numbers of {part} moved from version {version} (pinned, now): {moved}; if that is meant, bump "
        f"versions.{part} (it is {here!r}) and pin what is new: {actual}"
    )
    assert actual.keys() == expected.keys()
    assert here == version, (
        f"versions.{part} is {here!r} and its numbers are version {version!r}'s: pin the new version"
    )


def test_every_version_is_pinned() -> None:
    assert set(PARTS) == set(PINNED) == {name for name in vars(versions) if name.isupper()}
