"""Exports the stored labels of `fkd`: the teacher's logits of every view, with the views, for another program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.results.records import Record
    from ddbench.storage.cache import Cache

FORMAT = "ddbench fkd labels 1"
FILE, DESCRIPTION = "labels.safetensors", "labels.json"
TENSORS = {
    "logits": "[epochs, n, K]: the teacher's logits of the view at each position of an epoch, after CutMix",
    "order": "[epochs, n]: the image at each position, a number in `rows`",
    "boxes": "[epochs, n, 4]: its crop (top, left, height, width in pixels), resized to S x S bilinear, antialiased",
    "places": "[epochs, n, 2, factor]: where each row and each column of its patches moves, before the crop",
    "flips": "[epochs, n]: whether the crop is flipped left-right",
    "partners": "[epochs, n]: the position, within its batch, of the view that CutMix pastes from",
    "mix_boxes": "[epochs, batches, 4]: the pasted box of each batch (top, left, height, width in pixels)",
    "rows": "[n]: the rows of the images in the exported set; without held-out images 0 to n - 1",
}
"""What the tensors of the file are, for its description."""


@dataclass(frozen=True)
class StoredLabels:
    """The labels of one student.

    Attributes:
        tensors: Those of `TENSORS`; without CutMix no `partners` and `mix_boxes`, without patch shuffling no
            `places`.
        description: What they are, as JSON: format, set, teacher, seed, protocol, normalisation, batches, tensors.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Writes `labels.safetensors` and `labels.json` into a folder."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in self.tensors.items()}, folder / FILE)
        text = json.dumps(self.description, indent=2, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_labels(folder: Path) -> StoredLabels:
    """Reads labels that were exported.

    Args:
        folder: The folder of the exported set.

    Raises:
        DDBenchError: The folder holds no labels in this format. The message is one line.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise DDBenchError(f"{folder} holds no labels of ddbench export --labels: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise DDBenchError(f"{folder / DESCRIPTION} does not describe labels in the format '{FORMAT}'")
    return StoredLabels(tensors, description)


def stored_labels(record: Record, cache: Cache) -> StoredLabels:
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
    classes = torch.cat([unit.tensors["labels"] for unit in units if unit is not None])
    trained = ~held_out(classes, share, seed) if share else torch.ones(len(classes), dtype=torch.bool)
    tensors = {**labels.tensors, "rows": trained.nonzero().flatten()}
    batches = batch_slices(len(tensors["rows"]), min(settings["batch_size"], len(tensors["rows"])))
    description = {
        "format": FORMAT,
        "record": record.name,
        "distilled_digest": record.distilled_digest,
        "teacher": {name: record.teacher[name] for name in ("name", "top1", "digest") if name in record.teacher},
        "student_seed": seed,
        "protocol": {"name": record.evaluator, "version": record.evaluator_version, **settings},
        "loss": "KL(softmax(logits / T) || softmax(student / T)) without a factor T^2, weighted by the set's `weights`",
        "class_names": real["classes"],
        "image_size": real["image_size"],
        "mean": real["mean"],
        "std": real["std"],
        "batches": [[batch.start, batch.stop] for batch in batches],
        "tensors": {
            name: {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "is": TENSORS[name]}
            for name, value in sorted(tensors.items())
        },
    }
    return StoredLabels(tensors, description)
