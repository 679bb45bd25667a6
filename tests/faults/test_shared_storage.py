"""Shared storage under faults: `kill -9` in the middle of publication leaves nothing half-published (a real server)."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ddbench.results import verified_json
from ddbench.storage import remote_cache
from ddbench.storage.artifacts import digest_of, read_tensors
from ddbench.storage.remote_folder import RemoteFolder

if TYPE_CHECKING:
    from conftest import Forked, Place, Small
    from tests.conftest import Storage

MEASURED = {"created", "seconds", "seconds_per_iteration", "built", "peak_memory", "git_commit", "digest"}


def published(storage: Storage, scratch: Path) -> dict[str, Any]:
    """Everything in the bucket, verified: the content of artifacts, what records say, the size of pictures."""
    objects: dict[str, Any] = {}
    for name, content in storage.objects().items():
        scratch.write_bytes(content)
        if name.endswith(".safetensors"):
            read = read_tensors(scratch)
            assert read is not None, name
            objects[name] = digest_of(read[0])
        elif name.endswith(".json"):
            message = verified_json.load(content.decode())
            objects[name] = {key: value for key, value in message.items() if key not in MEASURED}
        else:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                objects[name] = picture.size
    return objects


def uploads(storage: Storage) -> int:
    """How many uploads to the bucket were begun."""
    return sum(line.startswith(("PUT", "POST")) and f"/{storage.bucket}/" in line for line in storage.log())


def test_killed_while_it_publishes_nothing_half_is_there_and_the_same_command_ends_with_the_same_record(
    small: Small,
    place_at: Callable[[Path], Place],
    storage: Storage,
    tmp_path: Path,
    counted: Callable[[int, int], int],
    tally: Callable[[str], None],
    kill_moments: random.Random,
) -> None:
    def start(host: str) -> Forked:
        place = place_at(tmp_path / host)
        urls = ("--cache-dir", storage.url("here"), "--results-dir", storage.url("here"))
        environment = {**storage.environment, "XDG_CACHE_HOME": str(place.root)}
        return small.command(place, *small.arguments, *urls, environment=environment)

    at_once = [start("one host"), start("another")]
    assert [run.end() for run in at_once] == [0, 0]
    expected = published(storage, tmp_path / "scratch")
    names = {name.removesuffix(".safetensors"): content for name, content in expected.items()}
    assert small.alone.digests().items() <= names.items()
    assert {name: content for name, content in names.items() if name.startswith("records/")} == {
        f"records/{name}.json": record for name, record in small.alone.records().items()
    }

    trials, hit = counted(2, 60), Counter[str]()
    for number in range(trials):
        storage.fresh()
        storage.slow(True)
        host, last = f"killed {number}", kill_moments.randrange(1, len(expected) + 1)
        run = start(host)
        while uploads(storage) < last and run.end(block=False) is None:
            time.sleep(0.001)
        time.sleep(kill_moments.uniform(0, 0.02))
        run.kill()
        hit["the last" if run.code == 0 else storage.log()[-1].split("/")[3]] += 1
        there = published(storage, tmp_path / "scratch")
        assert there.items() <= expected.items(), f"upload {last}"
        storage.slow(False)
        # The same host goes on, or another one: its local copy is gone.
        again = start(kill_moments.choice([host, f"{host}, elsewhere"]))
        assert again.end() == 0, again.lines()
        assert published(storage, tmp_path / "scratch") == expected, f"upload {last}"
    shown = ", ".join(f"{folder} {times}" for folder, times in hit.most_common())
    tally(
        f"killed (kill -9) in {trials} publications to S3: every object verifies, {trials} same records; hit: {shown}"
    )


def test_killed_in_the_middle_of_a_long_upload_nothing_is_there(
    storage: Storage, counted: Callable[[int, int], int], tmp_path: Path, tally: Callable[[str], None]
) -> None:
    at_once, in_parts, draw = 8 * 2**20, 110 * 2**20, random.Random(0)

    def publish(size: int) -> None:
        cache = remote_cache.open_cache(storage.url())
        cache.get("teacher", {"size": size}, lambda slot: ({"x": torch.zeros(size, dtype=torch.uint8)}, {}))

    count = counted(2, 20)
    for number in range(count):
        storage.fresh()
        storage.slow(True)
        process = os.fork()
        if process == 0:
            publish((at_once, in_parts)[number % 2])
            os._exit(0)
        while not uploads(storage):
            assert os.waitpid(process, os.WNOHANG) == (0, 0)
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        time.sleep(0.1)  # until the server has dropped the rest of the upload
        assert storage.objects() == {}
    storage.slow(False)
    for size in (at_once, in_parts):
        publish(size)
    assert sorted(each.bytes > at_once for each in RemoteFolder(storage.url(), tmp_path).files("teacher")) == [True] * 2
    tally(f"killed (kill -9) in {count} uploads of 8 and 110 MB to S3: nothing of them is there")
