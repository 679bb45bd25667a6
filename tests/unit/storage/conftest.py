"""Hosts and folders on shared storage, for the tests of the remote cache and the remote folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ddbench.storage import remote_cache, remote_folder
from ddbench.storage.artifacts import digest_of
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from conftest import Storage

Built = tuple[dict[str, torch.Tensor], dict[str, Any]]
Build = Callable[[Checkpoint], Built]
Made = Callable[..., Build]


@pytest.fixture(scope="session")
def made() -> Made:
    """Makes a function that builds one tensor of a value."""

    def make(value: float, made_from: dict[str, str] | None = None) -> Build:
        def build(slot: Checkpoint) -> Built:
            tensors = {"x": torch.full((500,), value)}
            return tensors, {"content": digest_of(tensors), "made_from": made_from or {}}

        return build

    return make


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cache]:
    """Opens a cache in the local copy of a host, as a new process does. Its `messages` are the warnings."""

    def opened(name: str, place: str, force: tuple[str, ...] = ()) -> Cache:
        monkeypatch.setattr(remote_folder, "local_copies", lambda: tmp_path / name)
        messages: list[str] = []
        cache = remote_cache.open_cache(place, frozenset(force), messages.append)
        cache.messages = messages  # type: ignore[attr-defined]
        return cache

    return opened


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest, storage: Storage, tmp_path: Path) -> str:
    """A folder on an object store, and one where files are written beside and moved."""
    name = "ein Präfix, 日本"
    return storage.url(name) if request.param == "s3" else f"file://{tmp_path}/{name}"
