"""Artifact files: read back as written; keys and digests see every change."""

from pathlib import Path

import pytest
import torch

from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.storage.artifacts import digest_of, quarantine, read_tensors, write_tensors

TENSORS = {"x": torch.arange(6, dtype=torch.int16).view(2, 3), "empty": torch.zeros(0, 4), "one": torch.tensor(0.5)}


def test_tensors_and_metadata_are_read_back(tmp_path: Path) -> None:
    digest = write_tensors(tmp_path / "a.safetensors", TENSORS, {"epoch": 3, "names": ["ä"]})
    actual = read_tensors(tmp_path / "a.safetensors")
    assert actual is not None
    tensors, meta, stored = actual
    assert (meta, stored) == ({"epoch": 3, "names": ["ä"]}, digest)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert digest == digest_of(TENSORS, canonical_json(meta))


def test_a_missing_and_a_damaged_file_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert read_tensors(path) is None
    write_tensors(path, TENSORS, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert read_tensors(path) is None
    aside = quarantine(path)
    assert not path.exists()
    assert aside.exists()
    assert ".damaged" in aside.name


def test_the_digest_sees_names_types_shapes_and_bits() -> None:
    x = torch.zeros(4)
    changed = [{"y": x}, {"x": x.double()}, {"x": x.view(2, 2)}, {"x": torch.tensor([0.0, 0, 0, -0.0])}, {"x": x[:3]}]
    assert len({digest_of(tensors) for tensors in ({"x": x}, *changed)} | {digest_of({"x": x}, "meta")}) == 7
    strided = torch.arange(4.0).view(2, 2).T
    assert digest_of({"x": strided}) == digest_of({"x": strided.contiguous()})


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DDBenchError, match="cannot write to"):
        write_tensors(tmp_path / "file" / "a.safetensors", TENSORS, {})
