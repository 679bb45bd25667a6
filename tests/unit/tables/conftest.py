"""Records of the methods of the registry that no run made, and the tables of them alone."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pandas as pd
import pytest

from ddbench.api.evaluator import Metrics
from ddbench.config.experiment import Experiment
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results import provenance, records
from ddbench.results.records import Record
from ddbench.tables.frame import build_frame

REGISTRY = PluginRegistry()


class Stored:
    """A folder of records."""

    registry = REGISTRY

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    @functools.cache
    def experiment(**fields: Any) -> Experiment:
        """WMDD's on digits at IPC 10 under `quick`, but for `fields`."""
        request = {"methods": ("wmdd",), "datasets": ("digits",), "ipcs": (10,), "device": "cpu", "precision": "fp32"}
        (actual,) = experiments(Request(**{**request, "recipes": ("quick",), **fields}), REGISTRY)
        return actual

    @staticmethod
    def record(made: Experiment, top1: float, **changes: Any) -> Record:
        """What a run of `made` would leave, with `top1`."""
        evaluation = f"{crc32(f'{made.model_dump_json()} {top1}'.encode()):08x}"
        metrics = Metrics(
            top1_last=top1, per_class=[top1], student_steps=1, regime="soft", label_bytes=0, image_bytes=0
        )
        values_of = {
            "name": f"{made.method_name}-{evaluation}",
            "created": "2026-01-01T00:00:00+00:00",
            "method": made.method_name,
            "method_version": made.method.version,
            "dataset": made.dataset,
            "classes": 10,
            "ipc": made.ipc,
            "image_size": made.data.image_size,
            "recipes": list(made.recipes),
            "evaluator": made.evaluator_name,
            "evaluator_version": made.evaluator.version,
            "student": made.student,
            "seed": made.seed,
            "repeat": made.repeat,
            "student_seed": made.student_seed,
            "metrics": metrics,
            "teacher": {"name": made.teacher.arch, "top1": 90.0, "key": "t", "digest": "t"},
            "feature_transport_cost": 1.0,
            "data": {"fingerprint": "f"},
            "distilled_digest": evaluation,
            "distilled_images": 100,
            "keys": {"evaluate": [evaluation], **({"statistics": ["s"]} if made.method.needs_teacher else {})},
            "configuration": json.loads(made.model_dump_json()),
            "seconds": {"evaluate": 1.0, "distill": 3600.0},
            "seconds_per_iteration": None,
            "peak_memory": {"device": 0, "resident": 1},
            "device": {"type": "cpu", "name": "a CPU", "threads": 1},
            "versions": provenance.provenance()["versions"],
            "git_commit": None,
        }
        return Record(**{**values_of, **changes})

    def frame(self, *actual: Record, name: str = "ablation", **fields: Any) -> pd.DataFrame:
        """Writes records, and reads a table of all records of the folder."""
        for each in actual:
            records.write(each, self.folder / "records")
        request = Request(**{"methods": (), "datasets": (), "ipcs": (), **fields})
        return build_frame(REGISTRY.table(name), request, REGISTRY, None, self.folder)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)
