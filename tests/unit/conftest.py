"""Fixtures of several packages' tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import resized_crop

from ddbench.api.context import DistillTask
from ddbench.data.dataset import Dataset
from ddbench.evaluators.protocols import FullData, HardLabels, KnowledgeDistillation, SoftLabels
from ddbench.nn.taps import TappedNetwork
from ddbench.results.records import Record

Tree = dict[str, Any]
MakeTree = Callable[..., Tree]
Change = Callable[[Tree, str, Any], Tree]
PROTOCOLS: dict[str, Tree] = {
    "fkd": KnowledgeDistillation().model_dump(),
    "soft": SoftLabels().model_dump(),
    "hard": HardLabels().model_dump(),
    "full-data": FullData().model_dump(),
}


@pytest.fixture(scope="session")
def record() -> Callable[..., Record]:
    """Makes a record of ImageNette at 64 px without a run."""

    def make(
        top1: float,
        method: str = "wmdd",
        ipc: int = 10,
        seed: int = 0,
        repeat: int = 0,
        evaluator: str = "fkd",
        teacher: tuple[str, float] = ("one", 76.0),
        bn_weight: float = 10.0,
        recipes: tuple[str, ...] = ("quick",),
        **changes: Any,
    ) -> Record:
        """A record of ImageNette at 64 px; what is not said is the same for all."""
        made = {"bn_weight": bn_weight, "steps": 500} if method == "wmdd" else {}
        key = f"{crc32(repr((method, ipc, seed, repeat, evaluator, teacher, bn_weight, recipes)).encode()):08x}"
        values: dict[str, Any] = {
            "name": f"{method}-imagenette-ipc{ipc}-{key}",
            "created": "2026-01-01T00:00:00+00:00",
            "method": method,
            "method_version": "1",
            "dataset": "imagenette",
            "classes": 10,
            "ipc": ipc,
            "image_size": 64,
            "recipes": list(recipes),
            "evaluator": evaluator,
            "evaluator_version": "1",
            "student": "resnet18",
            "seed": 0,
            "repeat": repeat,
            "student_seed": seed,
            "metrics": {
                "top1_last": top1,
                "per_class": [top1],
                "student_steps": 300,
                "label_bytes": 1,
                "image_bytes": 1,
                "regime": evaluator,
            },
            "teacher": {"name": "resnet18", "top1": teacher[1], "key": teacher[0]},
            "feature_transport_cost": None,
            "data": {},
            "distilled_digest": f"{method} {ipc} {repeat} {bn_weight} {teacher[0]}",
            "distilled_images": 10 * ipc,
            "keys": {"teacher": [teacher[0]], **({"statistics": ["all"]} if method == "wmdd" else {})},
            "configuration": {
                "dataset": "imagenette",
                "ipc": ipc,
                "teacher": {},
                "student_stem": "imagenet",
                "changed": [],
                "data": {
                    "image_size": 64,
                    "stored_size": 72,
                    "resize": "bilinear",
                    "skip_corrupt": False,
                    "holdout": 0.0,
                },
                "statistics": {"variance": "exact", "batch_size": 100},
                "distill": {"jpeg_quality": None, "checkpoint_every": 50},
                "runtime": {"device": "cpu", "precision": "bf16"},
                "method_settings": made,
                "evaluator_settings": PROTOCOLS[evaluator],
            },
            "seconds": {"evaluate": 1.0},
            "seconds_per_iteration": None,
            "peak_memory": {"device": 0, "resident": 1},
            "device": {"type": "cpu", "name": "a CPU", "threads": 1},
            "versions": {"numerics": "models=1 training=1 transport=1 views=1"},
            "git_commit": None,
        }
        return Record(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def tree(record: Callable[..., Record]) -> MakeTree:
    """Makes the JSON of a record that has all that scores compare; `full` is the training on the real data."""

    def make(method: str, evaluator: str, top1: float, seed: int = 0, repeat: int = 0) -> Tree:
        made: Tree = record(
            *(top1, method),
            **{"seed": seed, "repeat": repeat, "evaluator": evaluator, "name": f"{method}-{evaluator}-{repeat}-{seed}"},
            distilled_digest=f"{method} {repeat}",
            data={"fingerprint": "fingerprint", "train_images": 9469, "val_images": 3925},
            versions={"numerics": "distilled=1 models=1 training=1 views=1"},
            keys={"statistics": ["all"]} if method == "wmdd" else {},
        ).model_dump(mode="json")
        made["metrics"]["regime"] = "hard" if evaluator == "full-data" else evaluator
        uses_teacher = method == "wmdd" or evaluator in ("fkd", "soft")
        made["teacher"] = {**made["teacher"], "key": "key", "digest": "digest"} if uses_teacher else {}
        configuration = made["configuration"]
        if method == "full":
            made["ipc"] = configuration["ipc"] = None
        configuration["method_settings"] = {"steps": 500} if method == "wmdd" else {}
        recipe = {"optimizer": "sgd", "learning_rate": 0.025, "momentum": 0.9, "weight_decay": 1e-4}
        configuration["teacher"] = {**recipe, "decay_vectors": True, "batch_size": 32, "epochs": 20, "arch": "resnet18"}
        return made

    return make


@dataclass(frozen=True)
class Scored:
    """Two students each of a method, and of the references of its scores."""

    random: list[Tree]
    hard: list[Tree]
    full: list[Tree]
    own: list[Tree]


@pytest.fixture(scope="session")
def scored(tree: MakeTree) -> Scored:
    """Records of wmdd under fkd, and its references."""
    return Scored(
        random=[tree("random", "fkd", 50.0, 0), tree("random", "fkd", 54.0, 1)],
        hard=[tree("wmdd", "hard", 40.0, 0), tree("wmdd", "hard", 42.0, 1)],
        full=[tree("full", "full-data", 88.0, 0), tree("full", "full-data", 92.0, 1)],
        own=[tree("wmdd", "fkd", 62.0, 0), tree("wmdd", "fkd", 64.0, 1)],
    )


@pytest.fixture(scope="session")
def changed() -> Change:
    """A copy of a record with another value at a dotted path."""

    def change(record: Tree, path: str, value: Any) -> Tree:
        actual = copy.deepcopy(record)
        place = actual
        *inner, last = path.split(".")
        for name in inner:
            place = place[name]
        assert last in place
        place[last] = value
        return actual

    return change


class Small(nn.Module):
    """One strided convolution and a linear classifier of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=2)
        self.classifier = nn.Linear(6 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.convolution(images).relu().flatten(1))
        return logits


@pytest.fixture
def make_task(digits_at: Callable[..., Dataset], bare_task: Callable[..., DistillTask]) -> Callable[..., DistillTask]:
    """Makes the task of a method on digits of 9 px, whose teacher has random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        teacher = TappedNetwork(Small())

    def make(ipc: int = 3, seed: int = 0, dataset: Dataset | None = None) -> DistillTask:
        task: DistillTask = bare_task(dataset or digits_at(9, 11), teacher, ipc=ipc, seed=seed)
        return task

    return make


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., Tensor]:
    """The crop of lowest loss of one image, cut by torchvision, one after the other."""

    def best(task: DistillTask, index: int, boxes: Tensor, side: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = task.dataset.train.sizes[index].tolist()
        image = task.dataset.train.read(torch.tensor([index]))[0][0, :, :height, :width].float() / 255
        crops: list[Tensor] = [resized_crop(image, *box, [side, side], antialias=True) for box in boxes.tolist()]
        return min(crops, key=lambda crop: float(loss(crop[None])))

    return best
