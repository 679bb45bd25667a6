"""What each setting makes anew, and what it must leave alone: the cache keys, setting by setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.config.experiment import Experiment
from ddbench.core import versions
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import load_dataset
from ddbench.pipeline.keys import Keys, file_digest, teacher_label
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

EVERYTHING = {"teacher", "statistics", "method", "distill", "measure", "labels", "evaluate"}
FROM_STATISTICS = EVERYTHING - {"teacher"}
FROM_METHOD = FROM_STATISTICS - {"statistics"}
FROM_DISTILL = FROM_METHOD - {"method"}
STUDENT = {"labels", "evaluate"}
SETTINGS = {
    "steps": 21,
    "learning_rate": 0.3,
    "betas": [0.6, 0.9],
    "batch_size": 50,
    "crop_scale_min": 0.1,
    "crop_per_image": False,
    "flip": False,
    "jitter": 1,
    "centred_jitter": True,
    "solver": "released",
    "iterations": 3,
    "weight_step": 0.5,
    "start": "real",
    "feature_form": "norm",
    "cross_entropy_weight": 1.0,
    "bn_weight": 11.0,
    "bn_form": "norm",
    "feature_loss": "mmd",
    "regulariser": "bn",
    "initial": "real",
    "layer": 3,
}
"""Another value than the recipe's for every setting of WMDD."""


@pytest.fixture(scope="module")
def registry() -> PluginRegistry:
    return PluginRegistry()


@pytest.fixture(scope="module")
def keys_of(registry: PluginRegistry, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    cache = Cache(tmp_path_factory.mktemp("cache"))

    def compute(changes: dict[str, Any] | None = None, *assignments: str, **request: Any) -> dict[str, str]:
        options: dict[str, Any] = {
            "methods": ("wmdd",),
            "datasets": ("digits",),
            "ipcs": (2,),
            "recipes": ("smoke",),
            "device": "cpu",
            "precision": "fp32",
            **request,
        }
        (cell,) = experiments(Request(**options, assignments=assignments), registry)
        cell = cell.model_copy(update=changes or {})
        dataset = load_dataset(registry.dataset(cell.dataset), cell.data, None, cache)
        keys = Keys(cell, dataset, cell.method.version, cell.evaluator.version)
        units = (key_of(keys.unit(0)), key_of(keys.unit(1)))
        return {
            "teacher": key_of(keys.teacher()),
            "statistics": key_of(keys.statistics(3)),
            "method": key_of(keys.intermediate("barycenter", {"class": 3})),
            "distill": units[0],
            "measure": key_of(keys.measure(units)),
            "labels": key_of(keys.labels(units, "labels", {"seed": 0})),
            "evaluate": key_of(keys.evaluate(units)),
        }

    return compute


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.mark.parametrize(
    ("assignment", "stages"),
    [
        ("teacher.seed=1", EVERYTHING),
        ("teacher.epochs=2", EVERYTHING),
        ("teacher.arch=convnet-d3", EVERYTHING),
        ("teacher.stem=imagenet", EVERYTHING),
        ("data.stored_size=18", EVERYTHING),
        ("data.resize=bicubic", EVERYTHING),
        ("data.mean=[0.5,0.5,0.5]", EVERYTHING),
        ("data.std=[0.5,0.5,0.5]", EVERYTHING),
        ("data.mean=[0.3058,0.3058,0.3058]", set()),  # the dataset's
        ("statistics.variance=batch-mean", FROM_STATISTICS),
        ("statistics.batch_size=50", FROM_STATISTICS),
        ("distill.jpeg_quality=75", FROM_DISTILL),
        ("distill.checkpoint_every=1", set()),
        ("evaluator.epochs=4", STUDENT),
        ("evaluator.temperature=10", STUDENT),
        ("evaluator.labels=stored", STUDENT),
        ("evaluator.select_share=0.2", STUDENT),
        ("evaluator.augmentation=none", STUDENT),
        ("evaluator.augmentation=default", set()),
    ],
)
def test_a_setting_makes_its_stage_and_what_follows_anew(
    keys_of: Callable[..., dict[str, str]], assignment: str, stages: set[str]
) -> None:
    assert moved(keys_of(), keys_of(None, assignment)) - {"student"} == stages


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"ipc": 3}, FROM_METHOD),
        ({"seed": 1}, FROM_METHOD),
        ({"repeat": 1}, FROM_METHOD),
        ({"student_seed": 1}, {"evaluate"}),
        ({"student": "convnet-d3"}, {"evaluate"}),
        ({"student_stem": "small"}, {"evaluate"}),
        ({"recipes": ("another", "name")}, set()),
    ],
)
def test_cells_of_a_grid_share_what_they_can(
    keys_of: Callable[..., dict[str, str]], changes: dict[str, Any], stages: set[str]
) -> None:
    assert moved(keys_of(), keys_of(changes)) == stages


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_setting_of_the_method_leaves_teacher_statistics_and_intermediates_alone(
    keys_of: Callable[..., dict[str, str]], name: str
) -> None:
    # `regulariser=bn` changes the version, which is part of the keys of the intermediates too.
    stages = FROM_METHOD if name == "regulariser" else FROM_DISTILL
    assert moved(keys_of(), keys_of(None, f"method.{name}={SETTINGS[name]}")) == stages


def test_keys_of_what_was_made_before_a_setting_came_stay_what_they_were(
    keys_of: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that is new and unset is in no key: what lies in people's caches must be found again.

    Where a recipe, a version or the digits themselves change, the keys here change rightly: write the new ones.
    """
    for name in (name for name in vars(versions) if name.isupper()):
        monkeypatch.setattr(versions, name, "1")
    actual = keys_of(None, "evaluator.cutmix_alpha=null")
    assert actual == {
        "teacher": "730f30aaa2cd1d208ef9d6739fbb9159",
        "statistics": "30dc962041cbab43408e1872952a95e3",
        "method": "bc11b43769f97dfb328aa7bb032bae6f",
        "distill": "563b3406b322f182eb97c09a411ba822",
        "measure": "77850a21f800970d3e0acef9be5a5929",
        "labels": "ed1236afaaad36d4ac16c44bba6dabb1",
        "evaluate": "8b65c97115cba4255bdbb8c75ca31a7a",
    }
    unset = keys_of(None, "evaluator.cutmix_alpha=null", "method.layer=null", "evaluator.select_share=null")
    assert unset == actual


def test_statistics_of_a_layer_have_a_key_of_their_own(registry: PluginRegistry, tmp_path: Path) -> None:
    request = Request(methods=("wmdd",), datasets=("digits",), ipcs=(1,), recipes=("smoke",))
    (cell,) = experiments(request, registry)
    dataset = load_dataset(registry.dataset("digits"), cell.data, None, Cache(tmp_path))
    keys = Keys(cell, dataset, "1", "1")
    actual = [key_of(keys.statistics(3, layer)) for layer in (None, 1, 2)]
    assert actual[0] == key_of(keys.statistics(3))
    assert len(set(actual)) == 3


def test_no_setting_of_the_method_is_forgotten(registry: PluginRegistry) -> None:
    assert set(SETTINGS) == set(registry.distiller("wmdd").model_fields)


def test_the_same_experiment_has_the_same_keys(keys_of: Callable[..., dict[str, str]]) -> None:
    assert keys_of() == keys_of(None, "teacher.epochs=1", "method.steps=20", "method.betas=[0.5, 0.9]")


def test_the_image_size_is_in_every_key(keys_of: Callable[..., dict[str, str]]) -> None:
    assert moved(keys_of(), keys_of(image_size=8)) == EVERYTHING
    # Crops of another size from the same stored pixels.
    assert moved(keys_of(), keys_of(None, "data.image_size=8")) == EVERYTHING


def test_device_kind_and_precision_are_in_the_keys_and_the_device_number_is_not(
    keys_of: Callable[..., dict[str, str]],
) -> None:
    assert moved(keys_of(), keys_of(precision="bf16")) == EVERYTHING
    assert moved(keys_of(), keys_of(device="cuda")) == EVERYTHING
    assert keys_of(device="cuda:0") == keys_of(device="cuda:1")


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("MODELS", EVERYTHING),
        ("TRAINING", EVERYTHING),
        ("VIEWS", EVERYTHING),
        ("STATISTICS", {"statistics", "method", "distill", "measure", "labels", "evaluate"}),
        ("TRANSPORT", FROM_METHOD),
        ("LLOYD", set()),
        ("OBJECTIVES", FROM_DISTILL),
        ("RECOVER", FROM_DISTILL),
        ("DISTILLED", FROM_DISTILL),
    ],
)
def test_a_new_version_of_the_numerics_makes_what_it_computes_anew(
    keys_of: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch, name: str, stages: set[str]
) -> None:
    before = keys_of()
    monkeypatch.setattr(versions, name, "another")
    assert moved(before, keys_of()) == stages


def test_every_version_is_in_a_key() -> None:
    names = {name for name in vars(versions) if name.isupper()}
    assert names == {
        *("MODELS", "VIEWS", "TRAINING", "STATISTICS", "OBJECTIVES", "RECOVER", "TRANSPORT", "LLOYD", "DISTILLED"),
    }


def test_a_new_version_of_what_a_setting_uses_moves_that_setting_alone(
    keys_of: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lloyd, kmeans = keys_of(None, "method.solver=lloyd"), keys_of(methods=("kmeans",))
    monkeypatch.setattr(versions, "LLOYD", "another")
    assert moved(lloyd, keys_of(None, "method.solver=lloyd")) == FROM_METHOD
    assert moved(kmeans, keys_of(methods=("kmeans",))) == FROM_METHOD


def test_versions_of_method_and_protocol_are_in_the_keys(
    keys_of: Callable[..., dict[str, str]], registry: PluginRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_of()
    monkeypatch.setattr(registry.distiller("wmdd"), "version", "another")
    assert moved(before, keys_of()) == FROM_METHOD
    before = keys_of()
    monkeypatch.setattr(registry.evaluator("fkd"), "version", "another")
    assert moved(before, keys_of()) == STUDENT


def test_a_checkpoint_counts_by_its_content_not_by_its_path_or_a_training_recipe(
    keys_of: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    for name, content in (("one", b"weights"), ("two", b"weights"), ("three", b"others")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    one, two, three = (f"teacher.checkpoint={tmp_path / name}.safetensors" for name in ("one", "two", "three"))
    given = keys_of(None, one)
    assert moved(keys_of(), given) == EVERYTHING
    assert given == keys_of(None, two) == keys_of(None, one, "teacher.epochs=7")
    assert moved(given, keys_of(None, three)) == EVERYTHING
    # It is the same teacher on any device, but what is computed with it is not the same.
    assert moved(given, keys_of(None, one, device="cuda")) == FROM_STATISTICS
    with pytest.raises(DDBenchError, match=r"checkpoint .*four\.safetensors' does not exist"):
        keys_of(None, f"teacher.checkpoint={tmp_path / 'four.safetensors'}")


class Copied(Distiller):
    """A method with paths among its settings."""

    name = "copied"
    version = "1"
    needs_teacher = False

    images: Path
    more: tuple[Path, ...] = ()


class Reading(Evaluator):
    """A protocol with a path among its settings."""

    name = "reading"
    version = "1"
    needs_teacher = False

    labels_file: Path


def test_a_path_among_the_settings_counts_by_its_content_not_by_its_place(
    keys_of: Callable[..., dict[str, str]], registry: PluginRegistry, tmp_path: Path
) -> None:
    registry.register(
        SimpleNamespace(ddbench_distillers=hookimpl(lambda: [Copied]), ddbench_evaluators=hookimpl(lambda: [Reading]))
    )
    for name, content in (("one", "a"), ("two", "a"), ("other", "b")):
        (tmp_path / name / "images" / "deep").mkdir(parents=True)
        (tmp_path / name / "images" / "deep" / "0.png").write_text(content)
        (tmp_path / name / "labels.txt").write_text(content)

    def keys(images: str, more: str = "one/labels.txt", labels: str = "one/labels.txt") -> dict[str, str]:
        paths = (f"method.images={tmp_path / images}", f"method.more=[{tmp_path / more}]")
        labels_file = f"evaluator.labels_file={tmp_path / labels}"
        return keys_of(None, *paths, labels_file, methods=("copied",), evaluators=("reading",))

    folder = keys("one/images")
    assert folder == keys("two/images") == keys("two/images", "two/labels.txt", "two/labels.txt")
    for changed in (keys("other/images"), keys("one/images", "other/labels.txt")):
        assert moved(folder, changed) == FROM_DISTILL
    assert moved(folder, keys("one/images", labels="other/labels.txt")) == STUDENT
    (tmp_path / "two" / "images" / "deep" / "0.png").rename(tmp_path / "two" / "images" / "0.png")
    assert moved(folder, keys("two/images")) == FROM_DISTILL
    # A file that does not exist yet counts by its name.
    assert keys("one/absent") == keys("two/absent") != keys("one/later")


def test_class_names_of_outputs_count_where_they_are_not_the_classes_in_their_order(
    keys_of: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    classes = [str(number) for number in range(10)]
    orders = {"same": classes, "other": classes[::-1], "again": classes[::-1], "more": [*classes[::-1], "ten"]}
    for name, order in orders.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(order))
        (tmp_path / f"{name}.json").write_text(json.dumps(order))
    (tmp_path / "a.safetensors").write_bytes(b"weights")

    def given(*names: str) -> dict[str, str]:
        texts = (f"teacher.classes={tmp_path / name}" for name in names)
        return keys_of(None, f"teacher.checkpoint={tmp_path / 'a.safetensors'}", *texts)

    assert given() == given("same.txt") == given("same.json")
    assert given("other.txt") == given("again.txt") == given("other.json")
    assert moved(given(), given("other.txt")) == moved(given("other.txt"), given("more.txt")) == EVERYTHING


def test_class_names_in_a_file_of_torch_count_as_they_were_once_not_read(
    keys_of: Callable[..., dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact of a version that ignored them has the key without names."""
    monkeypatch.setattr("ddbench.pipeline.keys.file_digest", lambda path: "one")
    classes = [str(number) for number in range(10)]
    for name, order in (("none", None), ("same", classes), ("other", classes[::-1])):
        torch.save({"model": {"weight": torch.zeros(1)}, "classes": order}, tmp_path / f"{name}.pt")
    none, same, other = (keys_of(None, f"teacher.checkpoint={tmp_path / n}.pt") for n in ("none", "same", "other"))
    assert none == same
    assert moved(none, other) == EVERYTHING


def test_real_images_do_not_depend_on_a_teacher_that_no_stage_uses(keys_of: Callable[..., dict[str, str]]) -> None:
    random = {"methods": ("random",), "evaluators": ("hard",)}
    seeded = moved(keys_of(**random), keys_of(None, "teacher.seed=1", **random))
    assert not seeded & {"method", "distill", "labels", "evaluate"}
    fkd = {"methods": ("random",)}
    seeded = moved(keys_of(**fkd), keys_of(None, "teacher.seed=1", **fkd))
    assert seeded & {"method", "distill", "evaluate"} == {"evaluate"}


def test_another_dataset_shares_nothing(keys_of: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for number in range(10):
            folder = tmp_path / split / str(number)
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / "a.png")
    before = keys_of(datasets=(f"imagefolder:{tmp_path}",))
    assert moved(keys_of(), before) == EVERYTHING
    Image.new("RGB", (17, 16), (9, 9, 9)).save(tmp_path / "train" / "3" / "a.png")
    assert moved(before, keys_of(datasets=(f"imagefolder:{tmp_path}",))) == EVERYTHING


def test_names_of_teachers_and_digests_of_files(registry: PluginRegistry, tmp_path: Path) -> None:
    request = Request(methods=("wmdd",), datasets=("digits",), ipcs=(1,), recipes=("smoke",))
    experiment: Experiment = experiments(request, registry)[0]
    assert teacher_label(experiment.teacher) == "convnet-bn-d3"
    given = experiment.teacher.model_copy(update={"checkpoint": tmp_path / "mine.pt"})
    assert teacher_label(given) == "convnet-bn-d3 (checkpoint mine.pt)"
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
