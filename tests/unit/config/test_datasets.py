"""Names of datasets: no path of a person is in them, and equal images have equal fingerprints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ddbench.config.datasets import dataset_name, is_recorded_folder, own_name, recorded_name, refers_to
from ddbench.core.errors import DDBenchError


@pytest.mark.parametrize("path", ["/home/me/pets", "pets", "./pets/", "../{here}/pets", "pets/../pets"])
def test_a_folder_goes_by_its_own_name(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name("imagefolder:" + path.format(here=tmp_path.name)) == "imagefolder:pets"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (".", "here"),
        ("~/pets", "pets"),
        ("link", "link"),
        ("/", "images"),
        ("a\nb", "a_b"),
        (os.fsdecode(b"caf\xe9"), "caf_"),
        ("cafe\u0301", "caf\u00e9"),
        ("/home/me/pets@0123abcd", "pets_0123abcd"),
    ],
)
def test_every_name_can_be_written(path: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("link").symlink_to(tmp_path)
    assert dataset_name(f"imagefolder:{path}") == f"imagefolder:{name}"


def test_a_name_in_a_record_has_a_fingerprint_and_stays_as_it_is() -> None:
    recorded = recorded_name("imagefolder:pets", "0123abcd" * 4)
    assert recorded == "imagefolder:pets@0123abcd"
    assert is_recorded_folder(recorded)
    assert not is_recorded_folder("imagefolder:./pets@0123abcd")
    assert (dataset_name(recorded), own_name(recorded)) == (recorded, "imagefolder:pets")
    assert recorded_name(recorded, "0123abcd" * 4) == recorded
    assert (recorded_name("digits", "0123abcd"), own_name("digits")) == ("digits", "digits")
    with pytest.raises(DDBenchError, match=r"not .* images of imagefolder:pets@0123abcd: .* fingerprint 00000000"):
        recorded_name(recorded, "0" * 32)


@pytest.mark.parametrize(
    ("reference", "same"),
    [
        ("imagefolder:pets", True),
        ("imagefolder:/home/me/pets/", True),
        ("imagefolder:pets@0123abcd", True),
        ("imagefolder:pets@ffffffff", False),
        ("imagefolder:cats", False),
        ("pets", False),
    ],
)
def test_an_option_selects_by_name_and_by_fingerprint_if_it_has_one(reference: str, same: bool) -> None:
    assert refers_to(reference, "imagefolder:pets@0123abcd") is same
