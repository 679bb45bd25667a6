"""Fixtures of several packages' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest

from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.results.records import Record

PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


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
