"""The images of a split: cached and uncached roads, ragged batches, what is decoded when, corrupt images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench.api.dataset import Report
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data import images as images_module
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.data.images import CachedImages, FileImages
from ddbench.data.registry import ddbench_datasets, resolve_dataset
from ddbench.storage.cache import Cache

MakeFolder = Callable[..., Path]


SMALL = DataConfig(image_size=12, stored_size=16)


SPECS = ddbench_datasets()


def load(folder: Path, cache: Cache, config: DataConfig = SMALL, report: Report | None = None) -> Dataset:
    return load_dataset(resolve_dataset(f"imagefolder:{folder}", SPECS), config, None, cache, report)


def reference(path: Path, stored_size: int) -> torch.Tensor:
    """The stored image, by torchvision."""
    from torchvision.transforms.functional import pil_to_tensor, resize

    with Image.open(path) as image:
        pixels: torch.Tensor = pil_to_tensor(resize(image.convert("RGB"), stored_size))
        return pixels


def test_what_is_read_is_the_resized_file_with_zeros_around(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    data = load(root, cache)
    assert isinstance(data.train, CachedImages)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    indices = torch.tensor([4, 0, 5, 0])
    batch, sizes = data.train.read(indices)
    paths = [root / "train" / "ant" / f"{k}.jpg" for k in range(3)] + [
        root / "train" / "bee" / f"{k}.jpg" for k in range(3)
    ]
    expected = [reference(paths[index], 16) for index in indices]
    assert sizes.tolist() == [list(image.shape[1:]) for image in expected]
    assert torch.equal(sizes, data.train.sizes[indices])
    assert batch.dtype == torch.uint8
    assert list(batch.shape) == [4, 3, int(sizes[:, 0].max()), int(sizes[:, 1].max())]
    for actual, image in zip(batch, expected, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(actual[:, :height, :width], image)
        assert int(actual.sum()) == int(image.sum())


@pytest.mark.parametrize("shapes", ["all the same", "ragged"])
def test_both_roads_give_the_same_tensors(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: str
) -> None:
    root = make_folder(train=9)
    if shapes == "all the same":
        for path in root.rglob("*.jpg"):
            with Image.open(path) as image:
                image.resize((30, 40)).save(path)
    cached = load(root, Cache(tmp_path / "one"))
    assert isinstance(cached.train, CachedImages)
    monkeypatch.setattr(images_module, "MAX_CACHED_BYTES", 0)
    decoded = load(root, Cache(tmp_path / "two"))
    assert isinstance(decoded.train, FileImages)
    assert (cached.train.shape is None) == (shapes == "ragged")
    assert torch.equal(cached.train.labels, decoded.train.labels)
    assert torch.equal(cached.train.sizes, decoded.train.sizes)
    assert cached.info == decoded.info
    assert cached.depends_on == decoded.depends_on
    generator = torch.Generator().manual_seed(0)
    for count in (1, 5, 18):
        indices = torch.randperm(18, generator=generator)[:count]
        for one, two in zip(cached.train.read(indices), decoded.train.read(indices), strict=True):
            assert torch.equal(one, two)
        assert torch.equal(cached.train.centre(indices, 12), decoded.train.centre(indices, 12))
    assert cached.train.centre(indices, 12).is_contiguous()
    assert not list((tmp_path / "two" / "data").glob("*pixels*"))


def test_of_class_partitions_the_split(cache: Cache) -> None:
    digits = load_dataset(resolve_dataset("digits", SPECS), DataConfig(image_size=8, stored_size=8), None, cache)
    parts = [digits.train.of_class(label) for label in range(10)]
    assert torch.equal(torch.cat(parts), torch.arange(len(digits.train)))
    assert all(bool((digits.train.labels[part] == label).all()) for label, part in enumerate(parts))
    assert tuple(len(part) for part in parts) == digits.info.train_counts
    assert len(digits.train.of_class(10)) == 0


def test_nothing_is_decoded_twice_nor_before_it_is_asked_for(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    events: list[Event] = []
    data = load(root, cache, report=events.append)
    assert data.info.train_counts == (3, 3)
    assert data.info.val_counts == (2, 2)
    assert events == []
    first = data.train.read(torch.arange(6))[0]
    assert [event.unit for event in events if event.kind == "finished"] == [
        "train (reading sizes)",
        "train",
        "val (reading sizes)",
        "val",
    ]
    events.clear()
    again = load(root, cache, report=events.append)
    assert torch.equal(again.train.read(torch.arange(6))[0], first)
    assert [(event.kind, event.unit) for event in events] == [("cached", "train"), ("cached", "val")]
    events.clear()
    # Crops of another size come from the same stored pixels; another stored size or filter does not.
    assert len(load(root, cache, DataConfig(image_size=16, stored_size=16), events.append).train) == 6
    assert {event.kind for event in events} == {"cached"}
    for other in (
        DataConfig(image_size=12, stored_size=17),
        DataConfig(image_size=12, stored_size=16, resize="bicubic"),
    ):
        events.clear()
        changed = load(root, cache, other, events.append)
        assert len(changed.train) == 6
        assert {event.kind for event in events} == {"started", "finished"}
        assert changed.depends_on != data.depends_on


def test_a_replaced_image_is_decoded_again(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    before = load(root, cache)
    old = before.train.read(torch.tensor([0]))[0]
    (root / "train" / "ant" / "0.jpg").write_bytes((root / "train" / "bee" / "2.jpg").read_bytes())
    after = load(root, cache)
    assert after.depends_on != before.depends_on
    new = after.train.read(torch.tensor([0]))[0]
    assert torch.equal(new, after.train.read(torch.tensor([5]))[0])
    assert new.shape != old.shape or not torch.equal(new, old)


@pytest.mark.parametrize("road", ["cached", "decoded"])
def test_a_corrupt_image_is_named_and_stops(
    make_folder: MakeFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch, road: str
) -> None:
    root = make_folder()
    truncate(root / "train" / "bee" / "1.jpg")
    if road == "decoded":
        monkeypatch.setattr(images_module, "MAX_CACHED_BYTES", 0)
    data = load(root, cache)
    with pytest.raises(DDBenchError) as caught:
        data.train.read(torch.arange(6))
    line = str(caught.value)
    assert line.startswith(f"{root}/train/bee/1.jpg cannot be decoded: ")
    assert "truncated" in line
    assert "--set data.skip_corrupt=true" in line
    assert "\n" not in line


@pytest.mark.parametrize("road", ["cached", "decoded"])
def test_corrupt_images_are_skipped_and_counted(
    make_folder: MakeFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch, road: str
) -> None:
    root = make_folder(train=6)
    every = load(root, cache).train.centre(torch.arange(12), 12)
    for number in (0, 2):
        truncate(root / "train" / "ant" / f"{number}.jpg")
    if road == "decoded":
        monkeypatch.setattr(images_module, "MAX_CACHED_BYTES", 0)
    skipping = SMALL.model_copy(update={"skip_corrupt": True})
    for _ in range(2):  # the second time from the cache: said again
        events: list[Event] = []
        data = load(root, cache, skipping, events.append)
        assert data.info.train_counts == (4, 6)
        assert data.info.val_counts == (2, 2)
        assert torch.equal(data.train.centre(torch.arange(10), 12), every[[1, 3, 4, 5, 6, 7, 8, 9, 10, 11]])
        (note,) = (event for event in events if event.kind == "note")
        assert note.metrics == {"skipped": 2.0}
        assert note.message.startswith(f"skipped 2 corrupt images of train: {root}/train/ant/0.jpg (truncated);")
        assert data.skipped == {"train": {"truncated": 2}}


def test_a_class_of_which_nothing_is_left_is_refused(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    for path in (root / "val" / "bee").iterdir():
        truncate(path)
    with pytest.raises(DDBenchError, match="no readable image of class 'bee' is left in val"):
        _ = load(root, cache, SMALL.model_copy(update={"skip_corrupt": True})).info


def test_a_decompression_bomb_is_refused_by_name(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    Image.new("1", (9000, 9000)).save(root / "train" / "ant" / "0.png")
    with pytest.raises(DDBenchError, match=r"ant/0.png cannot be decoded: 9000 x 9000 pixels is more than"):
        _ = load(root, cache).train


def test_a_gray_image_has_three_equal_channels(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    gray = np.arange(400, dtype=np.uint8).reshape(20, 20)
    Image.fromarray(gray).save(root / "train" / "ant" / "00.png")
    pixels, sizes = load(root, cache, DataConfig(image_size=20, stored_size=20)).train.read(torch.tensor([1]))
    assert sizes.tolist() == [[20, 20]]
    assert torch.equal(pixels[0], torch.from_numpy(gray).expand(3, -1, -1))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-150])


def test_a_corrupt_validation_image_stops_before_training(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    (root / "val" / "ant" / "0.jpg").write_bytes(b"")
    with pytest.raises(DDBenchError, match=r"val/ant/0.jpg cannot be decoded: empty file;"):
        _ = load(root, cache).train


def test_a_broken_image_is_described_by_what_it_is(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder(train=6)
    ant = root / "train" / "ant"
    (ant / "0.jpg").write_bytes(b"")
    Image.new("P", (9, 9)).save(ant / "1.jpg", "GIF")
    truncate(ant / "2.jpg")
    data = load(root, cache, SMALL.model_copy(update={"skip_corrupt": True}))
    assert data.skipped == {"train": {"empty file": 1, "a GIF named .jpg": 1, "truncated": 1}}
    (ant / "0.jpg").unlink()
    with pytest.raises(DDBenchError, match=r"1\.jpg cannot be decoded: a GIF named \.jpg; remove or replace"):
        _ = load(root, cache).train
