"""Checkpoints: loaded as saved, set aside when unusable, cleared when their artifact is stored."""

import os
from pathlib import Path

import torch

from ddbench.storage.checkpoint import Checkpoint

STATE = {"weight": torch.arange(3.0)}


def test_a_state_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.load() is None
    checkpoint.save(STATE, {"step": 3})
    checkpoint.save(STATE, {"step": 4})
    actual = checkpoint.load()
    assert actual is not None
    assert actual[1] == {"step": 4}
    assert torch.equal(actual[0]["weight"], STATE["weight"])
    checkpoint.clear()
    assert checkpoint.load() is None
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_misnamed_checkpoint_is_set_aside_with_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    checkpoint = Checkpoint(tmp_path / "a.safetensors", warnings.append)
    checkpoint.path.write_bytes(b"nothing")
    assert checkpoint.load() is None
    other = Checkpoint(tmp_path / "b.safetensors")
    other.save(STATE, {})
    other.path.rename(checkpoint.path)
    assert checkpoint.load() is None
    assert [warning.split(" renamed: ")[0] for warning in warnings] == ["damaged checkpoint", "misnamed checkpoint"]
    assert not checkpoint.path.exists()


def test_a_checkpoint_older_than_its_artifact_is_cleared(tmp_path: Path) -> None:
    checkpoint, artifact = Checkpoint(tmp_path / "a.safetensors"), tmp_path / "artifact"
    artifact.touch()
    checkpoint.save(STATE, {})
    os.utime(artifact, ns=(0, checkpoint.path.stat().st_mtime_ns - 1))
    checkpoint.clear_if_older(artifact)
    assert checkpoint.path.exists()
    checkpoint.clear_if_older(tmp_path / "missing")
    assert checkpoint.path.exists()
    os.utime(artifact, ns=(0, checkpoint.path.stat().st_mtime_ns))
    checkpoint.clear_if_older(artifact)
    assert not checkpoint.path.exists()
