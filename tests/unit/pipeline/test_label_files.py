"""Labels that were exported train the same student as the run whose labels they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.evaluators.label_folders import TENSORS, open_labels, read_labels
from ddbench.evaluators.packed_views import unpack_views
from ddbench.evaluators.replay import Replay
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.record import build_record
from ddbench.results.export import export_run
from ddbench.results.records import Record

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk

STORED = ("evaluator.labels=stored", "evaluator.batch_size=8", "evaluator.epochs=3")


@pytest.fixture(scope="module")
def runs(desk_in: Callable[..., Desk], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    """Runs a method at IPC 2 with stored labels, in one cache."""
    desk = desk_in(tmp_path_factory.mktemp("cache"))

    def run(*assignments: str, method: str = "random") -> Pipeline:
        pipeline = desk.pipeline(desk.cell(*STORED, *assignments, method=method, evaluators=("fkd",)))
        pipeline.run()
        return pipeline

    return run


def exported(pipeline: Pipeline, folder: Path) -> Record:
    record = build_record(pipeline)
    workspace = pipeline.workspace
    export_run(record, workspace.cache, workspace.dataset, folder, "safetensors", with_labels=True)
    return record


@pytest.mark.parametrize("settings", [(), ("evaluator.cutmix_alpha=null",), ("evaluator.select_share=0.5",)])
def test_exported_labels_train_the_same_student(
    settings: tuple[str, ...], runs: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = runs(*settings)
    record = exported(pipeline, tmp_path / "set")
    read, images = read_labels(tmp_path / "set"), load_file(tmp_path / "set" / "distilled.safetensors")["images"]
    pipeline.distilled.__dict__["images"] = images  # train on the exported images, too
    requests = []

    def from_file(
        name: str, depends_on: Mapping[str, Any], build: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        requests.append(name)
        return {name: value for name, value in read.tensors.items() if name != "rows"}

    evaluate = type(pipeline.protocol).evaluate
    monkeypatch.setattr(
        type(pipeline.protocol),
        "evaluate",
        lambda self, task: evaluate(self, dataclasses.replace(task, cached=from_file)),
    )
    _, meta = pipeline.graph["evaluate"].build(pipeline, 0, NoCheckpoint())  # type: ignore[arg-type]
    assert requests == ["labels"]
    assert meta["metrics"] == record.metrics.model_dump(mode="json")
    assert len(read.tensors["rows"]) == (10 if "evaluator.select_share=0.5" in settings else 20)


def test_the_description_names_the_teachers_whose_mean_the_labels_are(
    runs: Callable[..., Pipeline], tmp_path: Path
) -> None:
    alone = runs()
    own = exported(alone, tmp_path / "alone").teacher
    arch = alone.experiment.teacher.arch
    pool = exported(runs(f"evaluator.teachers=[convnet-d1,{arch}]"), tmp_path / "pool").teacher["others"]["convnet-d1"]
    about = [json.loads((tmp_path / name / "labels.json").read_text()) for name in ("alone", "pool")]
    assert about[0]["teacher"] == {name: own[name] for name in ("name", "top1", "digest")}
    assert "teacher" not in about[1]
    assert about[1]["teachers"] == [
        {"name": "convnet-d1", "top1": pool["top1"], "digest": pool["digest"]},
        {"name": arch, "top1": own["top1"], "digest": own["digest"]},
    ]
    assert pool["digest"] != own["digest"]


class NoCheckpoint:
    """A checkpoint that holds and keeps nothing."""

    def load(self) -> None:
        return None

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        pass


def test_the_description_is_enough_to_compute_the_labels_again(runs: Callable[..., Pipeline], tmp_path: Path) -> None:
    pipeline = runs()
    record = exported(pipeline, tmp_path / "set")
    about = json.loads((tmp_path / "set" / "labels.json").read_text())
    tensors, images = (
        read_labels(tmp_path / "set").tensors,
        load_file(tmp_path / "set" / "distilled.safetensors")["images"],
    )
    assert about["distilled_digest"] == record.distilled_digest
    assert {name: entry["shape"] for name, entry in about["tensors"].items()} == {
        name: list(value.shape) for name, value in tensors.items()
    }
    absent = {"places", "codes", "offsets", "scales", "classes"}
    assert {entry["is"] for entry in about["tensors"].values()} == {TENSORS[name] for name in TENSORS.keys() - absent}
    size, epoch = about["image_size"], 1
    mean, std = (torch.tensor(about[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    batches = tuple(slice(*ends) for ends in about["batches"])
    views = unpack_views(
        {name: value[epoch] for name, value in tensors.items() if name not in ("logits", "rows")}, batches, size
    )
    chosen = images[tensors["rows"][tensors["order"][epoch].long()]].float() / 255
    pixels = torch.cat(
        [
            torch.nn.functional.interpolate(
                image[None, :, top : top + height, left : left + width], (size, size), mode="bilinear", antialias=True
            ).flip(3 if flip else ())
            for image, (top, left, height, width), flip in zip(
                chosen, tensors["boxes"][epoch].tolist(), tensors["flips"][epoch].tolist(), strict=True
            )
        ]
    )
    for batch, (top, left, height, width), mix in zip(
        batches, tensors["mix_boxes"][epoch].tolist(), views.mixes, strict=True
    ):
        mixed = pixels[batch].clone()
        region = (..., slice(top, top + height), slice(left, left + width))
        mixed[region] = pixels[batch][mix.partner][region]
        logits = pipeline.teacher((mixed - mean) / std, bn=False).logits
        assert torch.allclose(logits, tensors["logits"][epoch, batch].float(), atol=2e-2)


@pytest.mark.parametrize("length", [{"epochs": 3}, {"epochs": None, "steps": 8}])
def test_exported_labels_of_a_budget_are_replayed(
    length: dict[str, Any], runs: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a student of eight steps, that is two epochs and two of three steps of a third one."""
    assignments = [f"evaluator.{name}={'null' if value is None else value}" for name, value in length.items()]
    pipeline = runs("evaluator.label_views=2", "evaluator.label_top=3", "evaluator.label_bits=4", *assignments)
    record = exported(pipeline, tmp_path / "set")
    replay = Replay(labels=tmp_path / "set", **length)
    monkeypatch.setattr(type(pipeline.protocol), "evaluate", lambda self, task: replay.evaluate(task))
    _, meta = pipeline.graph["evaluate"].build(pipeline, 0, NoCheckpoint())  # type: ignore[arg-type]
    assert meta["metrics"] == record.metrics.model_dump(mode="json")


def test_labels_of_decoded_images_that_are_not_held_out_are_replayed(
    runs: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the 20 images of `idm` holds four, and half of these are held out."""
    pipeline = runs("evaluator.select_share=0.5", method="idm")
    record = exported(pipeline, tmp_path / "set")
    assert len(read_labels(tmp_path / "set").tensors["rows"]) == 40
    replay = Replay(epochs=3, labels=tmp_path / "set")
    monkeypatch.setattr(type(pipeline.protocol), "evaluate", lambda self, task: replay.evaluate(task))
    _, meta = pipeline.graph["evaluate"].build(pipeline, 0, NoCheckpoint())  # type: ignore[arg-type]
    selection = {"top1_selected": None, "selected_epoch": None}
    assert meta["metrics"] == {**record.metrics.model_dump(mode="json"), **selection}


def test_labels_of_rded_are_replayed_with_its_schedule(
    desk_in: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_in(tmp_path / "cache")
    settings = ("evaluator.epochs=8", "evaluator.learning_rate=0.01", "evaluator.label_top=5")
    pipeline = desk.pipeline(desk.cell(*STORED[:2], *settings, method="random", evaluators=("rded",)))
    pipeline.run()
    record = exported(pipeline, tmp_path / "set")
    replay = Replay(epochs=8, learning_rate=0.01, labels=tmp_path / "set")
    monkeypatch.setattr(type(pipeline.protocol), "evaluate", lambda self, task: replay.evaluate(task))
    _, meta = pipeline.graph["evaluate"].build(pipeline, 0, NoCheckpoint())  # type: ignore[arg-type]
    assert meta["metrics"] == record.metrics.model_dump(mode="json")
    replay = Replay(epochs=8, temperature=4, labels=tmp_path / "set")
    with pytest.raises(DDBenchError, match=r"evaluator.temperature=4: .* at 20 \(--set evaluator.temperature=20\)"):
        pipeline.graph["evaluate"].build(pipeline, 0, NoCheckpoint())  # type: ignore[arg-type]
    replay = Replay(steps=25, labels=tmp_path / "set")
    with pytest.raises(DDBenchError, match=r"evaluator.steps=25: .* of 8 epochs \(--set evaluator.steps=24\)"):
        pipeline.graph["evaluate"].build(pipeline, 0, NoCheckpoint())  # type: ignore[arg-type]


def test_the_schedule_of_labels_is_that_of_their_protocol(runs: Callable[..., Pipeline], tmp_path: Path) -> None:
    exported(runs(), tmp_path / "set")
    path = tmp_path / "set" / "labels.json"
    written = json.loads(path.read_text())
    for protocol, schedule in (
        ({}, "cosine"),
        ({"name": "rded"}, "half-cosine"),
        ({"name": "cv-dd", "schedule": "half-cosine"}, "half-cosine"),
        ({"name": "cv-dd", "schedule": "cosine"}, "cosine"),
    ):
        path.write_text(json.dumps({**written, "protocol": {**written["protocol"], **protocol}}))
        assert open_labels(tmp_path / "set", 8, 42).schedule == schedule


@pytest.mark.parametrize("spoil", [{"protocol": {}}, {"batches": [[0, 8]]}, {"batches": []}, {"class_names": None}])
def test_labels_with_another_description_are_refused_in_one_line(
    spoil: dict[str, Any], runs: Callable[..., Pipeline], tmp_path: Path
) -> None:
    exported(runs(), tmp_path / "set")
    path = tmp_path / "set" / "labels.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoil}))
    with pytest.raises(DDBenchError, match=r"labels.json.*(is not as ddbench export|views, not 20)") as refused:
        open_labels(tmp_path / "set", 8, 42)
    assert "\n" not in str(refused.value)


def test_labels_that_are_not_stored_are_refused(runs: Callable[..., Pipeline], tmp_path: Path) -> None:
    pipeline = runs("evaluator.labels=online")
    with pytest.raises(DDBenchError, match=r"has no stored labels: run it with .*evaluator.labels=stored"):
        exported(pipeline, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with pytest.raises(DDBenchError, match="holds no labels of ddbench export --labels"):
        read_labels(tmp_path)


def test_labels_that_were_removed_are_refused(desk_in: Callable[..., Desk], tmp_path: Path) -> None:
    desk = desk_in(tmp_path / "cache")
    pipeline = desk.pipeline(desk.cell(*STORED, method="random"))
    pipeline.run()
    pipeline.workspace.cache.prune(frozenset({"labels"}), 0.0)
    with pytest.raises(DDBenchError, match="are no longer in the cache: run it again"):
        exported(pipeline, tmp_path / "set")
