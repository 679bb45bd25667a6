"""Folders on shared storage, on a real S3-compatible server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.storage import remote_folder, remote_results
from ddbench.storage.artifacts import read_tensors
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint
from ddbench.storage.remote_folder import RemoteFolder

if TYPE_CHECKING:
    from conftest import Shell, Storage
    from tests.unit.storage.conftest import Built, Made


def test_storage_that_fails_for_a_while_is_waited_for(
    made: Made, host: Callable[..., Cache], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_folder, "WARN_AFTER", 0.6)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        storage.fails(len(pauses) < 3)

    monkeypatch.setattr(remote_folder.time, "sleep", sleep)
    cache = host("a", storage.url())

    def then_fail(slot: Checkpoint) -> Built:
        storage.fails(True)
        return made(1)(slot)

    cache.get("teacher", {}, then_fail)
    assert pauses == [0.5, 1.0, 2.0]
    first, second = cache.messages  # type: ignore[attr-defined]
    assert first.startswith(f"{storage.url()} fails (")
    assert "retrying for 5 minutes" in first
    assert second == f"{storage.url()} works again"
    assert len(storage.objects()) == 1


HOSTILE = ("../../up.json", "../up.json", "/etc/x.json", "a/../../../up.json", "..\\up.json", ".")


def test_names_of_a_listing_never_lead_out_of_the_local_copy(storage: Storage, tmp_path: Path) -> None:
    for name in HOSTILE:
        storage.put(f"records/{name}", b"{}")
        storage.put(f"teacher/{name}", b"{}")
    storage.put("records/sound.json", b"{}")
    copy = remote_results.open_results(storage.url())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [copy / "records" / "sound.json"]
    folder = RemoteFolder(storage.url(), tmp_path / "copy")
    for name in ("../x", "/x", "a/../x", "a//x", "a/./x", ".."):
        with pytest.raises(DDBenchError, match="is not a valid file name"):
            folder.download(name)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("gs://bucket/x", "gs:// needs one more package: Please install gcsfs"),
        ("memory://x", "artifacts cannot be shared there"),
        ("nothing://x", "is not a URL that fsspec supports"),
        ("s3://", "contains no folder"),
        ("s3://no-such-bucket/x", "The specified bucket does not exist"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(shell: Shell, storage: Storage, url: str, line: str) -> None:
    arguments = ("--method", "random", "--dataset", "digits", "--ipc", "1", "--device", "cpu", "--recipe", "smoke")
    outcome = shell("run", *arguments, "--cache-dir", url)
    assert outcome.code == 2
    assert line in outcome.errors[-1]
    assert len(outcome.errors[-1]) < 1000
    assert "Traceback" not in outcome.err


def test_without_s3fs_a_line_says_what_to_install(
    shell: Shell, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # type: ignore[attr-defined]
    outcome = shell("cache", "ls", "--cache-dir", storage.url())
    assert outcome.code == 2
    assert outcome.errors == [f"ddbench: {storage.url()}: s3:// needs one more package: pip install 'ddbench[s3]'"]


def test_a_password_in_a_url_is_never_shown(tmp_path: Path) -> None:
    assert str(RemoteFolder(f"file://me:secret@{tmp_path}/x", tmp_path)) == f"file://{tmp_path}/x"


def test_an_object_is_what_a_file_is(made: Made, host: Callable[..., Cache], storage: Storage, tmp_path: Path) -> None:
    one = host("a", storage.url()).get("teacher", {}, made(1))
    (tmp_path / "x").write_bytes(storage.objects()[f"teacher/{one.key}.safetensors"])
    read = read_tensors(tmp_path / "x")
    assert read is not None
    assert read[2] == one.digest
