"""One byte that is not what was written, anywhere: found, named, set aside, and computed again to the same digests."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.results import records
from ddbench.storage.artifacts import digest_of, read_tensors, write_tensors
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from conftest import Outcome, Shell

STAGES = ("data", "teacher", "statistics", "method", "distill", "labels", "measure", "evaluate")
CELL = ("--method", "wmdd", "--dataset", "digits", "--ipc", "1")
QUICK = ("evaluator.labels=stored", "method.steps=4", "evaluator.epochs=1", "distill.checkpoint_every=1")
RUN = (*CELL, *(word for setting in QUICK for word in ("--set", setting)))
MADE_WHEN = {"created", "seconds", "seconds_per_iteration", "built", "peak_memory", "digest", "git_commit"}


@dataclass(frozen=True)
class Made:
    """A finished run with stored labels, and a checkpoint that a stopped run of the same unit left beside it."""

    shell: Shell
    first: Outcome
    checkpoint: Path

    def artifacts(self, stage: str) -> list[Path]:
        return sorted((self.shell.cache / stage).glob("*.safetensors"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Made:
    shell = shell_in(tmp_path_factory.mktemp("made"))
    first = shell.run(*RUN)
    return Made(shell, first, stopped(shell.cache, tmp_path_factory.mktemp("stopped")))


def stopped(cache: Path, folder: Path) -> Path:
    """The checkpoint of a unit that was stopped before it was done, in a copy of the cache."""
    for stage in ("data", "teacher", "statistics", "method"):
        shutil.copytree(cache / stage, folder / stage)
    registry = PluginRegistry()
    request = Request(
        methods=("wmdd",),
        datasets=("digits",),
        ipcs=(1,),
        recipes=("smoke",),
        image_size=8,
        device="cpu",
        precision="fp32",
        assignments=("teacher.batch_size=256", *QUICK),
    )
    (cell,) = experiments(request, registry)
    workspace = Workspace(registry, Cache(folder), None)

    def stop(event: Event) -> None:
        if event.stage == "distill" and event.kind == "step":  # told after the last step, saved after each before it
            raise KeyboardInterrupt

    workspace.emit = stop
    pipeline = Pipeline(workspace, cell)
    with pytest.raises(KeyboardInterrupt):
        pipeline.artifact("distill", 0)
    (path,) = (folder / "checkpoints" / "distill").glob("*.safetensors")
    assert (cache / "distill" / path.name).exists()  # that of the very unit
    return path


@pytest.fixture
def copy(made: Made, tmp_path: Path, shell_in: Callable[[Path], Shell]) -> Shell:
    """The finished run in a folder of its own, to be damaged."""
    shutil.copytree(made.shell.root, tmp_path / "copy")
    return shell_in(tmp_path / "copy")


def the_record(shell: Shell) -> Path:
    (path,) = (shell.results / "records").glob("*.json")
    return path


def result(shell: Shell) -> dict[str, Any]:
    """The record without the times and the memory of its making."""
    return {name: value for name, value in json.loads(the_record(shell).read_text()).items() if name not in MADE_WHEN}


def set_aside(outcome: Outcome) -> list[str]:
    """What was set aside: fault and stage, in the order in which it was said."""
    return [" ".join(line.split()[:2]) for line in outcome.errors if " renamed: " in line]


# -- damage -----------------------------------------------------------------------------------------------------


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content of a safetensors file with one fault, drawn among those that disks, copies and crashes make."""
    header_end = 8 + int.from_bytes(content[:8], "little")
    end, middle = len(content), (header_end + len(content)) // 2
    kind = draw.choice(("length", "header", "edge", "anywhere", "cut", "longer", "zeros"))
    if kind == "cut":
        return content[: draw.choice((0, 4, 8, 8 + header_end // 2, header_end - 1, middle, end - 1))][: end - 1]
    if kind == "longer":
        return content + draw.choice((b"\0", b" ", bytes(8), bytes(4096), content))
    if kind == "zeros":  # a block that never reached the disk
        start = draw.randrange(0, end, 512)
        blank = content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]
        if blank != content:
            return blank
    edges = (8, header_end - 1, min(header_end, end - 1), end - 1)
    places = {"length": range(8), "header": range(8, header_end), "edge": edges}
    flipped = bytearray(content)
    flipped[draw.choice(places.get(kind, range(end)))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def test_every_damage_of_every_artifact_is_found_named_and_set_aside(
    made: Made, copy: Shell, counted: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    draw = random.Random(0)
    slot = copy.cache / "checkpoints" / "distill" / made.checkpoint.name
    slot.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made.checkpoint, slot)
    files = {stage: sorted((copy.cache / stage).glob("*.safetensors")) for stage in STAGES} | {"checkpoint": [slot]}
    sound = {path: path.read_bytes() for paths in files.values() for path in paths}
    needs: dict[Path, dict[str, Any]] = {}
    for path in (path for stage in STAGES for path in files[stage]):
        content = read_tensors(path)
        assert content is not None
        needs[path] = content[1]["depends_on"]
    count = counted(300, 10_000)
    for number in range(count):
        kind = [*files][number % len(files)]
        path = draw.choice(files[kind])
        content = damaged(sound[path], draw)
        assert content != sound[path]
        path.write_bytes(content)
        messages: list[str] = []
        if kind == "checkpoint":
            assert Checkpoint(path, messages.append).load() is None, number
        else:
            assert Cache(copy.cache, warn=messages.append).find(kind, needs[path]) is None, number
        (line,) = messages
        assert line.startswith(f"damaged {kind}")
        assert not path.exists()
        (aside,) = path.parent.glob(f"{path.name}.damaged-*")
        assert str(aside) in line
        assert aside.read_bytes() == content
        aside.unlink()
        path.write_bytes(sound[path])
    tally(f"artifacts damaged: {count}, of {len(files)} kinds: all found, named and set aside")


def test_no_byte_of_a_header_is_without_meaning(
    made: Made, tmp_path: Path, counted: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    """Every byte replaced: found, or (a tab or a line's end for a blank) what is read is the same to the last bit."""
    draw, detected, harmless = random.Random(1), 0, 0
    for stage in ("evaluate", "method"):  # without tensors, and with some
        source = made.artifacts(stage)[0]
        content, sound, path = source.read_bytes(), read_tensors(source), tmp_path / "x.safetensors"
        assert sound is not None
        path.write_bytes(content)
        header_end = 8 + int.from_bytes(content[:8], "little")
        with path.open("r+b", buffering=0) as handle:
            for place in range(header_end):
                others = [value for value in range(256) if value != content[place]]
                for value in draw.sample(others, counted(1, len(others))):
                    handle.seek(place)
                    handle.write(bytes([value]))
                    read = read_tensors(path)
                    detected += read is None
                    if read is not None:
                        harmless += 1
                        assert content[place : place + 1] == b" "
                        assert bytes([value]).isspace()
                        assert read[1:] == sound[1:]
                        assert read[0].keys() == sound[0].keys()
                        assert all(torch.equal(tensor, sound[0][name]) for name, tensor in read[0].items())
                handle.seek(place)
                handle.write(content[place : place + 1])
    tally(f"bytes of headers replaced: {detected} found, {harmless} blanks by other blanks, read the same")


@pytest.mark.parametrize("stage", [*STAGES, "checkpoint"])
def test_what_is_damaged_is_computed_again_and_nothing_else(made: Made, copy: Shell, stage: str) -> None:
    draw = random.Random(stage)
    if stage == "checkpoint":
        path = copy.cache / "checkpoints" / "distill" / made.checkpoint.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.checkpoint, path)
    else:
        path = draw.choice(sorted((copy.cache / stage).glob("*.safetensors")))
    path.write_bytes(damaged(path.read_bytes(), draw))
    before, expected = copy.files("cache"), result(copy)
    gone = {"checkpoint": "distill", "method": "distill", "labels": "evaluate", "data": "evaluate"}.get(stage)
    if gone:  # these are read where something is made from them, and else not at all
        shutil.rmtree(copy.cache / gone)
    outcome = copy.run(*RUN)
    assert set_aside(outcome) == [f"damaged {stage}"]
    assert path.name in outcome.err
    assert result(copy) == expected
    after = copy.files("cache")
    changed = {Path(name) for name in before | after if before.get(name) != after.get(name) and ".damaged-" not in name}
    assert {copy.root / name for name in changed if name.parts[1] != gone} == {path}
    assert set_aside(copy.run(*RUN)) == []


# -- records ----------------------------------------------------------------------------------------------------


def test_every_damage_of_a_record_is_found_or_says_the_same(
    made: Made, tmp_path: Path, counted: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    source = the_record(made.shell)
    content, sound, path = source.read_bytes(), records.read(source), tmp_path / source.name
    draw, detected = random.Random(2), 0
    count = counted(300, 10_000)
    for _ in range(count):
        changed = bytearray(content)
        if draw.random() < 0.2:
            del changed[draw.randrange(len(changed)) :]
        else:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            read = records.read(path)
        except DDBenchError as error:
            messages = str(error)
            detected += 1
        else:
            messages = str(path)
            assert read == sound
        assert str(path) in messages
    same = count - detected
    assert same < 0.02 * count
    tally(f"records damaged: {count}, {detected} refused, {same} with the very same values (as 1E-5 for 1e-5)")


def test_a_number_that_was_improved_by_hand_is_in_no_table_and_comes_back(made: Made, copy: Shell) -> None:
    path = the_record(copy)
    sound = path.read_bytes()
    top1 = json.loads(sound)["metrics"]["top1_last"]
    path.write_bytes(sound.replace(f'"top1_last": {top1}'.encode(), b'"top1_last": 99.5'))
    assert path.read_bytes() != sound
    shown = copy("show")
    assert shown.code == 2
    assert f"{path.name} is not a record: damaged, or changed by hand" in shown.err
    listed = copy("records")
    assert "99.5" not in listed.out
    assert path.name in listed.err
    assert set_aside(copy.run(*RUN)) == []
    assert path.read_bytes() == sound


# -- what is sound, and another one -------------------------------------------------------------------------------


def test_an_artifact_under_the_name_of_another_is_never_used(
    copy: Shell, counted: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    """Another class, another stage, and the same but for a version, the order of the classes, or the images."""
    draw = random.Random(3)
    paths = [path for stage in STAGES for path in sorted((copy.cache / stage).glob("*.safetensors"))]
    needs = {path: content[1]["depends_on"] for path in paths if (content := read_tensors(path))}
    wanted: list[tuple[Path, str, dict[str, Any]]] = [
        (source, target.parent.name, needs[target])
        for source, target in (draw.sample(paths, 2) for _ in range(counted(50, 1000)))
    ]
    for path in paths:
        tree = needs[path]
        real = tree.get("real", tree)
        for name in ("method_version", "evaluator_version", "version", "versions"):
            if name in tree:
                wanted.append((path, path.parent.name, {**tree, name: "another"}))
        if "classes" in real:
            turned = {**real, "classes": real["classes"][::-1]}
            wanted.append((path, path.parent.name, {**tree, "real": turned} if "real" in tree else turned))
        for data in (tree.get("data"), tree):
            if data and "fingerprint" in data:
                other = {**data, "fingerprint": "another"}
                wanted.append((path, path.parent.name, {**tree, "data": other} if data is not tree else other))
    for source, stage, depends_on in wanted:
        messages: list[str] = []
        cache = Cache(copy.cache, warn=messages.append)
        path = cache.path(stage, depends_on)
        sound, content = path.read_bytes() if path.exists() else None, source.read_bytes()
        path.write_bytes(content)
        assert cache.find(stage, depends_on) is None
        (line,) = messages
        assert line.startswith(f"misnamed {stage} artifact renamed: {path}.misnamed-")
        assert not path.exists()
        if sound is not None:
            path.write_bytes(sound)
        path.write_bytes(content)
        assert cache.read(stage, path.stem) is None  # as `export` reads it
        assert len(messages) == 2
        if sound is not None:
            path.write_bytes(sound)
    tally(f"artifacts under another's name: {len(wanted)}, none used")


def test_two_artifacts_that_changed_places_are_computed_again(copy: Shell) -> None:
    expected = result(copy)
    for stage in ("statistics", "method"):
        one, two = sorted((copy.cache / stage).glob("*.safetensors"))[:2]
        (one.parent / "between").write_bytes(one.read_bytes())
        two.replace(one)
        (one.parent / "between").replace(two)
    (copy.cache / "distill").rename(copy.root / "away")  # intermediates are asked for where a unit is made
    outcome = copy.run(*RUN)
    assert sorted(set_aside(outcome)) == ["misnamed method"] * 2 + ["misnamed statistics"] * 2
    assert result(copy) == expected


def test_a_checkpoint_of_another_unit_is_not_gone_on_from(made: Made, tmp_path: Path) -> None:
    messages: list[str] = []
    path = Path(shutil.copy(made.checkpoint, tmp_path / "0123456789abcdef.safetensors"))
    assert Checkpoint(path, messages.append).load() is None
    assert messages[0].startswith(f"misnamed checkpoint renamed: {path}.misnamed-")
    assert Checkpoint(made.checkpoint).load() is not None


# -- what stands upstream -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # said where a kernel is chosen
def test_what_was_made_from_a_teacher_with_other_bits_is_made_anew(
    copy: Shell, tmp_path: Path, shell_in: Callable[[Path], Shell], counted: Callable[[int, int], int]
) -> None:
    """The teacher is damaged, and trained again where convolutions add up in another order."""
    (path,) = (copy.cache / "teacher").glob("*.safetensors")
    before = read_tensors(path)
    assert before is not None
    old = {name: tensor.clone() for name, tensor in before[0].items()}
    os.truncate(path, 1000)
    with torch.backends.mkldnn.flags(enabled=False):
        outcome = copy.run(*RUN)
        assert set_aside(copy.run(*RUN)) == []
        if counted(0, 1):
            again = shell_in(tmp_path)
            again.run(*RUN)
            assert result(copy) == result(again)  # nothing of the old teacher is left in the number
    after = read_tensors(path)
    assert after is not None
    assert any(not torch.equal(tensor, after[0][name]) for name, tensor in old.items())
    actual = set_aside(outcome)
    stale = {"statistics": 10, "method": 10, "distill": 1, "labels": 1, "measure": 1, "evaluate": 1}
    assert actual[0] == "damaged teacher"
    assert {stage: actual.count(f"outdated {stage}") for stage in stale} == stale
    assert len(actual) == 1 + sum(stale.values())
    assert f"(it was made from another teacher/{path.stem})" in outcome.err


def test_what_was_made_from_other_pixels_is_made_anew(copy: Shell) -> None:
    """One pixel of one training image is decoded to another value, as by another version of a library."""
    read = {path: content for path in (copy.cache / "data").glob("*.safetensors") if (content := read_tensors(path))}
    train = {"split": "train", "part": "pixels"}
    ((path, (tensors, meta, _)),) = (
        (path, content) for path, content in read.items() if train.items() <= content[1]["depends_on"].items()
    )
    assert meta["meta"]["content"] == digest_of(tensors)
    other = {name: tensor.clone() for name, tensor in tensors.items()}
    other["pixels"][0] ^= 255
    write_tensors(path, other, {**meta, "meta": {"content": digest_of(other)}})
    outcome = copy.run(*RUN)
    stale = {"teacher": 1, "statistics": 10, "method": 10, "distill": 1, "labels": 1, "measure": 1, "evaluate": 1}
    assert Counter(set_aside(outcome)) == {f"outdated {stage}": count for stage, count in stale.items()}
    assert f"(it was made from another data/{path.stem})" in outcome.err
    assert set_aside(copy.run(*RUN)) == []


def test_a_cache_of_an_older_version_is_used_as_it_is(copy: Shell) -> None:
    """Its artifacts do not tell what they were made from, nor their content.

    The check after an evaluation that uses the teacher reads the teacher.
    """
    for path in (path for stage in STAGES for path in (copy.cache / stage).glob("*.safetensors")):
        content = read_tensors(path)
        assert content is not None
        assert {"made_from", "content"} <= content[1]["meta"].keys() or path.parent.name == "data"
        older = {name: value for name, value in content[1]["meta"].items() if name not in ("made_from", "content")}
        write_tensors(
            path, {name: tensor.clone() for name, tensor in content[0].items()}, {**content[1], "meta": older}
        )
    before, record = copy.files("cache"), the_record(copy).read_bytes()
    assert set_aside(copy.run(*RUN)) == []
    assert copy.files("cache") == before
    assert the_record(copy).read_bytes() == record
    (copy.cache / "evaluate").rename(copy.root / "away")
    assert set_aside(copy.run(*RUN)) == []
    (path,) = (copy.cache / "evaluate").glob("*.safetensors")
    made_anew = read_tensors(path)
    assert made_anew is not None
    assert {name.split("/")[0] for name in made_anew[1]["meta"]["made_from"]} == {"distill", "labels", "teacher"}
