"""WMDD and its sliced sibling as methods: packed slots, refusals, the same bytes for a seed, the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_wmdd import WMDD, BarycenterMatching, SlicedWMDD
from ddbench_wmdd.tables import ablation
from hypothesis import given
from hypothesis import strategies as st

from ddbench.api.dataset import DatasetInfo
from ddbench.api.table import TableQuery
from ddbench.api.units import Slot
from ddbench.cli.main import main
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

if TYPE_CHECKING:
    from conftest import Shell


@given(classes=st.integers(1, 60), ipc=st.integers(1, 60), batch_size=st.integers(1, 120))
def test_units_hold_whole_classes_and_every_slot_once(classes: int, ipc: int, batch_size: int) -> None:
    units = WMDD(batch_size=batch_size).units(classes, ipc)
    slots = [slot for unit in units for slot in unit.slots]
    assert slots == [Slot(label, index) for label in range(classes) for index in range(ipc)]
    assert [unit.index for unit in units] == list(range(len(units)))
    for unit in units:
        labels = [slot.label for slot in unit.slots]
        assert all(labels.count(label) == ipc for label in set(labels))
        if ipc > batch_size:
            assert len(set(labels)) == 1
        else:
            assert len(labels) <= batch_size
    # No batch is left smaller than it must be, but the last.
    assert len({len(unit.slots) for unit in units[:-1]}) <= 1
    assert len(units) == -(-classes // max(1, batch_size // ipc))
    assert WMDD(steps=7, batch_size=batch_size).image_passes(classes, ipc) == 7 * len(slots)


@pytest.mark.parametrize("method", [WMDD, SlicedWMDD])
@given(classes=st.integers(1, 60), ipc=st.integers(1, 20), batch_size=st.integers(1, 120))
def test_units_of_the_global_batchnorm_term_hold_one_image_of_each_class(
    method: type[BarycenterMatching], classes: int, ipc: int, batch_size: int
) -> None:
    for feature_loss in ("wasserstein", "cross-entropy"):
        chosen = method.model_validate({"regulariser": "bn", "feature_loss": feature_loss, "batch_size": batch_size})
        units = chosen.units(classes, ipc)
        slots = [slot for unit in units for slot in unit.slots]
        assert slots == [Slot(label, index) for index in range(ipc) for label in range(classes)]
        assert {len({slot.index for slot in unit.slots}) for unit in units} == {1}
        assert {len(unit.slots) for unit in units} <= {min(batch_size, classes), classes % batch_size}
        assert chosen.version == "2"
    # The MMD compares all images of a class, so its units and its version stay.
    mmd = method(regulariser="bn", feature_loss="mmd", batch_size=batch_size)
    assert mmd.units(classes, ipc) == method(batch_size=batch_size).units(classes, ipc)
    assert mmd.version == method(batch_size=batch_size).version == method.version == "1"


def test_an_ipc_above_the_smallest_class_is_refused_where_images_or_points_are_taken_from_it() -> None:
    info = DatasetInfo("two", ("cat", "dog"), ("cat", "dog"), (9, 4), (1, 1), 8, "")
    for method in (WMDD(), SlicedWMDD(), WMDD(feature_loss="mmd", initial="real")):
        assert method.skip(info, 4) is None
        assert "'dog'" in (method.skip(info, 5) or "")
    for free in (WMDD(feature_loss="mmd"), SlicedWMDD(feature_loss="cross-entropy")):
        assert free.skip(info, 5) is None


def test_a_teacher_without_batchnorm_is_refused_only_where_its_statistics_are_matched() -> None:
    for method in (WMDD(), SlicedWMDD(regulariser="bn")):
        assert f"--set {method.name}.bn_weight=0" in (method.skip_teacher(0) or "")
        assert method.skip_teacher(1) is None
    for method in (WMDD(bn_weight=0), SlicedWMDD(regulariser="none")):
        assert method.skip_teacher(0) is None


# -- as a method among others -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    folder = tmp_path_factory.mktemp("cache")

    def make(*assignments: str, fresh: Path | None = None, **request: Any) -> Pipeline:
        registry = PluginRegistry()
        grid = Request(
            methods=(request.pop("method", "wmdd"),),
            datasets=("digits",),
            ipcs=request.pop("ipcs", (2,)),
            recipes=("smoke", *request.pop("recipes", ())),
            device="cpu",
            precision="fp32",
            assignments=(
                *("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-bn-d1", "method.steps=6"),
                *("teacher.batch_size=256", "evaluator.epochs=2", *assignments),
            ),
            **request,
        )
        (cell,) = experiments(grid, registry)
        return Pipeline(Workspace(registry, Cache(fresh or folder), None), cell)

    return make


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    run: Callable[..., Pipeline], tmp_path: Path
) -> None:
    first = run().distilled
    again = run(fresh=tmp_path).distilled
    assert torch.equal(first.images, again.images)
    assert first.digest == again.digest
    other = run(seed=1).distilled
    assert other.digest != first.digest
    assert not torch.equal(other.images, first.images)


@pytest.mark.parametrize(
    ("method", "recipe"),
    [("wmdd", ()), ("wmdd", ("released",)), ("wmdd", ("lloyd",)), ("wmdd-sliced", ()), ("wmdd-sliced", ("released",))],
)
def test_a_set_is_whole_and_in_class_order(run: Callable[..., Pipeline], method: str, recipe: tuple[str, ...]) -> None:
    few = ("method.projections=16", "method.iterations=3") if method == "wmdd-sliced" else ()
    actual = run("method.batch_size=7", *few, method=method, recipes=recipe).distilled
    assert actual.images.shape == (20, 3, 8, 8)
    assert actual.images.dtype == torch.uint8
    assert actual.labels.tolist() == [label for label in range(10) for _ in range(2)]
    torch.testing.assert_close(actual.weights.reshape(10, 2).sum(1), torch.ones(10))
    uniform = torch.equal(actual.weights, torch.full((20,), 0.5))
    assert uniform == (recipe == ("released",) or method == "wmdd-sliced")
    assert float(actual.images.float().std()) > 10


def test_an_ipc_above_the_batch_size_is_one_class_a_unit(run: Callable[..., Pipeline]) -> None:
    made = run("method.batch_size=5", ipcs=(6,))
    assert [len(unit.slots) for unit in made.units] == [6] * 10
    assert len(made.distilled) == 60


def test_cross_entropy_with_the_global_batchnorm_term_is_sre2l(run: Callable[..., Pipeline]) -> None:
    """With the settings of the ablation's row, and units that hold only some of the classes."""
    query = TableQuery(("digits",), ("wmdd",), (2,))
    (cell,) = (cell for cell in ablation(query) if cell.row == "cross-entropy + bn")
    row = [f"{name}={value}" for name, value in cell.settings.items()]
    shared = ("method.batch_size=7", "method.jitter=2")
    of_wmdd, of_sre2l = run(*shared, *row), run(*shared, method="sre2l")
    assert [len(unit.slots) for unit in of_wmdd.units] == [7, 3, 7, 3]
    assert torch.equal(of_wmdd.distilled.images, of_sre2l.distilled.images)
    assert torch.equal(of_wmdd.distilled.labels, of_sre2l.distilled.labels)


def test_matching_brings_features_nearer_to_the_barycenters(run: Callable[..., Pipeline]) -> None:
    def distance(made: Pipeline) -> float:
        actual = made.distilled
        with torch.no_grad():
            features = made.teacher(made.dataset.normalise(actual.images)).features
        means = torch.stack([made.statistics(label).features.mean(0) for label in range(10)])
        return float((features.reshape(10, 2, -1).mean(1) - means).square().sum())

    settings = ("method.crop_scale_min=1.0", "method.jitter=0", "method.bn_weight=0")
    assert distance(run("method.steps=60", *settings)) < 0.5 * distance(run("method.steps=1", *settings))


def test_a_start_from_real_images_that_hardly_moves_ends_on_those_images(run: Callable[..., Pipeline]) -> None:
    made = run("method.initial=real", "method.learning_rate=1e-6", "method.steps=1", ipcs=(1,))
    size = made.dataset.info.image_size
    for label in range(10):
        # One point is the class mean, so the start is the image whose features are nearest to it.
        features = made.statistics(label).features.double()
        nearest = int((features - features.mean(0)).square().sum(1).argmin())
        image = made.dataset.train.centre(made.dataset.train.of_class(label)[nearest : nearest + 1], size)
        assert torch.equal(made.distilled.images[label : label + 1], image)


def test_the_classifiers_layer_is_what_is_matched_where_no_layer_is_named(run: Callable[..., Pipeline]) -> None:
    """Two convolutions, then the classifier: layer 3 is the default, under a key of its own."""
    two = ("teacher.arch=convnet-bn-d2", "method.initial=real")
    last, named, earlier = (run(*two, *layer) for layer in ((), ("method.layer=3",), ("method.layer=2",)))
    assert torch.equal(named.distilled.images, last.distilled.images)
    assert torch.equal(named.distilled.weights, last.distilled.weights)
    assert not torch.equal(earlier.distilled.images, last.distilled.images)
    keys = [made.artifact("distill", 0).key for made in (last, named, earlier)]
    assert len(set(keys)) == 3
    # Real features of the layer, from what the module before it gives: two by two pooling after the first block.
    seen: list[torch.Tensor] = []
    network: Any = earlier.teacher.network
    hook = network.features[3].register_forward_hook(lambda _, args, maps: seen.append(maps.mean((2, 3))))
    rows = earlier.dataset.train.of_class(4)
    with torch.no_grad():
        network(earlier.dataset.evaluation_view("train", rows))
    hook.remove()
    features = earlier.statistics(4, 2).features
    assert features.shape == (len(rows), 128)
    torch.testing.assert_close(features, torch.cat(seen), rtol=1e-4, atol=1e-5)


def test_matching_a_layer_brings_its_features_nearer_to_the_barycenters(run: Callable[..., Pipeline]) -> None:
    def distance(made: Pipeline) -> float:
        with torch.no_grad():
            normal = made.dataset.normalise(made.distilled.images)
            features = made.teacher(normal, layer=2).features
        means = torch.stack([made.statistics(label, 2).features.mean(0) for label in range(10)])
        return float((features.reshape(10, 2, -1).mean(1) - means).square().sum())

    shared = ("method.crop_scale_min=1.0", "method.jitter=0", "method.bn_weight=0", "teacher.arch=convnet-bn-d2")
    started, matched = (run(f"method.steps={steps}", "method.layer=2", *shared) for steps in (1, 60))
    assert distance(matched) < 0.5 * distance(started)


def test_a_layer_that_the_teacher_does_not_have_is_refused_before_it_is_trained(
    run: Callable[..., Pipeline], shell: Shell
) -> None:
    with pytest.raises(DDBenchError, match="there is no layer 3: convnet-bn-d1 has layers 1 to 2"):
        _ = run("method.layer=3").distilled
    where = ("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--device", "cpu")
    refused = shell("run", *where, "--arch", "resnet18", "--set", "method.layer=19")
    assert refused.code != 0
    assert "there is no layer 19: resnet18 has layers 1 to 18" in refused.errors[-1]
    assert not any("/teacher/" in name for name in shell.files("cache"))


def test_the_command_line_runs_a_combination_and_the_sibling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def command(method: str, *settings: str) -> dict[str, Any]:
        fast = ("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-bn-d1", "teacher.batch_size=256")
        typed = [part for value in (*fast, "evaluator.epochs=1", *settings) for part in ("--set", value)]
        folders = ["--cache-dir", "cache", "--results-dir", f"results-{method}"]
        where = ["--dataset", "digits", "--ipc", "2", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32"]
        monkeypatch.setattr("sys.argv", ["ddbench", "run", "--method", method, *where, *folders, *typed])
        main()  # leaves by SystemExit where it fails
        message = capsys.readouterr().err
        assert ("method barycenter" in message) == (method == "wmdd-sliced")
        (path,) = (tmp_path / f"results-{method}" / "records").glob("*.json")
        record: dict[str, Any] = json.loads(path.read_text())
        return record

    mmd = command("wmdd", "method.feature_loss=mmd", "method.regulariser=bn", "method.initial=real")
    sibling = command("wmdd-sliced", "method.projections=16", "method.iterations=3")
    used, own = (record["configuration"]["method_settings"] for record in (mmd, sibling))
    assert (used["feature_loss"], used["regulariser"], used["initial"]) == ("mmd", "bn", "real")
    # Given here, and from the budget, which holds for both.
    assert (sibling["method"], own["projections"], own["steps"]) == ("wmdd-sliced", 16, 20)
    assert mmd["distilled_digest"] != sibling["distilled_digest"]
