"""Artifacts: found again, never damaged, never half-written, computed once."""

import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddbench.core import files
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

DEPENDS = {"seed": 1, "nested": {"b": [1, 2.5], "a": "x"}}


def build(checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return {"x": torch.arange(1000, dtype=torch.float32), "empty": torch.zeros(0, 3)}, {"note": "hello"}


def refuse(checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    raise AssertionError("must not be built")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_key_ignores_order_and_sees_every_change(tree: dict[str, Any]) -> None:
    assert key_of(dict(reversed(tree.items()))) == key_of(tree)
    assert key_of({**tree, "one more": 1}) != key_of(tree)


def test_second_get_reads_what_the_first_built(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.get("teacher", DEPENDS, build)
    second = Cache(tmp_path).get("teacher", DEPENDS, refuse)
    assert second.digest == first.digest
    assert second.meta == {"note": "hello"}
    assert torch.equal(second.tensors["x"], torch.arange(1000, dtype=torch.float32))
    assert Cache(tmp_path).find("teacher", {**DEPENDS, "seed": 2}) is None
    assert Cache(tmp_path).find("distill", DEPENDS) is None


def test_an_artifact_that_is_not_accepted_is_renamed_and_built_again(tmp_path: Path) -> None:
    def version(number: int) -> Callable[[Checkpoint], tuple[dict[str, torch.Tensor], dict[str, Any]]]:
        return lambda checkpoint: ({"x": torch.tensor(number)}, {"source": {"digest": str(number)}})

    messages: list[str] = []
    for number in (1, 2):
        cache = Cache(tmp_path, warn=messages.append)
        artifact = cache.get("distill", DEPENDS, version(number), lambda meta: meta["source"]["digest"] == "2")
        assert cache.header(artifact.name).source == {"digest": str(number)}
    again = Cache(tmp_path, warn=messages.append)
    assert int(again.get("distill", DEPENDS, refuse, lambda meta: True).tensors["x"]) == 2
    assert again.header("distill/absent").digest is None
    assert messages == []
    assert len(list(tmp_path.glob("distill/*.outdated-*"))) == 1


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.7, 0.999])
def test_one_flipped_byte_is_found_named_and_recomputed(tmp_path: Path, fraction: float) -> None:
    path = Cache(tmp_path).get("teacher", DEPENDS, build).path
    data = bytearray(path.read_bytes())
    data[int(fraction * len(data))] ^= 0x10
    path.write_bytes(bytes(data))
    warnings: list[str] = []
    again = Cache(tmp_path, warn=warnings.append).get("teacher", DEPENDS, build)
    assert torch.equal(again.tensors["x"], torch.arange(1000, dtype=torch.float32))
    assert len(warnings) == 1
    assert path.name in warnings[0]


def test_truncated_artifact_is_recomputed(tmp_path: Path) -> None:
    path = Cache(tmp_path).get("teacher", DEPENDS, build).path
    os.truncate(path, path.stat().st_size // 2)
    warnings: list[str] = []
    Cache(tmp_path, warn=warnings.append).get("teacher", DEPENDS, build)
    assert len(warnings) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (-1, "its content is not what was written; check the disk"),
        (0, rf"safetensors {re.escape(version('safetensors'))}: "),  # not the disk: the reader says why
    ],
)
def test_an_artifact_that_cannot_be_read_back_names_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, words: str
) -> None:
    @contextlib.contextmanager
    def one_bit_flips(path: Path) -> Iterator[None]:
        yield
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    monkeypatch.setitem(files.write_hooks, tmp_path, one_bit_flips)
    warned: list[str] = []
    with pytest.raises(DDBenchError, match=rf"\.safetensors was written but cannot be used: {words}"):
        Cache(tmp_path, warn=warned.append).get("teacher", {}, build)
    (line,) = warned
    assert "damaged teacher artifact renamed" in line
    assert not list((tmp_path / "teacher").glob("*.safetensors"))


@pytest.mark.slow
def test_checkpoint_replaced_while_it_is_read_is_not_damaged(tmp_path: Path) -> None:
    """Where no lock holds, as between hosts: another process saves on at the same place."""
    messages: list[str] = []
    checkpoint = Checkpoint(tmp_path / "slot.safetensors", messages.append)
    checkpoint.save({"x": torch.zeros(1)}, {"step": 0})
    code = (
        "import sys, torch; from pathlib import Path; from ddbench.storage.cache import Checkpoint\n"
        "slot = Checkpoint(Path(sys.argv[1]))\n"
        "for step in range(10**9): slot.save({'x': torch.full((step % 7 + 1,), float(step))}, {'step': step})"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(checkpoint.path)]) as other:
        try:
            steps: set[int] = set()
            while len(steps) < 300:
                actual = checkpoint.load()
                assert actual is not None, messages
                assert (actual[0]["x"] == actual[1]["step"]).all()
                steps.add(actual[1]["step"])
        finally:
            other.kill()
    assert messages == []


def test_damaged_checkpoint_is_set_aside(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    checkpoint.save({"x": torch.ones(5)}, {"step": 3})
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[1] == {"step": 3}
    os.truncate(checkpoint.path, 20)
    assert checkpoint.load() is None
    assert not checkpoint.path.exists()


def test_a_forced_stage_is_built_anew_once(tmp_path: Path) -> None:
    for stage in ("data", "statistics", "distill"):
        Cache(tmp_path).get(stage, DEPENDS, build)
    forced = Cache(tmp_path, force=frozenset({"statistics"}))
    assert forced.has("data", DEPENDS)
    assert not forced.has("statistics", DEPENDS)
    assert forced.has("distill", DEPENDS)
    forced.get("statistics", DEPENDS, build)
    forced.get("statistics", DEPENDS, refuse)


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Cache(tmp_path).get("teacher", DEPENDS, refuse)
    assert not list((tmp_path / "teacher").glob("*"))


def test_cache_on_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DDBenchError, match="cannot write to"):
        Cache(tmp_path / "file").get("teacher", DEPENDS, build)


def _count(root: Path, log: Path) -> None:
    def slow(checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        with log.open("a") as handle:
            handle.write("built\n")
        return build(checkpoint)

    Cache(root).get("teacher", DEPENDS, slow)


@pytest.mark.slow
def test_many_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(tmp_path / "c", tmp_path / "log")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_force_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    def stopped(checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        checkpoint.save({}, {"step": 3})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).get("distill", DEPENDS, stopped)
    actual: list[object] = []

    def look(checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        actual.append(checkpoint.load())
        return build(checkpoint)

    Cache(tmp_path, force=frozenset({"distill"})).get("distill", DEPENDS, look)
    assert actual == [None]


def test_a_checkpoint_that_outlived_its_artifact_goes(tmp_path: Path) -> None:
    """Killed between the two, a run leaves both."""
    path = Cache(tmp_path).get("teacher", DEPENDS, build).path
    checkpoint = Checkpoint(tmp_path / "checkpoints" / "teacher" / path.name)
    checkpoint.save({}, {"step": 3})  # newer than the artifact: another process makes it anew
    Cache(tmp_path).get("teacher", DEPENDS, refuse)
    assert checkpoint.path.exists()
    before = path.stat().st_mtime_ns - 1
    os.utime(checkpoint.path, ns=(before, before))
    Cache(tmp_path).get("teacher", DEPENDS, refuse)
    assert not checkpoint.path.exists()


def test_prune_deletes_files_of_the_cache_only(tmp_path: Path) -> None:
    """The folder may hold results or weights too."""
    artifact = Cache(tmp_path).get("teacher", DEPENDS, build).path
    others = [tmp_path / "records" / "random-digits-ipc1-0123abcd.json", tmp_path / "weights" / "teacher.safetensors"]
    for path in others:
        path.parent.mkdir()
        path.touch()
    assert [row["path"] for row in Cache(tmp_path).entries()] == [artifact]
    assert Cache(tmp_path).prune(frozenset(), older_than=0)[0] == 1
    assert all(path.exists() for path in others)
