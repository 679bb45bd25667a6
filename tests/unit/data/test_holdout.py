"""Training images held out to be measured on: which, what is left, what the keys say, and what a run says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddbench.api.dataset import Report
from ddbench.config.schema import DataConfig
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data import images as images_module
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.data.holdout import hold_out
from ddbench.data.registry import ddbench_datasets, resolve_dataset
from ddbench.distillation.distilled_set import DistilledSet
from ddbench.pipeline.keys import Keys
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

if TYPE_CHECKING:
    from conftest import Shell

MakeFolder = Callable[..., Path]
SPECS = ddbench_datasets()


def load(name: str | Path, cache: Cache, holdout: float = 0.0, report: Report | None = None, **data: Any) -> Dataset:
    config = DataConfig(**{"image_size": 12, "stored_size": 16, **data}, holdout=holdout)
    spec = resolve_dataset(f"imagefolder:{name}" if isinstance(name, Path) else name, SPECS)
    return load_dataset(spec, config, None, cache, report)


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    share=st.floats(0, 1, exclude_max=True, allow_subnormal=False),
    smaller=st.floats(0, 1),
)
def test_of_every_class_its_share_and_nothing_is_lost(counts: list[int], share: float, smaller: float) -> None:
    labels = torch.repeat_interleave(torch.tensor(counts))
    names = [f"class {label}" for label in range(len(counts))]
    expected = [max(1, round(share * count)) for count in counts]
    if any(number == count for number, count in zip(expected, counts, strict=True)):
        with pytest.raises(DDBenchError, match=r"data\.holdout .* leaves none of the \d+ training images of class"):
            hold_out(labels, names, share)
        return
    kept, held = hold_out(labels, names, share)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))  # disjoint and complete
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(held, held.sort().values)
    assert torch.bincount(labels[held], minlength=len(counts)).tolist() == expected
    fewer = hold_out(labels, names, share * smaller)[1]
    assert set(fewer.tolist()) <= set(held.tolist())


def test_a_class_holds_out_the_same_images_whatever_the_other_classes_are() -> None:
    both = hold_out(torch.tensor([0] * 30 + [1] * 20), ["ant", "bee"], 0.2)[1]
    a, b = both[:6], both[6:]
    swapped = hold_out(torch.tensor([0] * 20 + [1] * 30), ["bee", "ant"], 0.2)[1]
    alone = hold_out(torch.zeros(20, dtype=torch.int64), ["bee"], 0.2)[1]
    assert swapped.tolist() == [*(b - 30).tolist(), *(a + 20).tolist()]
    assert torch.equal(alone, b - 30)


def test_the_images_held_out_are_these() -> None:
    """Records of other days must have held out the same: the draw may never change unnoticed."""
    assert hold_out(torch.zeros(20, dtype=torch.int64), ["n01440764"], 0.2)[1].tolist() == [5, 6, 17, 18]


@pytest.mark.parametrize("road", ["cached", "decoded"])
@pytest.mark.parametrize("shapes", ["all the same", "ragged"])
def test_both_roads_read_the_same_images_as_without_a_holdout(
    make_folder: MakeFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch, road: str, shapes: str
) -> None:
    root = make_folder(train=7)
    if shapes == "all the same":
        for path in root.rglob("*.jpg"):
            path.write_bytes((root / "train" / path.parent.name / "0.jpg").read_bytes())
    if road == "decoded":
        monkeypatch.setattr(images_module, "MAX_CACHED_BYTES", 0)
    undivided, part = load(root, cache).train, load(root, cache, holdout=0.3)
    kept, held = hold_out(undivided.labels, ("ant", "bee"), 0.3)
    assert (len(part.train), len(part.val)) == (len(kept), len(held)) == (10, 4)
    for images, rows in ((part.train, kept), (part.val, held)):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        for actual, expected in zip(images.read(order), undivided.read(rows[order]), strict=True):
            assert torch.equal(actual, expected)
        assert torch.equal(images.centre(order, 12), undivided.centre(rows[order], 12))
        assert torch.equal(images.labels, undivided.labels[rows])
        assert torch.equal(images.sizes, undivided.sizes[rows])
        of_classes = [images.of_class(label) for label in range(2)]
        assert torch.equal(torch.cat(of_classes), torch.arange(len(rows)))
        assert [set(images.labels[mine].tolist()) for mine in of_classes] == [{0}, {1}]
    everything = torch.arange(len(part.val))
    assert torch.equal(part.evaluation_view("val", everything), part.normalise(undivided.centre(held, 12)))


def test_counts_are_known_before_anything_is_decoded(make_folder: MakeFolder, cache: Cache) -> None:
    events: list[Event] = []
    info = load(make_folder(train=10), cache, 0.25, events.append).info
    assert (info.train_counts, info.val_counts, events) == ((8, 8), (2, 2), [])


def test_corrupt_images_are_left_out_before_the_share_is_taken(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder(train=10)
    for number in range(6):
        (root / "train" / "ant" / f"{number}.jpg").write_bytes(b"")
    data = load(root, cache, 0.25, skip_corrupt=True)
    assert (data.info.train_counts, data.info.val_counts) == ((3, 8), (1, 2))
    assert (len(data.train), len(data.val)) == (11, 3)


def test_pixels_are_decoded_once_for_all_shares(make_folder: MakeFolder, cache: Cache) -> None:
    root = make_folder(train=10)
    events: list[Event] = []

    def finished_by(holdout: float) -> list[str]:
        events.clear()
        assert len(load(root, cache, holdout, events.append).train) == {0: 20, 0.1: 18, 0.4: 12}[holdout]
        return [event.unit for event in events if event.kind == "finished"]

    assert finished_by(0.1) == ["train (reading sizes)", "train"]  # the validation images are not looked at
    assert finished_by(0.4) == []
    assert finished_by(0) == ["val (reading sizes)", "val"]
    files = sorted((cache.root / "data").iterdir())
    assert finished_by(0.1) == finished_by(0) == []
    assert sorted((cache.root / "data").iterdir()) == files


@pytest.fixture
def keys_at(cache: Cache) -> Callable[[float], tuple[Keys, Dataset]]:
    registry = PluginRegistry()

    def make(holdout: float) -> tuple[Keys, Dataset]:
        request = Request(
            methods=("wmdd",),
            datasets=("digits",),
            ipcs=(2,),
            recipes=("smoke",),
            device="cpu",
            precision="fp32",
            assignments=(f"data.holdout={holdout}",),
        )
        (cell,) = experiments(request, registry)
        dataset = load_dataset(registry.dataset("digits"), cell.data, None, cache)
        return Keys(cell, dataset, cell.method.version, cell.evaluator.version), dataset

    return make


def test_without_a_holdout_no_key_moves(keys_at: Callable[[float], tuple[Keys, Dataset]]) -> None:
    """Literally what the keys held before there was a hold-out: what lies in caches stays valid."""
    keys, dataset = keys_at(0)
    data = {
        "version": "1",
        "fingerprint": dataset.info.fingerprint,
        "stored_size": 16,
        "resize": "bilinear",
        "skip_corrupt": False,
    }
    assert dataset.depends_on == data
    real = {
        "data": data,
        "classes": [str(digit) for digit in range(10)],
        "image_size": 16,
        "mean": [float(value) for value in dataset.mean],
        "std": [float(value) for value in dataset.std],
    }
    assert {name: keys.teacher()[name] for name in real} == real
    assert keys.teacher().keys() - real.keys() == {"teacher", "versions"}
    assert keys.evaluate(("unit",))["real"] == real
    assert keys.statistics(0)["teacher"] == keys.unit(0)["real"]["teacher"] == key_of(keys.teacher())
    assert "holdout" not in json.dumps([keys.teacher(), keys.statistics(0), keys.unit(0), keys.evaluate(("unit",))])


def test_a_holdout_moves_every_key_and_the_digest_of_real_images(
    keys_at: Callable[[float], tuple[Keys, Dataset]],
) -> None:
    seen: dict[str, set[str]] = {}
    for holdout in (0, 0.1, 0.2):
        keys, dataset = keys_at(holdout)
        indices = torch.tensor([0, 1])
        real = DistilledSet(dataset, dataset.train.labels[indices], torch.ones(2), ("unit",), indices=indices)
        actual = {
            "teacher": key_of(keys.teacher()),
            "statistics": key_of(keys.statistics(0)),
            "intermediate": key_of(keys.intermediate("barycenter", {})),
            "distill": key_of(keys.unit(0)),
            "labels": key_of(keys.labels(("unit",), "labels", {})),
            "evaluate": key_of(keys.evaluate(("unit",))),
            "measure": key_of(keys.measure(("unit",))),
            "digest": real.digest,
        }
        for name, key in actual.items():
            seen.setdefault(name, set()).add(key)
    assert {name: len(values) for name, values in seen.items()} == dict.fromkeys(seen, 3)


def record_of(shell: Shell, *arguments: str | Path) -> tuple[dict[str, Any], str]:
    """The record of the one cell that was run, and what the run printed."""
    known = set((shell.results / "records").glob("*.json"))
    outcome = shell.run("--dataset", "digits", *arguments)
    (path,) = set((shell.results / "records").glob("*.json")) - known
    return json.loads(path.read_text()), outcome.out + outcome.err


def test_a_run_with_a_holdout_says_so_and_keeps_apart(shell: Shell) -> None:
    cell = ("--method", "random", "--ipc", "1", "--evaluator", "hard")
    plain, text = record_of(shell, *cell)
    pixels = shell.files("cache/data")
    assert "measured on" not in text
    assert plain["data"] == {**plain["data"], "train_images": 1437, "val_images": 360}

    held, text = record_of(shell, *cell, "--set", "data.holdout=0.1")
    assert "held-out training images (0.1)" in text
    assert shell.files("cache/data") == pixels  # nothing was decoded again
    assert held["configuration"]["data"]["holdout"] == 0.1
    # 139 to 147 digits a class: 14 of seven of them, 15 of the three that have 146 or 147.
    assert held["data"]["train_images"] + held["data"]["val_images"] == 1437
    assert held["data"]["val_images"] == 7 * 14 + 3 * 15
    assert held["distilled_digest"] != plain["distilled_digest"]

    shown = {record["name"]: shell("show", record["name"]).out for record in (plain, held)}
    assert "% on validation images" in shown[plain["name"]]
    assert "% on held-out training images (0.1)" in shown[held["name"]]
    assert "validation" not in shown[held["name"]]


def test_the_full_reference_leaves_the_held_out_images_alone(shell: Shell) -> None:
    record, _ = record_of(shell, "--method", "full", "--set", "data.holdout=0.5", "--set", "data.image_size=8")
    trained = record["data"]["train_images"]
    assert trained + record["data"]["val_images"] == 1437
    assert record["distilled_images"] == trained
    assert record["metrics"]["label_bytes"] == 8 * trained
    assert record["metrics"]["student_steps"] == -(-trained // 256)


@pytest.mark.slow
def test_a_given_teacher_may_have_seen_them(shell: Shell) -> None:
    from safetensors.torch import save_file

    from ddbench.nn.build import build_network

    save_file(build_network("convnet-bn-d3", 10, 8, "auto").state_dict(), shell.root / "mine.safetensors")
    given = ("--method", "random", "--ipc", "1", "--set", "teacher.checkpoint=mine.safetensors")
    note = "note: mine.safetensors (teacher.checkpoint) may have been trained on the held-out images"
    for _ in range(2):  # the second time from the cache
        outcome = shell.run("--dataset", "digits", *given, "--set", "data.holdout=0.1", "--seeds", "2")
        assert outcome.err.count(note) == 1
    assert note not in record_of(shell, *given)[1]
    assert note not in record_of(shell, *given, "--evaluator", "hard", "--set", "data.holdout=0.1")[1]


def test_a_class_of_one_image_is_named(make_folder: MakeFolder, cache: Cache) -> None:
    with pytest.raises(DDBenchError, match=r"data\.holdout 0\.1 leaves none of the 1 training images of class 'ant'"):
        _ = load(make_folder(train=1), cache, 0.1).info
