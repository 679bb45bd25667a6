"""Builds the record of a pipeline that has run: artifacts, cost, configuration."""

from __future__ import annotations

from typing import Any

from ddbench.api.evaluator import Metrics
from ddbench.core.canonical import canonical_json
from ddbench.data.dataset import Dataset
from ddbench.pipeline.keys import teacher_label
from ddbench.pipeline.pipeline import Pipeline
from ddbench.results import records
from ddbench.results.records import Record
from ddbench.storage.artifacts import Artifact, digest_of


def build_record(pipeline: Pipeline) -> Record:
    """Returns the record of a pipeline that has run.

    Times, memory and versions are those at the time when the artifacts were built, so that a cached run gives the same
    record.
    """
    experiment, info = pipeline.experiment, pipeline.dataset.info
    evaluation = pipeline.artifact("evaluate")
    used = {
        "evaluate": [evaluation],
        "distill": [pipeline.artifact("distill", n) for n in pipeline.parts_of("distill")],
    }
    if pipeline.uses_teacher:
        used["teacher"] = [pipeline.artifact("teacher")]
    if pipeline.method.needs_teacher:
        used["statistics"] = [pipeline.artifact("statistics", label) for label in range(info.num_classes)]
    transport_cost = pipeline.artifact("measure").meta["transport_cost"] if pipeline.measures_transport else None
    costs = {stage: [part.meta["cost"] for part in parts] for stage, parts in used.items()}
    flat = [cost for parts in costs.values() for cost in parts]
    steps = [part.meta for part in used["distill"] if part.meta.get("steps")]
    teacher = used.get("teacher")
    return Record(
        name=records.run_name(experiment.method_name, info.name, experiment.ipc, evaluation.key),
        created=evaluation.meta["made"]["created"],
        method=experiment.method_name,
        method_version=pipeline.method.version,
        dataset=info.name,
        classes=info.num_classes,
        ipc=experiment.ipc,
        image_size=info.image_size,
        recipes=list(experiment.recipes),
        evaluator=experiment.evaluator_name,
        evaluator_version=pipeline.protocol.version,
        student=experiment.student,
        seed=experiment.seed,
        repeat=experiment.repeat,
        student_seed=experiment.student_seed,
        metrics=Metrics(**evaluation.meta["metrics"]),
        teacher={
            "name": teacher_label(experiment.teacher),
            "top1": teacher[0].meta["top1"],
            "per_class": teacher[0].meta["per_class"],
            "key": teacher[0].key,
            "digest": digest_of(teacher[0].tensors),
        }
        if teacher
        else {},
        feature_transport_cost=transport_cost,
        data={
            "fingerprint": info.fingerprint,
            "class_names": list(info.class_names),
            "train_images": sum(info.train_counts),
            "val_images": sum(info.val_counts),
            **_data_faults(pipeline.dataset),
        },
        distilled_digest=pipeline.distilled.digest,
        distilled_images=len(pipeline.distilled),
        origin=pipeline.artifact("given").meta["origin"] if pipeline.parts_of("given") else {},
        keys={stage: [part.key for part in parts] for stage, parts in used.items()},
        configuration=experiment.public(),
        seconds={stage: sum(cost["seconds"] for cost in parts) for stage, parts in costs.items()},
        seconds_per_iteration=sum(m["seconds"] for m in steps) / sum(m["steps"] for m in steps) if steps else None,
        peak_memory={
            "device": max(cost["peak_device"] for cost in flat),
            "resident": max(cost["peak_resident"] for cost in flat),
        },
        device=device_of(evaluation, [part for parts in used.values() for part in parts]),
        versions=evaluation.meta["made"]["versions"],
        git_commit=evaluation.meta["made"]["git_commit"],
        stages={stage: _build_conditions(parts) for stage, parts in used.items()},
    )


def _data_faults(dataset: Dataset) -> dict[str, Any]:
    """Returns the number of evaluation images that are also training images, and the reasons of skipped images."""
    shared, skipped = dataset.measured_in_train, dataset.skipped
    return {
        **({} if shared is None else {"val_images_in_train": shared}),
        **({"skipped": skipped} if skipped else {}),
    }


def _build_conditions(artifacts: list[Artifact]) -> list[dict[str, Any]]:
    """Returns the distinct conditions under which artifacts were built, in the order of the artifacts."""
    conditions: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        versions, device = artifact.meta["made"]["versions"], artifact.meta["device"]
        condition = {
            "torch": versions.get("torch"),
            "POT": versions.get("POT"),
            "threads": device.get("threads"),
            "processes": device.get("processes", 1),
            **artifact.meta.get("source", {}),
        }
        conditions.setdefault(canonical_json(condition), condition)
    return list(conditions.values())


def device_of(evaluation: Artifact, artifacts: list[Artifact]) -> dict[str, Any]:
    """Returns the device of a record.

    Args:
        evaluation: The artifact whose device is described.
        artifacts: All artifacts of the run.

    Returns:
        The device of the evaluation. `nondeterministic` holds the nondeterministic operations of all artifacts; it is
        left out if one of them does not record its operations (on a CPU). `processes` is the largest number of
        processes that trained one artifact; it is left out if each was trained by one.
    """
    device = {name: value for name, value in evaluation.meta["device"].items() if name != "nondeterministic"}
    operations = [artifact.meta["device"].get("nondeterministic") for artifact in artifacts]
    recorded = [names for names in operations if names is not None]
    if len(recorded) == len(operations):
        device["nondeterministic"] = sorted({name for names in recorded for name in names})
    processes = max(artifact.meta["device"].get("processes", 1) for artifact in artifacts)
    return {**device, "processes": processes} if processes > 1 else device
