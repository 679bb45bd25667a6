"""Artifacts on shared storage, on a real S3-compatible server: fetched, published, checked."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.storage import remote_cache, remote_folder
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint
from ddbench.storage.remote_folder import RemoteFolder

if TYPE_CHECKING:
    from conftest import Shell, Storage
    from tests.unit.storage.conftest import Build, Built, Made


def refuse(slot: Checkpoint) -> Built:
    raise AssertionError("must not be built")


def messages_of(cache: Cache) -> list[str]:
    """The messages of a cache."""
    lines: list[str] = cache.messages  # type: ignore[attr-defined]
    return lines


def test_what_one_host_made_another_does_not_make_again(made: Made, host: Callable[..., Cache], place: str) -> None:
    first = host("a", place)
    assert not first.has("teacher", {"seed": 1})
    one = first.get("teacher", {"seed": 1}, made(1.5))
    second = host("b", place)
    assert second.place == place
    assert second.has("teacher", {"seed": 1})
    assert not second.path("teacher", {"seed": 1}).exists()
    assert second.get("teacher", {"seed": 1}, refuse).digest == one.digest
    third = host("c", place).read("teacher", one.key)
    assert third is not None
    assert torch.equal(third.tensors["x"], torch.full((500,), 1.5))
    assert (messages_of(first), messages_of(second)) == ([], [])
    # Without any of its local copies the first goes on as well.
    one.path.unlink()
    assert host("a", place).find("teacher", {"seed": 1}) is not None


def test_nothing_but_whole_artifacts_is_there(made: Made, host: Callable[..., Cache], place: str) -> None:
    cache = host("a", place)
    cache.get("teacher", {}, made(1))
    cache.get("distill", {}, lambda slot: (slot.save({}, {"step": 1}), made(2)(slot))[1])
    folder = RemoteFolder(place, cache.root)
    names = [each.name for stage in ("teacher", "distill", "checkpoints", "locks") for each in folder.files(stage)]
    assert names == [
        f"{path.parent.name}/{path.name}" for path in (cache.path("teacher", {}), cache.path("distill", {}))
    ]
    assert folder.pending_uploads() == []


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    "body": lambda data: data[:-30] + bytes([data[-30] ^ 1]) + data[-29:],
    "cut": lambda data: data[: len(data) // 2],
    "length": lambda data: b"\xff" * 8 + data[8:],
    "empty": lambda data: b"",
    "another": lambda data: b"",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_object_is_named_never_used_and_replaced(
    made: Made, host: Callable[..., Cache], storage: Storage, fault: str
) -> None:
    cache = host("a", storage.url())
    one = cache.get("teacher", {}, made(1))
    name = f"teacher/{one.key}.safetensors"
    sound = storage.objects()[name]
    broken = FAULTS[fault](sound)
    if fault == "another":
        other = cache.get("teacher", {"seed": 2}, made(2)).key
        broken = storage.objects()[f"teacher/{other}.safetensors"]
    storage.put(name, broken)
    new = host("b", storage.url())
    again = new.get("teacher", {}, made(1))
    assert again.content == one.content
    (line,) = messages_of(new)
    assert "teacher artifact renamed" in line
    assert storage.url() in line
    third = host("c", storage.url())
    assert third.get("teacher", {}, refuse).digest == again.digest
    assert messages_of(third) == []


def test_a_sound_local_copy_replaces_a_damaged_object(made: Made, host: Callable[..., Cache], storage: Storage) -> None:
    one = host("a", storage.url()).get("teacher", {}, made(1))
    name = f"teacher/{one.key}.safetensors"
    sound = storage.objects()[name]
    storage.put(name, sound.replace(one.digest[:8].encode(), b"00000000"))
    again = host("a", storage.url())
    assert again.get("teacher", {}, refuse).digest == one.digest
    assert [line.split(":")[0] for line in messages_of(again)] == ["damaged teacher artifact"]
    assert storage.objects()[name] == sound


@pytest.mark.parametrize("fault", ["header", "body", "cut", "empty"])
def test_a_damaged_local_copy_is_fetched_again(
    made: Made, host: Callable[..., Cache], storage: Storage, fault: str
) -> None:
    one = host("a", storage.url()).get("teacher", {}, made(1))
    one.path.write_bytes(FAULTS[fault](one.path.read_bytes()))
    again = host("a", storage.url())
    assert again.get("teacher", {}, refuse).digest == one.digest
    assert [line.split(":")[0] for line in messages_of(again)] in ([], ["damaged teacher artifact renamed"])


def test_what_was_removed_there_comes_back_from_a_local_copy(
    made: Made, host: Callable[..., Cache], storage: Storage
) -> None:
    one = host("a", storage.url()).get("teacher", {}, made(1))
    name = f"teacher/{one.key}.safetensors"
    before = storage.objects()
    storage.files.rm_file(f"{storage.bucket}/here/{name}")
    assert host("a", storage.url()).get("teacher", {}, refuse).digest == one.digest
    assert storage.objects() == before


def test_what_is_made_anew_elsewhere_counts_not_the_old_local_copy(
    made: Made, host: Callable[..., Cache], storage: Storage
) -> None:
    def chain(cache: Cache, teacher: Build, value: float) -> tuple[str, str]:
        one = cache.get("teacher", {}, teacher)
        build = refuse if value < 0 else made(value, {one.name: one.content})
        return one.digest, cache.get("distill", {}, build).digest

    old = chain(host("a", storage.url()), made(1), 10)
    assert chain(host("b", storage.url()), refuse, -1) == old
    new = chain(host("a", storage.url(), force=("teacher",)), made(2), 20)
    assert not set(new) & set(old)
    behind = host("b", storage.url())
    assert chain(behind, refuse, -1) == new
    assert messages_of(behind) == []
    # The set's key alone, with a teacher here that is an old one: what it was made from is there.
    chain(host("a", storage.url(), force=("teacher",)), made(3), 30)
    actual = host("b", storage.url()).find("distill", {})
    assert actual is not None
    assert float(actual.tensors["x"][0]) == 30
    # A teacher that is made anew without what comes after it: what was made from the old one is named.
    host("a", storage.url(), force=("teacher",)).get("teacher", {}, made(4))
    outdated = host("c", storage.url())
    assert outdated.find("distill", {}) is None
    (line,) = messages_of(outdated)
    assert line.startswith("outdated distill artifact renamed")
    assert "made from another teacher/" in line


def test_of_two_hosts_that_make_the_same_the_second_takes_what_the_first_published(
    made: Made, host: Callable[..., Cache], storage: Storage
) -> None:
    first, second = host("a", storage.url()), host("b", storage.url())

    def overtaken(slot: Checkpoint) -> Built:
        first.get("teacher", {}, made(1))
        return made(2)(slot)

    assert float(second.get("teacher", {}, overtaken).tensors["x"][0]) == 1
    assert len(storage.objects()) == 1


def test_of_two_hosts_with_different_code_each_uses_its_own_artifact(
    made: Made, host: Callable[..., Cache], storage: Storage
) -> None:
    def by(digest: str, value: float) -> Build:
        def build(slot: Checkpoint) -> Built:
            tensors, meta = made(value)(slot)
            return tensors, {**meta, "source": {"digest": digest}}

        return build

    def accept(digest: str) -> Callable[[Mapping[str, Any]], bool]:
        return lambda meta: meta["source"]["digest"] == digest

    first, second = host("a", storage.url()), host("b", storage.url())

    def overtaken(slot: Checkpoint) -> Built:
        first.get("distill", {}, by("old", 1), accept("old"))
        return by("new", 2)(slot)

    artifact = second.get("distill", {}, overtaken, accept("new"))
    assert float(artifact.tensors["x"][0]) == 2
    third = host("c", storage.url())
    assert third.header(artifact.name).source == {"digest": "new"}
    assert float(third.get("distill", {}, refuse, accept("new")).tensors["x"][0]) == 2
    again = host("a", storage.url()).get("distill", {}, by("old", 1), accept("old"))
    assert float(again.tensors["x"][0]) == 1


def test_what_a_worker_made_is_taken_also_where_a_stage_is_forced(
    made: Made, host: Callable[..., Cache], storage: Storage
) -> None:
    driver = host("a", storage.url(), force=("teacher",))
    driver.get("teacher", {}, made(1))
    key = host("b", storage.url(), force=("teacher",)).get("teacher", {}, made(2)).key
    driver = host("a", storage.url(), force=("teacher",))
    assert not driver.has("teacher", {})
    assert not driver.adopt("teacher/" + "0" * 32)
    assert driver.adopt(f"teacher/{key}")
    assert float(driver.get("teacher", {}, refuse).tensors["x"][0]) == 2


@pytest.mark.parametrize("force", [(), ("teacher",)])
def test_what_could_not_be_published_is_kept_and_published_by_the_next_run(
    made: Made, host: Callable[..., Cache], storage: Storage, monkeypatch: pytest.MonkeyPatch, force: tuple[str, ...]
) -> None:
    monkeypatch.setattr(remote_folder, "RETRY_SECONDS", 0.0)
    if force:
        host("a", storage.url()).get("teacher", {}, made(0))
    cache = host("a", storage.url(), force=force)

    def then_fail(slot: Checkpoint) -> Built:
        storage.fails(True)
        return made(1)(slot)

    with pytest.raises(DDBenchError) as caught:
        cache.get("teacher", {}, then_fail)
    assert str(caught.value).startswith(f"{storage.url()} fails for ")
    assert f"the file is kept in {cache.root}: run the same command again to upload it" in str(caught.value)
    storage.fails(False)
    again = host("a", storage.url())
    again.get("statistics", {}, made(2))  # whatever the next run asks for
    assert float(host("b", storage.url()).get("teacher", {}, refuse).tensors["x"][0]) == 1
    assert again.remote.pending_uploads() == []  # type: ignore[attr-defined]


def test_who_waits_for_the_storage_can_be_stopped_and_loses_nothing(
    made: Made, host: Callable[..., Cache], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_fail(slot: Checkpoint) -> Built:
        storage.fails(True)
        return made(1)(slot)

    monkeypatch.setattr(remote_folder.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(interruption.Stopped, match="SIGTERM"), interruption.handle_signals():
        host("a", storage.url()).get("teacher", {}, then_fail)
    storage.fails(False)
    host("a", storage.url()).get("teacher", {}, refuse)
    host("b", storage.url()).get("teacher", {}, refuse)


def test_a_bucket_that_may_only_be_read_is_read_and_says_so_in_a_line(
    made: Made, host: Callable[..., Cache], storage: Storage
) -> None:
    host("a", storage.url()).get("teacher", {}, made(1))
    no = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{storage.bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [no]})
    storage.files.call_s3("put_bucket_policy", Bucket=storage.bucket, Policy=policy)
    cache = host("b", storage.url())
    cache.get("teacher", {}, refuse)
    with pytest.raises(DDBenchError) as caught:
        cache.get("statistics", {}, made(2))
    assert str(caught.value).startswith(f"{storage.url()}: permission denied: ")
    assert f"kept in {cache.root}" in str(caught.value)
    assert len(storage.objects()) == 1
    storage.files.call_s3("delete_bucket_policy", Bucket=storage.bucket)
    host("b", storage.url()).get("statistics", {}, refuse)
    assert len(storage.objects()) == 2


def test_ls_and_prune_speak_of_what_is_there(
    made: Made, shell: Shell, storage: Storage, host: Callable[..., Cache]
) -> None:
    one = host("a", storage.url()).get("teacher", {}, made(1))
    cache_again = remote_cache.open_cache(storage.url())
    two = cache_again.get("statistics", {}, made(2))
    Checkpoint(cache_again.root / "checkpoints" / "distill" / f"{'a' * 32}.safetensors").save({}, {})
    listed = shell("cache", "ls", "--cache-dir", storage.url()).out
    rows = {line.split()[1]: line.split()[-1] for line in listed.splitlines()[2:-2]}
    assert rows == {one.key: "shared", two.key: "shared", "a" * 32: "here"}
    cache_again.get("teacher", {}, refuse)
    outcome = shell("cache", "prune", "--stage", "teacher", "--cache-dir", storage.url())
    assert outcome.out.startswith("removed 1 files")
    assert list(storage.objects()) == [f"statistics/{two.key}.safetensors"]
    assert not cache_again.path("teacher", {}).exists()
    assert shell("cache", "prune", "--older-than", "0", "--cache-dir", storage.url()).out.startswith("removed 2 files")
    assert storage.objects() == {}
    assert list(cache_again.root.rglob("*.safetensors")) == []


def test_what_a_killed_writer_left_beside_goes_with_prune(
    made: Made, tmp_path: Path, host: Callable[..., Cache]
) -> None:
    place = f"file://{tmp_path}/there"
    cache = host("a", place)
    path = tmp_path / "there" / "teacher" / f".{cache.get('teacher', {}, made(1)).key}.safetensors.00ff00ff.partial"
    path.write_bytes(b"half")
    assert host("a", place).prune(frozenset(), 3600) == (0, 0)
    os.utime(path, (0, 0))
    assert host("a", place).prune(frozenset(), 3600) == (1, 4)
    assert not path.exists()


def test_prune_deletes_artifacts_only(made: Made, host: Callable[..., Cache], storage: Storage) -> None:
    """Results and the marks of pending uploads stay."""
    cache = host("a", storage.url())
    cache.get("teacher", {}, made(1))
    storage.put("records/random-digits-ipc1-0123abcd.json", b"{}")
    mark = cache.root / "unpublished" / f"statistics%2F{'0' * 32}.safetensors"
    mark.touch()
    assert [row["stage"] for row in cache.entries()] == ["teacher"]
    assert cache.prune(frozenset(), older_than=0)[0] == 1
    assert list(storage.objects()) == ["records/random-digits-ipc1-0123abcd.json"]
    assert mark.exists()
