"""Names of datasets, and what importing the registry costs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.api.dataset import DatasetSpec, MissingDataError, Source, default_data_dir
from ddbench.core.errors import DDBenchError
from ddbench.data.registry import ddbench_datasets, open_source, resolve_dataset

MakeFolder = Callable[..., Path]
SPECS = {spec.name: spec for spec in ddbench_datasets()}


def ignore(event: object) -> None:
    pass


def test_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'PIL', 'sklearn', 'numpy', 'torchvision'} & set(sys.modules)"
    code = f"import sys, ddbench.data.registry, ddbench.api.dataset; print(sorted({heavy}))"
    actual = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert actual.stdout.strip() == "[]"


def test_names() -> None:
    assert list(SPECS) == [
        "digits",
        "imagenette",
        "imagewoof",
        "tiny-imagenet",
        "imagenet-1k",
        "imagenette-ilsvrc",
        "imagewoof-ilsvrc",
        "imagefruit",
        "imagemeow",
        "imagesquawk",
        "imageyellow",
        "imagenet-100",
        "cifar10",
        "cifar100",
        "fashion-mnist",
        "svhn",
        "imagefolder:PATH",
        "hf:NAME",
    ]
    assert resolve_dataset("digits", SPECS.values()) is SPECS["digits"]


def test_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(DDBenchError, match=r"^unknown dataset 'imagenete'; did you mean 'imagenette'\?$"):
        resolve_dataset("imagenete", SPECS.values())


def test_imagefolder_is_any_path(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    spec = resolve_dataset(f"imagefolder:{folder}", SPECS.values())
    assert spec.name == "imagefolder:pictures"
    assert spec.open(None).class_names == ("ant", "bee")
    with pytest.raises(MissingDataError, match="nowhere does not exist"):
        resolve_dataset(f"imagefolder:{tmp_path}/nowhere", SPECS.values()).open(None)
    with pytest.raises(DDBenchError, match="needs a path"):
        resolve_dataset("imagefolder:", SPECS.values())


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("digits", "imagefolder:PATH", "hf:NAME")])
def test_missing_folder_says_what_where_and_how(name: str, tmp_path: Path) -> None:
    for data_dir in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingDataError) as caught:
            open_source(SPECS[name], data_dir, ignore)
        line = str(caught.value)
        assert "\n" not in line
        for part in (name, str(data_dir), "--data-dir", "DDBENCH_DATA", "/"):
            assert part in line
    assert list(tmp_path.iterdir()) == []


class Fetching:
    """A dataset that is there once it has been fetched."""

    def __init__(self) -> None:
        self.fetched: list[Path] = []

    def open(self, data_dir: Path | None) -> Source:
        if not self.fetched:
            raise MissingDataError("toy: not there")
        return SPECS["digits"].open(None)

    def fetch(self, data_dir: Path, report: object) -> None:
        self.fetched.append(data_dir)

    def spec(self) -> DatasetSpec:
        return DatasetSpec("toy", "", "", 8, self.open, download="http://there/toy.zip", fetch=self.fetch)


def test_fetched_only_where_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "ddbench" / "data"
    toy = Fetching()
    with pytest.raises(MissingDataError, match="a run without --data-dir and DDBENCH_DATA downloads it from http"):
        open_source(toy.spec(), tmp_path, ignore)
    with pytest.raises(MissingDataError, match="a run downloads it from http"):
        open_source(toy.spec(), None, ignore, download=False)
    assert toy.fetched == []
    open_source(toy.spec(), None, ignore)
    open_source(toy.spec(), None, ignore)
    assert toy.fetched == [default_data_dir()]
