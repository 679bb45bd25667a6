"""Builds the record of a pipeline that has run: artifacts, cost, configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ddbench.api.evaluator import Metrics
from ddbench.config.schema import with_digests
from ddbench.core.canonical import canonical_json
from ddbench.data.dataset import Dataset
from ddbench.pipeline.keys import teacher_label
from ddbench.pipeline.pipeline import Pipeline
from ddbench.results.measures import Measured
from ddbench.results.provenance import build_facts
from ddbench.results.records import Record, Trial
from ddbench.storage.artifacts import Artifact, digest_of


def build_record(pipeline: Pipeline) -> Record:
    """Returns the record of a pipeline that has run.

    Times, memory and versions are those at the time when the artifacts were built, so that a cached run gives the same
    record.
    """
    experiment, info = pipeline.experiment, pipeline.dataset.info
    # Measures have a section of their own: the rest of a record does not depend on them.
    other = {"data", "measures", *(() if pipeline.uses_teacher else ("teacher", "statistics"))}
    names = [stage.name for stage in pipeline.graph if stage.name not in other and stage.parts(pipeline)]
    used = {name: [pipeline.artifact(name, part) for part in pipeline.parts_of(name)] for name in names}
    artifacts = [part for parts in used.values() for part in parts]
    (evaluation,) = used["evaluate"]
    transport_cost = used["measure"][0].meta["transport_cost"] if "measure" in used else None
    costs = [part.meta["cost"] for part in artifacts]
    steps = [part.meta for part in used["distill"] if part.meta.get("steps")]
    teacher = used.get("teacher")
    builds = _builds(pipeline, used)
    return Record(
        name=pipeline.context.record,
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
            **({"others": _other_teachers(pipeline, teacher)} if len(teacher) > 1 else {}),
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
        distilled_form=pipeline.distilled.form,
        measures=_measured(pipeline),
        origin=used["given"][0].meta["origin"] if "given" in used else {},
        trials=[Trial(**experiment.trial)] if experiment.trial else [],
        keys=_keys(pipeline, used),
        configuration=experiment.model_copy(update={"measures": {}}).public(),
        seconds={stage: sum(facts["seconds"] for facts in each.values()) for stage, each in builds.items()},
        seconds_per_iteration=sum(m["seconds"] for m in steps) / sum(m["steps"] for m in steps) if steps else None,
        peak_memory={
            "device": max(cost["peak_device"] for cost in costs),
            "resident": max(cost["peak_resident"] for cost in costs),
        },
        device=device_of(evaluation, artifacts),
        versions=evaluation.meta["made"]["versions"],
        git_commit=evaluation.meta["made"]["git_commit"],
        stages={stage: _distinct_conditions(each.values()) for stage, each in builds.items()},
        built={stage: max(facts["created"] for facts in each.values()) for stage, each in builds.items()},
    )


def _other_teachers(pipeline: Pipeline, teachers: list[Artifact]) -> dict[str, dict[str, Any]]:
    """Returns the teachers besides the configured one by network, and whether method or protocol use them."""
    pools = {"method": pipeline.method.teacher_pool(), "evaluator": pipeline.protocol.teacher_pool()}
    return {
        name: {
            "top1": artifact.meta["top1"],
            "key": artifact.key,
            "digest": digest_of(artifact.tensors),
            "used_by": [user for user, pool in pools.items() if name in pool],
        }
        for name, artifact in list(zip(pipeline.pool.networks, teachers, strict=True))[1:]
    }


def _measured(pipeline: Pipeline) -> dict[str, Measured]:
    """Returns the results of the measures of a pipeline."""
    measured = {}
    for part, measure in enumerate(pipeline.measures):
        meta = pipeline.artifact("measures", part).meta
        measured[measure.name] = Measured(
            version=measure.version,
            settings=with_digests(measure).model_dump(mode="json"),
            values=meta["values"],
            refused=meta.get("refused", ""),
            seconds=meta["cost"]["seconds"],
        )
    return measured


def _keys(pipeline: Pipeline, used: Mapping[str, list[Artifact]]) -> dict[str, list[str]]:
    """Returns the keys of evaluation, set and teacher, and of the statistics if the method uses them."""
    stages = ("evaluate", "distill", "teacher", *(["statistics"] if pipeline.method.needs_teacher else []))
    keys = {stage: [part.key for part in used[stage]] for stage in stages if stage in used}
    if "statistics" in keys:  # those of other layers follow from the method
        keys["statistics"] = keys["statistics"][: pipeline.info.num_classes]
    return keys


def _builds(pipeline: Pipeline, used: Mapping[str, list[Artifact]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns conditions and seconds of the builds of all artifacts that a record depends on, by stage and name.

    The artifacts of on-demand stages are known from those that requested them. Artifacts of older versions do not
    record them.
    """
    builds: dict[str, dict[str, dict[str, Any]]] = {stage.name: {} for stage in pipeline.graph}
    for artifact in (part for parts in used.values() for part in parts):
        builds[artifact.stage][artifact.name] = build_facts(artifact.meta)
        for name, facts in artifact.meta.get("on_demand", {}).items():
            builds[name.partition("/")[0]][name] = facts
    return {stage: each for stage, each in builds.items() if each}


def _data_faults(dataset: Dataset) -> dict[str, Any]:
    """Returns the number of evaluation images that are also training images, and the reasons of skipped images."""
    shared, skipped = dataset.measured_in_train, dataset.skipped
    return {
        **({} if shared is None else {"val_images_in_train": shared}),
        **({"skipped": skipped} if skipped else {}),
    }


def _distinct_conditions(builds: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the distinct conditions of builds, in the order of the builds."""
    return list({canonical_json(facts["conditions"]): facts["conditions"] for facts in builds}.values())


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
