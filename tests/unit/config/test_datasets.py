"""Names of datasets: no path of a person is in them, and equal images have equal fingerprints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ddbench.config.datasets import dataset_name, hub_reference, is_recorded_folder, own_name, recorded_name, refers_to
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
    ("reference", "parts", "name"),
    [
        ("hf:me/pets", ("me/pets", None, None, None), "hf:me/pets"),
        ("hf:me/pets@v1.0:train", ("me/pets", None, "v1.0", "train"), "hf:me/pets@v1.0:train"),
        ("hf:me/pets@refs/convert/parquet", ("me/pets", None, "refs/convert/parquet", None), None),
        ("hf:me/pets@main:train@0123abcd", ("me/pets", None, "main", "train"), None),
        ("hf:./data/pets", (None, "./data/pets", None, None), "hf:pets"),
        ("hf:/data/pets@0123abcd:test", (None, "/data/pets@0123abcd", None, "test"), "hf:pets_0123abcd:test"),
        ("hf:pets@0123abcd", (None, "pets", None, None), None),
        ("hf:pets:test@0123abcd", (None, "pets", None, "test"), None),
    ],
)
def test_names_of_the_hub(reference: str, parts: tuple[str | None, ...], name: str | None) -> None:
    hub = hub_reference(reference)
    assert (hub.repository, hub.folder, hub.revision, hub.split) == parts
    assert dataset_name(reference) == (name or reference)
    recorded = recorded_name(own_name(dataset_name(reference)), "0123abcd" * 4)
    assert is_recorded_folder(recorded)
    assert dataset_name(recorded) == recorded
    assert refers_to(reference, recorded)


@pytest.mark.parametrize("reference", ["hf:", "hf:pets", "hf:me/pets/more", "hf:me/pets:", "hf:me/pets@", "hf:a b/c"])
def test_other_names_after_hf_are_refused(reference: str) -> None:
    with pytest.raises(DDBenchError, match=f"dataset '{reference}': expected hf:OWNER/NAME, "):
        dataset_name(reference)


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
