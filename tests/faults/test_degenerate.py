"""Data that has nothing to vary: one image a class, images that are all alike, black ones, points without weight."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ddbench.core import seeds
from ddbench.evaluators.students import weighted
from ddbench.losses import batchnorm
from ddbench.nn.build import build_network
from ddbench.nn.statistics import collect
from ddbench.nn.taps import TappedNetwork
from ddbench.ot import barycenters, exact, lloyd, sliced
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell

METHODS = sorted(cls.name for cls in PluginRegistry().distillers())
FEW_STEPS = {
    "steps": "method.steps=2",
    "iterations": "method.iterations=1",
    "outer_loop": "method.outer_loop=2",
    "inner_loop": "method.inner_loop=1",
    "network": "method.network=convnet-d2",
    "real_batch": "method.real_batch=4",
}
REFUSED = {
    ("single", "dm-rbf"): "class 'alone' has 1 training image; the kernels' bandwidths need two",
    ("single", "rded"): "class 'alone' has 1 training images: lower --ipc or rded.factor",
    ("alike", "dm-rbf"): "dm-rbf, class 'black': the median distance of 4 samples is 0",
    ("alike", "rded"): "class 'black' has 4 training images: lower --ipc or rded.factor",
}
SCORED = {"el2n", "grand", "forgetting", "aum", "ccs"}
SELECTIONS = {"random", "herding", "k-center", "kmeans", "confidence", *SCORED}


def images(folder: Path, name: str, count: int, pixels: Callable[[np.random.Generator], np.ndarray[Any, Any]]) -> None:
    """`count` images of a class for training, four to validate."""
    draw = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 4)):
        (folder / split / name).mkdir(parents=True)
        for index in range(number):
            Image.fromarray(pixels(draw).astype(np.uint8)).save(folder / split / name / f"{index}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Shell:
    """Two folders of images. `single`: one class has one image; `alike`: all four images of any class are one image."""
    root = tmp_path_factory.mktemp("degenerate")
    same = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3))
    for folder in (root / "single", root / "alike"):
        images(folder, "black", 4, lambda draw: np.zeros((16, 16, 3)))
        images(folder, "same", 4, lambda draw: same[0])
    images(root / "single", "alone", 1, lambda draw: draw.integers(0, 256, (16, 16, 3)))
    images(root / "single", "usual", 4, lambda draw: draw.integers(0, 256, (16, 16, 3)))
    images(root / "alike", "other", 4, lambda draw: same[1])
    return shell_in(root)


def run(place: Shell, data: str, method: str, *more: str) -> dict[str, Any] | str:
    """The record of a method at IPC 1 on `single` and 3 on `alike`; the last line on stderr where it is refused."""
    fields = PluginRegistry().distiller(method).model_fields
    short = [part for name, text in FEW_STEPS.items() if name in fields for part in ("--set", text)]
    if {"network", "bn_weight"} <= fields.keys():  # its statistics are matched at BatchNorm layers
        short = [text.replace("convnet-d2", "convnet-bn-d2") for text in short]
    ipc = () if method == "full" else ("--ipc", "1" if data == "single" else "3")
    results = place.root / f"{data}-{method}-{len(list(place.root.iterdir()))}"
    outcome = place(
        *("run", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--image-size", "16"),
        *("--set", "data.stored_size=16", "--dataset", f"imagefolder:{place.root / data}", "--method", method),
        *(*ipc, *short, *more, "--results-dir", str(results)),
    )
    assert outcome.code in (0, 2), outcome.err
    assert "Traceback" not in outcome.err
    if outcome.code:
        assert sum(line.startswith("ddbench: ") for line in outcome.errors) == 1
        return outcome.errors[-1]
    (path,) = (results / "records").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@pytest.mark.parametrize("data", ["single", "alike"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_or_refuses_in_one_line(place: Shell, data: str, method: str) -> None:
    actual = run(place, data, method)
    if isinstance(actual, str):
        assert REFUSED[data, method] in actual
        return
    assert (data, method) not in REFUSED
    assert 0 <= actual["metrics"]["top1_last"] <= 100
    if data == "alike" and method in SELECTIONS - {"random"}:
        assert actual["feature_transport_cost"] == pytest.approx(0, abs=1e-6)  # each image is the whole class


@pytest.mark.parametrize(
    ("data", "setting", "refused"),
    [
        ("alike", "solver=lloyd", None),
        ("alike", "solver=released", None),
        ("alike", "initial=real", None),
        ("alike", "bn_form=norm", None),
        ("single", "feature_loss=mmd", "class 'alone': the median heuristic needs two samples or more"),
        ("alike", "feature_loss=mmd", "class 'black': the median distance of 4 samples is 0"),
    ],
)
def test_wmdd_in_all_its_forms(place: Shell, data: str, setting: str, refused: str | None) -> None:
    actual = run(place, data, "wmdd", "--set", f"method.{setting}")
    if refused is None:
        assert isinstance(actual, dict), actual
        assert np.isfinite(actual["feature_transport_cost"])
    else:
        assert isinstance(actual, str)
        assert refused in actual


@pytest.mark.parametrize("solver", ["kmeans++", "real", "lloyd", "released", "sliced"])
def test_the_barycenter_of_one_point_is_that_point(solver: str) -> None:
    draw = torch.randn(6, generator=seeds.generator("point"), dtype=torch.float64) + 100
    features, generator = draw.expand(5, 6).contiguous(), seeds.generator("degenerate")
    if solver == "lloyd":
        (actual,) = lloyd.barycenter_lloyd([features], 3, [generator])
    elif solver == "sliced":
        actual = sliced.barycenter_sliced(features, 3, generator, 16, 5)
    elif solver == "released":
        actual = barycenters.barycenter_released(features, 3, generator)
    else:
        actual = barycenters.barycenter_paper(features, 3, generator, start="real" if solver == "real" else "kmeans++")
    torch.testing.assert_close(actual.points, features[:3], rtol=0, atol=1e-9)
    assert float(actual.weights.sum()) == pytest.approx(1)
    assert bool((actual.weights >= 0).all())
    assert exact.transport_cost(actual.points, actual.weights, features) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("solver", ["paper", "lloyd"])
def test_fewer_distinct_features_than_points_leave_points_without_weight(solver: str) -> None:
    """Two values, five times and once: whatever a spare point does, the weights of the values are 5/6 and 1/6."""
    features = torch.tensor([[0.0, 0.0]] * 5 + [[3.0, 4.0]], dtype=torch.float64)
    generator = seeds.generator("degenerate")
    if solver == "lloyd":
        (actual,) = lloyd.barycenter_lloyd([features], 4, [generator])
        assert int((actual.weights == 0).sum()) == 2
    else:
        actual = barycenters.barycenter_paper(features, 4, generator, iterations=30)
    assert exact.transport_cost(actual.points, actual.weights, features) == pytest.approx(0, abs=1e-6)
    at_zero = actual.points.norm(dim=1) < 1e-6
    assert float(actual.weights[at_zero].sum()) == pytest.approx(5 / 6, abs=1e-6)


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_an_image_of_weight_0_is_in_no_statistic_of_its_class(form: batchnorm.Form) -> None:
    draw = seeds.generator("weights")
    x = torch.randn(5, 3, 4, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1])
    weights = torch.tensor([0.7, 0.0, 0.3, 1.0, 0.0], dtype=torch.float64)
    means, variances = (torch.rand(2, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    rows = batchnorm.class_weight_matrix(labels, weights)
    actual = batchnorm.pcbn([x], rows, [means], [variances], form)
    actual.backward()  # type: ignore[no-untyped-call]
    kept = weights > 0
    alone = x.detach()[kept]
    rows = batchnorm.class_weight_matrix(labels[kept], weights[kept])
    expected = batchnorm.pcbn([alone], rows, [means], [variances], form)
    torch.testing.assert_close(actual, expected)
    assert x.grad is not None
    assert not x.grad[~kept].any()
    assert x.grad[kept].flatten(1).any(1).all()


def test_an_image_of_weight_0_teaches_a_student_nothing() -> None:
    """In a network without batch statistics: the gradient is that of the other images, to the last bit but one."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    draw = seeds.generator("student")
    x = torch.randn(4, 3, 2, 2, generator=draw, dtype=torch.float64)
    labels, weights = torch.tensor([0, 1, 2, 2]), torch.tensor([1.0, 1.0, 2.0, 0.0], dtype=torch.float64)

    def gradient(rows: slice) -> Tensor:
        def losses(logits: Tensor) -> Tensor:
            return functional.cross_entropy(logits, labels[rows], reduction="none")

        network.zero_grad()
        weighted(losses, weights[rows])(network(x[rows])).backward()  # type: ignore[no-untyped-call]
        actual = network[1].weight.grad
        assert isinstance(actual, Tensor)
        return actual.clone()

    torch.testing.assert_close(gradient(slice(0, 4)), gradient(slice(0, 3)) * 3 / 4)


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_a_constant_channel_has_a_loss_and_a_gradient(form: batchnorm.Form) -> None:
    """Channel 0 is 2 everywhere, in the class's real images too: its terms are 0, and so is what they push."""
    x = torch.randn(4, 2, 3, 3, generator=seeds.generator("channel"), dtype=torch.float64)
    x[:, 0] = 2
    x.requires_grad_(True)
    rows = torch.full((1, 4), 0.25, dtype=torch.float64)
    mean, variance = x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3), correction=0)
    off = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    actual = batchnorm.pcbn([x], rows, [mean[None] + off], [variance[None] + off], form)
    actual.backward()  # type: ignore[no-untyped-call]
    assert float(actual.detach()) == pytest.approx(0.5 if form == "squared" else 1.0)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad[:, 0].abs().max() < 1e-12
    assert x.grad[:, 1].abs().min() > 0


@pytest.mark.parametrize("variance", ["exact", "batch-mean"])
def test_statistics_of_images_that_are_all_black(variance: Any) -> None:
    """The first layer sees a constant but for the borders; the last variances are of the positions, none of images."""
    teacher = TappedNetwork(build_network("convnet-bn-d2", 3, 16, seed=2))
    black = torch.full((5, 3, 16, 16), -1.0)
    many, one = collect(teacher, [black[:2], black[2:]], variance), collect(teacher, [black[:1]], variance)
    for left, right in zip((*many.bn_means, *many.bn_vars), (*one.bn_means, *one.bn_vars), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(many.features, one.features.expand(5, -1))
    constant = TappedNetwork(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 256, 3)))
    actual = collect(constant, [black], variance)
    assert actual.bn_means[0].tolist() == [-1.0] * 3
    assert actual.bn_vars[0].tolist() == [0.0] * 3
