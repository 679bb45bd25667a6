"""The loaded dataset: cached and uncached roads, ragged batches, evaluation views, corrupt images, keys."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench.api.dataset import Report, Source
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.data.decode import READABLE_VERSION
from ddbench.data.registry import ddbench_datasets, resolve_dataset
from ddbench.data.source import ArraySplit
from ddbench.storage.artifacts import canonical_json
from ddbench.storage.cache import Cache

MakeFolder = Callable[..., Path]
SMALL = DataConfig(image_size=12, stored_size=16)
SPECS = ddbench_datasets()


def load(folder: Path, cache: Cache, config: DataConfig = SMALL, report: Report | None = None) -> Dataset:
    return load_dataset(resolve_dataset(f"imagefolder:{folder}", SPECS), config, None, cache, report)


@pytest.mark.parametrize("config", [SMALL, DataConfig(image_size=9, stored_size=15, resize="bicubic")])
def test_evaluation_view_is_torchvisions_centre_crop(make_folder: MakeFolder, cache: Cache, config: DataConfig) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, normalize, pil_to_tensor, resize

    root = make_folder()
    data = load(root, cache, config)
    views = data.evaluation_view("val", torch.arange(4))
    assert views.dtype == torch.float32
    for view, path in zip(views, sorted((root / "val").rglob("*.jpg")), strict=True):
        with Image.open(path) as image:
            stored = resize(image.convert("RGB"), config.stored_size, InterpolationMode(config.resize))
            pixels = pil_to_tensor(center_crop(stored, config.image_size)).float() / 255
        expected = normalize(pixels, data.mean.tolist(), data.std.tolist())
        torch.testing.assert_close(view, expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(DDBenchError, match="a view of 17 x 17 does not fit"):
        data.val.centre(torch.tensor([0]), 17)


def test_digits_at_their_own_size_are_the_bundled_pixels(cache: Cache) -> None:
    from ddbench.data.arrays import open_digits

    digits = load_dataset(resolve_dataset("digits", SPECS), DataConfig(image_size=8, stored_size=8), None, cache)
    pixels, sizes = digits.val.read(torch.arange(360))
    expected = torch.from_numpy(open_digits().val.pixels)  # type: ignore[attr-defined]
    assert torch.equal(pixels, expected[:, None].expand(-1, 3, -1, -1))
    assert (sizes == 8).all()
    normalised = digits.normalise(digits.train.read(torch.arange(1437))[0])
    assert abs(float(normalised.mean())) < 1e-3
    assert abs(float(normalised.std()) - 1) < 1e-3


def test_deep_images_are_said_once(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder()
    levels = np.arange(400, dtype=np.uint16).reshape(20, 20) * 164
    for name in ("deep", "deeper"):
        Image.fromarray(levels).save(root / "train" / "ant" / f"{name}.png")
    for config in (SMALL, SMALL, SMALL.model_copy(update={"skip_corrupt": True})):  # the second from the cache
        events: list[Event] = []
        data = load(root, cache, config, events.append)
        assert data.train.read(torch.tensor([3]))[0].amax() > 240
        (note,) = (event.message for event in events if event.kind == "note")
        assert note == "2 images of train above 8 bits per channel: the range of the bit depth is scaled to 0 to 255"


def test_a_listing_of_readable_images_from_an_older_decoder_is_not_used(make_folder: MakeFolder, cache: Cache) -> None:
    """It may lack images that are readable now. Without `skip_corrupt` such a set could not be decoded at all."""
    skipping = load(make_folder(), cache, SMALL.model_copy(update={"skip_corrupt": True}))
    assert skipping.depends_on["readable"] == READABLE_VERSION
    assert "readable" not in load(make_folder(), cache).depends_on


def test_images_in_both_splits_are_counted(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder(train=6)
    assert load(root, cache).measured_in_train == 0
    shutil.copy(root / "val" / "ant" / "0.jpg", root / "train" / "bee" / "copy.jpg")
    shutil.copy(root / "val" / "ant" / "0.jpg", root / "val" / "ant" / "again.jpg")
    assert load(root, cache).measured_in_train == 2


def test_images_of_arrays_in_both_splits_are_counted(cache: Cache) -> None:
    digits = resolve_dataset("digits", SPECS)
    config = DataConfig(image_size=8, stored_size=8)
    assert load_dataset(digits, config, None, cache).measured_in_train == 0

    def leaking(*arguments: Any) -> Source:
        source = digits.open(*arguments)
        train, val = source.train, source.val
        assert isinstance(train, ArraySplit)
        assert isinstance(val, ArraySplit)
        val.pixels[[5, 9]] = train.pixels[[1400, 7]]  # copies count also in another class
        return source

    assert load_dataset(replace(digits, open=leaking), config, None, cache).measured_in_train == 2


@pytest.mark.parametrize("setting", ["split", "holdout"])
@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_copies_within_the_training_images_are_counted_where_a_part_of_them_is_measured_on(
    make_folder: MakeFolder, cache: Cache, setting: str, skip_corrupt: bool
) -> None:
    root = make_folder(train=8)
    shutil.rmtree(root / "val")
    for path in (root / "train" / "ant").iterdir():
        path.write_bytes((root / "train" / "ant" / "0.jpg").read_bytes())
    config = SMALL.model_copy(update={setting: 0.25, "skip_corrupt": skip_corrupt})
    assert load(root, cache, config).measured_in_train == 2


def test_a_folder_without_validation_images_needs_a_split_or_a_holdout(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder(train=10)
    with pytest.raises(DDBenchError, match=r"data\.split 0\.2: .* has validation images of its own; leave data"):
        load(root, cache, SMALL.model_copy(update={"split": 0.2}))
    shutil.rmtree(root / "val")
    for flat in (False, True):
        folder = root / "train" if flat else root
        with pytest.raises(DDBenchError, match=r"has no validation images .* with --set data\.split=0\.2$"):
            load(folder, cache)
        keys = set()
        for shares in ({"split": 0.2}, {"split": 0.3}, {"holdout": 0.2}, {"split": 0.2, "holdout": 0.25}):
            data = load(folder, cache, SMALL.model_copy(update=shares))
            expected = {0.2: (16, 4), 0.3: (14, 6)}.get(shares.get("split", 0.2), (0, 0))
            expected = (12, 4) if len(shares) == 2 else expected
            assert (len(data.train), len(data.val)) == expected
            assert data.info.train_counts == (expected[0] // 2,) * 2
            assert data.info.val_counts == (expected[1] // 2,) * 2
            assert not set(data.train.positions.tolist()) & set(data.val.positions.tolist())
            keys.add(canonical_json(data.depends_on))
        assert len(keys) == 4


def test_the_images_of_a_split_are_these(make_folder: MakeFolder, cache: Cache) -> None:
    """The same in every run, machine and version; a larger share holds the same and others; not those of a hold-out."""
    root = make_folder(train=20, classes=("n01440764",)) / "train"
    drawn = {
        name: load(root, cache, SMALL.model_copy(update={name.split()[0]: float(name.split()[1])})).val.positions
        for name in ("split 0.2", "split 0.3", "holdout 0.2")
    }
    assert drawn["split 0.2"].tolist() == [1, 5, 7, 19]
    assert {1, 5, 7, 19} < set(drawn["split 0.3"].tolist())
    assert drawn["holdout 0.2"].tolist() == [5, 6, 17, 18]


def test_mean_and_deviation_are_settings_and_leave_the_decoded_pixels(make_folder: MakeFolder, cache: Cache) -> None:
    root, own = make_folder(), {"mean": (0.5, 0.25, 0.125), "std": (0.1, 0.2, 0.4)}
    before = load(root, cache)
    before.decode()
    data = load(root, cache, DataConfig(image_size=12, stored_size=16, **own))  # type: ignore[arg-type]
    assert data.is_decoded()
    assert data.depends_on == before.depends_on
    indices = torch.arange(3)
    pixels = data.train.centre(indices, 12).double() / 255
    expected = (pixels - torch.tensor(own["mean"]).view(3, 1, 1)) / torch.tensor(own["std"]).view(3, 1, 1)
    torch.testing.assert_close(data.evaluation_view("train", indices).double(), expected, rtol=1e-5, atol=1e-5)
    assert not before.is_gray
    assert load(root, cache, SMALL.model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3})).is_gray
