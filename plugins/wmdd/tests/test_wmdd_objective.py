"""The objective of every combination of Table 4 against Eq. 12 to 15 by brute force, and where the pixels start."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from ddbench_wmdd import WMDD, BarycenterMatching, SlicedWMDD
from ddbench_wmdd.matching import distill
from pydantic import ValidationError
from torch import Tensor, nn

from ddbench.api.teacher import ClassStatistics, Objective
from ddbench.api.units import Slot, Unit, UnitResult
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.losses import batchnorm
from ddbench.losses import features as features_module
from ddbench.nn.taps import TappedNetwork
from ddbench.ot import sliced
from ddbench.storage.checkpoint import Checkpoint

IPC = 3
SIZE = 8
CLASSES = (2, 3)
WIDTHS = {None: 5, 2: 4 * 36}
UNIT = Unit(1, tuple(Slot(label, index) for label in CLASSES for index in range(IPC)))


class Small(nn.Module):
    """Two BatchNorm layers, one of them on vectors, and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.hidden, self.second = nn.Linear(4 * 36, 5), nn.BatchNorm1d(5)
        self.classifier = nn.Linear(5, 4)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(self.convolution(images)).relu()
        logits: Tensor = self.classifier(self.second(self.hidden(maps.flatten(1))).relu())
        return logits


@dataclasses.dataclass(frozen=True)
class Captured(DistillContext):
    """The real task, keeping the objective and the start instead of running the loop."""

    objectives: list[Objective] = dataclasses.field(default_factory=list)
    initials: list[Tensor] = dataclasses.field(default_factory=list)
    layers: list[int | None] = dataclasses.field(default_factory=list)
    intermediates: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)

    def recover(
        self, unit: Unit, objective: Objective, initial: Tensor, settings: Any, layer: int | None = None
    ) -> Tensor:
        self.objectives.append(objective)
        self.initials.append(initial)
        self.layers.append(layer)
        return torch.zeros(len(unit.slots), 3, SIZE, SIZE)

    def terms(self, method: BarycenterMatching, images: Tensor, unit: Unit = UNIT) -> tuple[dict[str, Tensor], Tensor]:
        """The objective's terms at `images`, and the weights of the unit."""
        result = distill(method, self, unit)
        assert isinstance(result, UnitResult)
        assert result.weights is not None
        with torch.no_grad():
            return self.objectives[-1](self.teacher(images, layer=self.layers[-1])), result.weights


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE)


MakeTask = Callable[..., Captured]


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> MakeTask:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        teacher = TappedNetwork(Small().double())

    def statistics(label: int, layer: int | None = None) -> ClassStatistics:
        draw = torch.Generator().manual_seed(label)
        return ClassStatistics(
            torch.randn(12, WIDTHS[layer], generator=draw),
            [torch.randn(4, generator=draw), torch.randn(5, generator=draw)],
            [torch.rand(4, generator=draw), torch.rand(5, generator=draw)],
        )

    def make(seed: int = 0) -> Captured:
        intermediates: list[tuple[str, dict[str, Any]]] = []

        def cached(
            name: str, depends_on: Mapping[str, Any], build: Callable[[], dict[str, Tensor]]
        ) -> dict[str, Tensor]:
            intermediates.append((name, dict(depends_on)))
            return build()

        return Captured(
            dataset=digits,
            ipc=IPC,
            seed=seed,
            device=torch.device("cpu"),
            precision="fp32",
            checkpoint=Checkpoint(tmp_path / "slot.safetensors"),
            checkpoint_every=100,
            report=lambda step, total, **metrics: None,
            cached=cached,
            statistics=statistics,
            timing={},
            _teacher=lambda: teacher,
            intermediates=intermediates,
        )

    return make


def pixels(seed: int = 0) -> Tensor:
    return torch.randn(6, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- by brute force -----------------------------------------------------------------------------------------


def seen(task: DistillContext, images: Tensor, layer: int | None = None) -> tuple[list[list[Tensor]], Tensor, Tensor]:
    """Image by image: what feeds each BatchNorm layer [positions, channels], all features, all logits.

    Features of layer 2 are what feeds the hidden layer.
    """
    network: Any = task.teacher.network
    inputs: list[list[Tensor]] = [[], []]
    features, logits = [], []
    for image in images:
        maps = network.convolution(image[None])
        second = network.first(maps).relu().flatten(1)
        flat = network.hidden(second)
        inputs[0].append(maps[0].flatten(1).T)
        inputs[1].append(flat)
        last = network.second(flat).relu()
        features.append((last if layer is None else second)[0])
        logits.append(network.classifier(last[0]))
    return inputs, torch.stack(features), torch.stack(logits)


def moment_errors(inputs: list[Tensor], share: Tensor, mean: Tensor, variance: Tensor) -> list[float]:
    """Squared errors of the mean and variance of one layer's inputs, image j with the mass share_j."""
    samples = torch.cat(inputs)
    masses = torch.cat([w / len(part) * torch.ones(len(part)) for w, part in zip(share, inputs, strict=True)])
    own_mean = sum(w * x for w, x in zip(masses, samples, strict=True))
    own_variance = sum(w * (x - own_mean) ** 2 for w, x in zip(masses, samples, strict=True))
    return [float(((own_mean - mean) ** 2).sum()), float(((own_variance - variance) ** 2).sum())]


def brute_mmd(x: Tensor, y: Tensor) -> float:
    """Biased MMD^2 under five Gaussians about the median distance of y, pair by pair."""
    distances = sorted(float((a - b).norm()) for i, a in enumerate(y) for b in y[:i])
    median = distances[(len(distances) - 1) // 2]

    def mean(a: Tensor, b: Tensor) -> float:
        pairs = [float((p - q).square().sum()) / (2 * (2 ** (k / 2) * median) ** 2)
                 for p in a for q in b for k in range(-2, 3)]  # fmt: skip
        return sum(math.exp(-value) for value in pairs) / (len(a) * len(b))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def brute_force(method: BarycenterMatching, task: DistillContext, images: Tensor) -> dict[str, float]:
    """Eq. 12, 13 and 14, what the released code computes instead, or what the ablation puts in their place."""
    inputs, features, logits = seen(task, images, method.layer)
    labels = [slot.label for slot in UNIT.slots]
    weights = torch.full((6,), 1 / IPC).double()
    terms: dict[str, float] = {}
    if method.feature_loss == "wasserstein":
        targets = [method.barycenter(task, label) for label in CLASSES]
        weights = torch.cat([target.weights for target in targets]).double()
        points = torch.cat([target.points for target in targets])
        squares = sum(float(a - b) ** 2 for a, b in zip(features.flatten(), points.flatten(), strict=True))
        terms["feature"] = squares if method.feature_form == "squared" else squares**0.5
    elif method.feature_loss == "mmd":
        terms["mmd"] = sum(
            brute_mmd(features[start : start + IPC], task.statistics(label, method.layer).features.double())
            for start, label in zip((0, IPC), CLASSES, strict=True)
        )
    else:
        rows = [-math.log(float(row.exp()[k] / row.exp().sum())) for row, k in zip(logits, labels, strict=True)]
        terms["cross_entropy"] = sum(rows) / 6
    error = 0.0
    if method.regulariser == "pcbn":
        for start, label in zip((0, IPC), CLASSES, strict=True):
            class_rows, real = slice(start, start + IPC), task.statistics(label)
            for layer in range(2):
                share = weights[class_rows] / weights[class_rows].sum()
                errors = moment_errors(inputs[layer][class_rows], share, real.bn_means[layer], real.bn_vars[layer])
                # The norms are averaged over the two classes.
                error += sum(errors) if method.bn_form == "squared" else sum(value**0.5 / 2 for value in errors)
    elif method.regulariser == "bn":
        network: Any = task.teacher.network
        for layer, norm, scale in ((0, network.first, 10), (1, network.second, 1)):
            errors = moment_errors(inputs[layer], torch.full((6,), 1 / 6), norm.running_mean, norm.running_var)
            error += scale * (sum(errors) if method.bn_form == "squared" else sum(value**0.5 for value in errors))
    return terms if method.regulariser == "none" else {**terms, method.regulariser: method.bn_weight * error}


@pytest.mark.parametrize("form", ["squared", "norm"])
@pytest.mark.parametrize("regulariser", ["pcbn", "bn", "none"])
@pytest.mark.parametrize("feature_loss", ["wasserstein", "cross-entropy", "mmd"])
def test_each_combination_computes_its_terms(
    make_task: MakeTask, feature_loss: str, regulariser: str, form: str
) -> None:
    choice = {"feature_loss": feature_loss, "regulariser": regulariser, "feature_form": form, "bn_form": form}
    method = WMDD.model_validate({**choice, "bn_weight": 7.0})
    task, images = make_task(), pixels()
    terms, weights = task.terms(method, images)
    with torch.no_grad():
        expected = brute_force(method, task, images)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    uniform = torch.equal(weights, torch.full((6,), 1 / IPC))
    assert uniform == (feature_loss != "wasserstein")  # and no barycenter is computed where none is met:
    assert [name for name, _ in task.intermediates] == ([] if uniform else 4 * ["barycenter"])


@pytest.mark.parametrize("initial", ["noise", "real"])
@pytest.mark.parametrize("index", [0, 2])
def test_a_unit_across_classes_takes_of_each_class_what_belongs_to_its_image(
    make_task: MakeTask, index: int, initial: str
) -> None:
    """The points, weights and initial images of the slots, in the order of the slots."""
    method, task, images = WMDD(regulariser="bn", initial=initial), make_task(), pixels()[:2]
    unit = Unit(index, tuple(Slot(label, index) for label in reversed(CLASSES)))
    terms, weights = task.terms(method, images, unit)
    targets = [method.barycenter(task, label) for label in reversed(CLASSES)]
    with torch.no_grad():
        features = task.teacher(images).features
    squares = sum(float((row - t.points[index]).square().sum()) for row, t in zip(features, targets, strict=True))
    assert float(terms["feature"]) == pytest.approx(squares, rel=1e-5)
    assert list(terms) == ["feature", "bn"]
    assert torch.equal(weights, torch.stack([target.weights[index] for target in targets]))
    if initial == "real":
        whole = make_task()
        whole.terms(method, pixels())
        places = [IPC * CLASSES.index(label) + index for label in reversed(CLASSES)]
        assert torch.equal(task.initials[0], whole.initials[0][places])
    else:
        assert torch.equal(task.initials[0], task.noise(unit))


@pytest.mark.slow
@pytest.mark.parametrize("method", [WMDD(layer=2), WMDD(layer=2, feature_loss="mmd"), SlicedWMDD(layer=2)])
def test_the_features_of_a_layer_take_the_place_of_the_last(make_task: MakeTask, method: BarycenterMatching) -> None:
    """The feature loss alone: BatchNorm statistics are those of every layer as before."""
    task, images = make_task(), pixels()
    terms, _ = task.terms(method, images)
    with torch.no_grad():
        expected = brute_force(method, task, images)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert list(expected)[1:] == ["pcbn"]
    assert {depends_on["layer"] for _, depends_on in task.intermediates} <= {2}
    assert len(task.intermediates) == (0 if method.feature_loss == "mmd" else 4)
    last = method.model_copy(update={"layer": None})
    assert brute_force(last, task, images) != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("form", ["squared", "norm"])
@pytest.mark.parametrize("solver", ["paper", "released", "lloyd", "sliced"])
def test_the_objective_is_equations_12_to_15(make_task: MakeTask, solver: str, form: str) -> None:
    forms: dict[str, Any] = {"feature_form": form, "bn_form": form, "bn_weight": 7.0}
    method: BarycenterMatching = (
        SlicedWMDD(projections=5, iterations=9, **forms)
        if solver == "sliced"
        else WMDD.model_validate({"solver": solver, **forms})
    )
    task, images = make_task(), pixels()
    terms, weights = task.terms(method, images)
    with torch.no_grad():
        expected = brute_force(method, task, images)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert torch.equal(weights, torch.cat([method.barycenter(task, label).weights for label in CLASSES]))
    torch.testing.assert_close(weights.reshape(2, IPC).sum(1), torch.ones(2))
    # Unequal weights but where they are fixed.
    assert (len(set(weights.tolist())) == 1) == (solver in ("released", "sliced"))


def test_the_default_is_the_match_of_the_barycenter_and_pcbn_bit_for_bit(make_task: MakeTask) -> None:
    method, task, images = WMDD(), make_task(), pixels()
    terms, _ = task.terms(method, images)
    targets = [method.barycenter(task, label) for label in CLASSES]
    real = [task.statistics(label) for label in CLASSES]
    with torch.no_grad():
        output = task.teacher(images)
    feature = features_module.feature_match(output.features, torch.cat([t.points for t in targets]), "squared")
    pcbn = batchnorm.pcbn(
        output.bn_inputs,
        batchnorm.class_weight_matrix(torch.tensor([2, 2, 2, 3, 3, 3]), torch.cat([t.weights for t in targets])),
        [torch.stack([part.bn_means[layer] for part in real]) for layer in range(2)],
        [torch.stack([part.bn_vars[layer] for part in real]) for layer in range(2)],
        "squared",
    )
    assert list(terms) == ["feature", "pcbn"]
    assert torch.equal(terms["feature"], feature)
    assert torch.equal(terms["pcbn"], 10 * pcbn)
    assert torch.equal(task.initials[0], task.noise(UNIT))
    # What the key of a barycenter holds: more here would compute every one of them again.
    settings = {"solver": "paper", "iterations": 10, "weight_step": 1.0, "start": "kmeans++"}
    assert task.intermediates[:2] == [("barycenter", {"class": label, **settings}) for label in CLASSES]


@pytest.mark.parametrize("feature_loss", ["wasserstein", "mmd"])
def test_cross_entropy_is_added_where_it_has_a_weight_and_lambda_0_drops_the_regulariser(
    make_task: MakeTask, feature_loss: str
) -> None:
    choice = {"feature_loss": feature_loss, "cross_entropy_weight": 0.5, "bn_weight": 0}
    task, images = make_task(), pixels()
    terms, _ = task.terms(WMDD.model_validate(choice), images)
    with torch.no_grad():
        own = task.teacher(images).logits.log_softmax(1)[torch.arange(6), torch.tensor([2, 2, 2, 3, 3, 3])]
    assert list(terms) == ["feature" if feature_loss == "wasserstein" else "mmd", "cross_entropy"]
    assert float(terms["cross_entropy"]) == pytest.approx(-0.5 * float(own.mean()), rel=1e-5)


def test_a_weight_of_the_cross_entropy_alone_is_refused() -> None:
    # The recipe `released` says 1, which is what it is.
    assert WMDD(feature_loss="cross-entropy", cross_entropy_weight=1).cross_entropy_weight == 1
    with pytest.raises(ValidationError, match="feature_loss=cross-entropy has weight 1: set bn_weight"):
        SlicedWMDD(feature_loss="cross-entropy", cross_entropy_weight=0.5)


def test_a_layer_is_for_features_that_are_matched() -> None:
    with pytest.raises(ValidationError, match="feature_loss=cross-entropy matches no features: do not set layer"):
        WMDD(feature_loss="cross-entropy", layer=17)


def test_a_barycenter_depends_on_its_class_and_seed_and_not_on_the_unit(make_task: MakeTask) -> None:
    for method in (WMDD(), SlicedWMDD(projections=5, iterations=9)):
        task, images = make_task(), pixels()
        both = task.terms(method, images)[0]["feature"]
        first = make_task().terms(method, images[:IPC], Unit(0, UNIT.slots[:IPC]))[0]["feature"]
        last = make_task().terms(method, images[IPC:], Unit(0, UNIT.slots[IPC:]))[0]["feature"]
        assert float(both) == pytest.approx(float(first + last), rel=1e-6)
        assert [depends_on["class"] for _, depends_on in task.intermediates] == [2, 3]
        other = method.barycenter(make_task(seed=1), 2)
        assert not torch.equal(other.points, method.barycenter(task, 2).points)


def test_the_sliced_barycenter_is_that_of_the_class_and_its_key_names_its_settings(make_task: MakeTask) -> None:
    task = make_task()
    actual = SlicedWMDD(projections=7, iterations=4).barycenter(task, 3)
    direct = sliced.barycenter_sliced(task.statistics(3).features, IPC, task.generator("barycenter", 3), 7, 4)
    assert torch.equal(actual.points, direct.points)
    assert task.intermediates == [("barycenter", {"class": 3, "projections": 7, "iterations": 4})]


# -- where the pixels start ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        WMDD(initial="real"),
        WMDD(initial="real", layer=2),
        SlicedWMDD(initial="real", projections=5, iterations=9),
    ],
)
def test_real_images_start_at_the_assignment_of_least_distance(make_task: MakeTask, method: BarycenterMatching) -> None:
    task = make_task()
    task.terms(method, pixels())
    chosen = []
    for label in CLASSES:
        features = task.statistics(label, method.layer).features.double()
        points = method.barycenter(task, label).points.double()

        def cost(rows: tuple[int, ...], features: Tensor = features, points: Tensor = points) -> float:
            return float((features[list(rows)] - points).square().sum())

        best = min(permutations(range(12), IPC), key=cost)
        chosen.append(task.dataset.train.of_class(label)[list(best)])
    assert torch.equal(task.initials[0], task.dataset.evaluation_view("train", torch.cat(chosen)))


@pytest.mark.parametrize("feature_loss", ["cross-entropy", "mmd"])
def test_without_a_barycenter_random_real_images_of_the_class_are_the_start(
    make_task: MakeTask, feature_loss: str
) -> None:
    method = WMDD.model_validate({"feature_loss": feature_loss, "initial": "real"})
    starts = []
    for seed in (0, 0, 1):
        task = make_task(seed)
        task.terms(method, pixels())
        starts.append(task.initials[0])
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    for part, label in zip(starts[0].split(IPC), CLASSES, strict=True):
        class_rows = task.dataset.evaluation_view("train", task.dataset.train.of_class(label))
        places = [int((class_rows == image).flatten(1).all(1).nonzero()[0]) for image in part]
        assert len(set(places)) == IPC
    # The class's start is the same in a unit of its own.
    alone = make_task()
    alone.terms(method, pixels()[:IPC], Unit(0, UNIT.slots[IPC:]))
    assert torch.equal(alone.initials[0], starts[0][IPC:])


def test_a_class_of_large_features_is_named_if_its_images_start_from_noise(make_task: MakeTask) -> None:
    """One of twelve images of class 3, and none of class 2, has a feature of more than twice the median norm."""
    notes: list[str] = []

    def statistics(label: int, layer: int | None = None) -> ClassStatistics:
        known = plain.statistics(label, layer)
        norms = torch.tensor([1.0] * 11 + [2.1 if label == CLASSES[1] else 1.9])
        return dataclasses.replace(known, features=norms[:, None] * torch.eye(WIDTHS[layer])[0])

    plain = make_task()
    task = dataclasses.replace(plain, statistics=statistics, note=notes.append)
    for method in (WMDD(start="real"), WMDD(start="real", initial="real"), WMDD(start="real", bn_weight=0)):
        task.terms(method, pixels())
    (line,) = notes
    assert line.startswith(f"wmdd: class '{task.info.class_names[CLASSES[1]]}': 1 of 12 images have features of more")
