"""The real images: published counts, class order, and pixels against torchvision."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddbench.config.schema import DataConfig
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.data.imagenet import subset_classes
from ddbench.data.registry import ddbench_datasets, resolve_dataset
from ddbench.storage.cache import Cache

pytestmark = [pytest.mark.real, pytest.mark.slow]


def load(name: str, needs: str, config: DataConfig, cache: Cache) -> tuple[Dataset, Path]:
    data_dir = os.environ.get("DDBENCH_DATA")
    if not data_dir or not (Path(data_dir) / needs).is_dir():
        pytest.skip(f"needs DDBENCH_DATA with {needs}/")
    return load_dataset(resolve_dataset(name, ddbench_datasets()), config, Path(data_dir), cache), Path(data_dir)


def test_imagenette_is_complete_and_its_pixels_are_torchvisions(cache: Cache) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    data, data_dir = load("imagenette", "imagenette2", DataConfig(image_size=64, stored_size=72), cache)
    assert (len(data.train), len(data.val)) == (9469, 3925)
    assert sum(data.info.train_counts) == 9469
    assert data.info.class_names == tuple(sorted(subset_classes("imagenette")))
    folder = ImageFolder(str(data_dir / "imagenette2" / "val"), Compose([Resize(72), CenterCrop(64), PILToTensor()]))
    assert data.val.labels.tolist() == folder.targets
    chosen = torch.randperm(3925, generator=torch.Generator().manual_seed(0))[:100]
    expected = torch.stack([folder[index][0] for index in chosen.tolist()])
    assert torch.equal(data.val.centre(chosen, 64), expected)


def test_fingerprints_are_those_of_the_committed_records() -> None:
    data_dir = os.environ.get("DDBENCH_DATA")
    if not data_dir or not (Path(data_dir) / "imagenette2").is_dir():
        pytest.skip("needs DDBENCH_DATA with imagenette2/")
    committed = {
        json.loads(path.read_text()).get("data", {}).get("fingerprint")
        for path in (Path(__file__).parents[3] / "results" / "reference").rglob("*imagenette*.json")
    }
    source = resolve_dataset("imagenette", ddbench_datasets()).open(Path(data_dir))
    assert committed - {None} == {source.fingerprint()}


def test_tiny_imagenet_subset(cache: Cache) -> None:
    needs = "tiny-imagenet-mini/tiny-imagenet-200"
    data, data_dir = load("tiny-imagenet", needs, DataConfig(image_size=64, stored_size=64), cache)
    assert data.info.class_names == tuple(sorted((data_dir / needs / "wnids.txt").read_text().split()))
    assert data.info.train_counts == (100,) * 10
    assert data.info.val_counts == (20,) * 10
    lines = (data_dir / needs / "val" / "val_annotations.txt").read_text().splitlines()
    wnid = data.info.class_names[3]
    files = sorted(line.split("\t")[0] for line in lines if line.split("\t")[1] == wnid)
    pixels, _ = data.val.read(data.val.of_class(3))
    for actual, file in zip(pixels, files, strict=True):
        with Image.open(data_dir / needs / "val" / "images" / file) as image:
            assert bytes(actual.permute(1, 2, 0).contiguous().numpy().tobytes()) == image.convert("RGB").tobytes()
