"""Reads the stored labels of a record from the cache, for their export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.core.errors import DDBenchError
from ddbench.evaluators.label_folders import FORMAT, TENSORS, LabelFile

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.results.records import Record
    from ddbench.storage.cache import Cache


def stored_labels(record: Record, cache: Cache) -> LabelFile:
    """Reads the labels of a record's student from the cache.

    Args:
        record: A record of the protocol `fkd` with `evaluator.labels=stored`.
        cache: The cache.

    Raises:
        DDBenchError: The student had no stored labels, or they are no longer in the cache.
    """
    import torch

    from ddbench.augment.views import batch_slices
    from ddbench.evaluators.selection import held_out
    from ddbench.storage.artifacts import read_tensors

    settings = record.configuration["evaluator_settings"]
    if settings.get("labels") != "stored":
        raise DDBenchError(
            f"{record.name} has no stored labels: run it with --evaluator fkd --set evaluator.labels=stored"
        )
    evaluation = cache.read("evaluate", record.keys["evaluate"][0])
    names = [] if evaluation is None else [name for name in evaluation.meta["made_from"] if name.startswith("labels/")]
    labels = cache.read("labels", names[0].partition("/")[2]) if len(names) == 1 else None
    header = read_tensors(evaluation.path) if evaluation is not None else None
    units = [cache.read("distill", key) for key in record.keys["distill"]]
    if labels is None or header is None or None in units:
        raise DDBenchError(f"the labels of {record.name} are no longer in the cache: run it again")
    real = header[1]["depends_on"]["real"]
    seed = record.seed + record.student_seed
    share = settings.get("select_share")
    classes = torch.cat([_trained_classes(unit.tensors) for unit in units if unit is not None])
    trained = ~held_out(classes, share, seed) if share else torch.ones(len(classes), dtype=torch.bool)
    tensors = {**labels.tensors, "rows": trained.nonzero().flatten()}
    batches = batch_slices(len(tensors["rows"]), min(settings["batch_size"], len(tensors["rows"])))
    factor = "times" if settings.get("squared_temperature") else "without a factor"
    description = {
        "format": FORMAT,
        "record": record.name,
        "distilled_digest": record.distilled_digest,
        **_teachers(record, settings.get("teachers", ())),
        "student_seed": seed,
        "protocol": {"name": record.evaluator, "version": record.evaluator_version, **settings},
        "loss": f"KL(softmax(logits / T) || softmax(student / T)) {factor} T^2, weighted by the set's `weights`",
        "class_names": real["classes"],
        "image_size": real["image_size"],
        "mean": real["mean"],
        "std": real["std"],
        **({"epochs": "epoch e has entry e mod label_views of each tensor"} if settings.get("label_views") else {}),
        "batches": [[batch.start, batch.stop] for batch in batches],
        "tensors": {
            name: {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "is": TENSORS[name]}
            for name, value in sorted(tensors.items())
        },
    }
    return LabelFile(tensors, description)


def _trained_classes(unit: Mapping[str, Tensor]) -> Tensor:
    """Returns the classes of the images that students are trained on."""
    return unit["labels"].repeat_interleave(int(unit.get("decode_factor", 1)) ** 2)


def _teachers(record: Record, pool: Sequence[str]) -> dict[str, Any]:
    """Returns the teacher of the labels as `teacher`, or the teachers of a pool, whose mean they are, as `teachers`."""
    others = record.teacher.get("others", {})
    if not pool:
        return {"teacher": _identity(record.teacher)}
    return {"teachers": [{**_identity(others.get(name, record.teacher)), "name": name} for name in pool]}


def _identity(teacher: dict[str, Any]) -> dict[str, Any]:
    return {name: teacher[name] for name in ("name", "top1", "digest") if name in teacher}
