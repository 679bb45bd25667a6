"""Sets that the user gives: as the start of a method, and as a method of their own, named by their digest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from ddbench.config.given_sets import digest_in
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.given_sets import check_given_set, open_set
from ddbench.pipeline.record import build_record
from ddbench.results.export import export_set
from ddbench.results.stored_sets import StoredSet
from ddbench.storage.artifacts import Artifact

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk

STILL = ("method.steps=1", "method.learning_rate=1e-9")
"""A recover loop that leaves its initial images as they are."""
INTERLEAVED = torch.arange(10).repeat(2)


def images_of(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def desk(desk_in: Callable[..., Desk], tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One cache, so that the teacher is trained once."""
    return desk_in(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., Path]:
    """Writes a set of two images of each digit, class after class in turn, into a new folder."""

    def write(name: str = "set", form: str = "safetensors", seed: int = 0, labels: Tensor = INTERLEAVED) -> Path:
        names = [str(digit) for digit in range(10)]
        images, weights = images_of(len(labels), seed), torch.full((len(labels),), 0.5)
        export_set(StoredSet(images, labels, weights, names), {}, tmp_path / name, form)
        return tmp_path / name

    return write


@pytest.mark.parametrize("method", ["sre2l", "cda", "wmdd", "wmdd-sliced"])
def test_a_method_starts_from_the_images_of_a_set(method: str, desk: Desk, write_set: Callable[..., Path]) -> None:
    pipeline = desk.pipeline(desk.cell(*STILL, f"method.initial={write_set()}", method=method))
    pipeline.build("distill")
    images = images_of(20)
    for image, label in zip(pipeline.distilled.images, pipeline.distilled.labels.tolist(), strict=True):
        assert any(torch.equal(image, images[row]) for row in (label, label + 10))
    first = pipeline.distilled.images[pipeline.distilled.labels == 3]
    assert torch.equal(first, images[[3, 13]])


def test_the_key_holds_the_content_of_the_set_not_its_place(desk: Desk, write_set: Callable[..., Path]) -> None:
    path = write_set()
    shutil.copytree(path, path.parent / "deep" / "copy")
    cells = [
        desk.cell(f"method.initial={given}", method="sre2l")
        for given in (path, path.parent / "deep" / "copy", write_set("other", seed=1))
    ]
    pipelines = [desk.pipeline(cell) for cell in cells]
    one, copy, other = (pipeline.unit_keys for pipeline in pipelines)
    assert one == copy != other
    initial = pipelines[0].experiment.public()["method_settings"]["initial"]
    assert digest_in(initial)
    assert str(path) not in str(pipelines[0].experiment.public())
    # In a later process the digest is enough.
    assert desk.pipeline(desk.cell(f"method.initial={initial}", method="sre2l")).unit_keys == one


def test_the_record_names_the_set_without_its_folder(desk: Desk, write_set: Callable[..., Path]) -> None:
    path = write_set()
    pipeline = desk.pipeline(desk.cell(*STILL, f"method.initial={path}", method="sre2l"))
    pipeline.run()
    record = build_record(pipeline)
    assert record.origin["name"] == "set"
    assert record.origin["files"] == 1
    assert str(path.parent) not in record.model_dump_json()


def test_noise_is_the_default_and_in_no_key_of_a_method_that_had_no_other_start(desk: Desk) -> None:
    plain = desk.pipeline(desk.cell(method="sre2l"))
    assert "initial" not in plain.key("distill")["settings"]
    assert "stages" not in plain.key("distill")
    assert plain.unit_keys == desk.pipeline(desk.cell("method.initial=noise", method="sre2l")).unit_keys
    assert desk.pipeline(desk.cell()).key("distill")["settings"]["initial"] == "noise"


@pytest.mark.parametrize(
    ("initial", "options", "message"),
    [
        ("absent.pt", {}, "method.initial: absent.pt is not noise, a file or a folder"),
        ("real", {}, "method.initial: real is not noise, a file or a folder"),
        ("set:0123456789abcdef", {}, "set:0123456789abcdef is not in this cache: give its file or folder again"),
        ("SET", {"ipcs": (3,)}, "method.initial: a class of the set has 2 images, fewer than --ipc 3"),
    ],
)
def test_a_wrong_start_is_refused_before_anything_is_trained(
    initial: str,
    options: dict[str, tuple[int, ...]],
    message: str,
    desk_in: Callable[..., Desk],
    write_set: Callable[..., Path],
    tmp_path: Path,
) -> None:
    desk, initial = desk_in(tmp_path / "cache"), str(write_set()) if initial == "SET" else initial
    with pytest.raises(DDBenchError, match=message):
        desk.pipeline(desk.cell(f"method.initial={initial}", method="sre2l", **options))
    assert not (desk.folder / "teacher").exists()


def test_a_set_without_an_image_of_a_class_is_refused(desk: Desk, write_set: Callable[..., Path]) -> None:
    path = write_set(labels=torch.arange(20) % 9)
    with pytest.raises(DDBenchError, match=r"method.initial: set: the set has no image of class 9 \('9'\)"):
        desk.pipeline(desk.cell(f"method.initial={path}", method="sre2l"))


def test_a_given_set_keeps_its_order_and_its_digest(desk: Desk, write_set: Callable[..., Path]) -> None:
    path = write_set()
    plain = desk.pipeline(desk.cell(method="random"))
    given = open_set(path, plain.dataset)
    assert given.counts == [2] * 10
    plain.workspace.add_given_set(given)
    cell = desk.cell(method=given.method, evaluators=("hard",))
    pipeline = type(plain)(plain.workspace, cell)
    pipeline.run()
    assert torch.equal(pipeline.distilled.labels, INTERLEAVED)
    assert torch.equal(pipeline.distilled.images, images_of(20))
    record = build_record(pipeline)
    assert record.method == given.method
    assert record.origin == given.origin
    # In a later process, and as an image folder, it is the same set.
    again = desk.pipeline(cell)
    assert again.missing() == []
    assert again.distilled.digest == record.distilled_digest
    folder = open_set(write_set("folder", "imagefolder"), plain.dataset)
    assert folder.digest != given.digest  # other files
    assert all(torch.equal(value, given.tensors[name]) for name, value in folder.tensors.items())

    for changed, message in (
        (desk.cell(method=given.method, ipcs=(3,)), f"--ipc 3: {given.method} has 2 images per class"),
        (
            desk.cell("data.image_size=16", "data.stored_size=16", method=given.method),
            "was read at 8 px, and this run has",
        ),
    ):
        with pytest.raises(DDBenchError, match=message):
            desk.pipeline(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["other"]}, "set:0123456789abcdef has other classes than digits"),
        ({"size": 9}, "set:0123456789abcdef was read at 9 px, and this run has 8 px"),
        ({"ipc": 3}, "a class of the set has 2 images, fewer than --ipc 3"),
        ({}, None),
    ],
)
def test_a_set_in_the_cache_must_fit_the_run(
    change: dict[str, Any], message: str | None, desk: Desk, tmp_path: Path
) -> None:
    info, size = desk.pipeline(desk.cell(method="random")).info, change.get("size", 8)
    tensors = {"images": torch.zeros(20, 3, size, size, dtype=torch.uint8), "labels": INTERLEAVED}
    meta = {"classes": change.get("classes", list(info.class_names))}
    artifact = Artifact("given", "key", tmp_path, tensors, meta, "")
    method = desk.cell("method.initial=set:0123456789abcdef", method="sre2l").method
    with nullcontext() if message is None else pytest.raises(DDBenchError, match=message):
        check_given_set(method, artifact, info, change.get("ipc", 2))


def test_an_unknown_name_of_a_given_set_is_refused(desk: Desk) -> None:
    with pytest.raises(DDBenchError, match="a given set is named given:NAME@DIGEST"):
        desk.cell(method="given:mtt")
