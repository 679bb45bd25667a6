"""Loads a distilled set from files or from a record, as tensors and as a dataset of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.data import Dataset

from ddbench.config.datasets import HUB_PREFIX
from ddbench.core.files import expand_user
from ddbench.distillation.distilled_set import class_weights
from ddbench.distillation.hub_set import read_hub_set
from ddbench.distillation.set_files import Form, read_set
from ddbench.pipeline.evaluate_set import is_path, record_of
from ddbench.results.stored_sets import StoredSet, required_set

if TYPE_CHECKING:
    from ddbench.pipeline.workspace import Workspace


@dataclass(frozen=True)
class LoadedSet(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set, decoded. Its items are pairs of an image (float [3, S, S], 0 black, 1 white) and its label.

    Attributes:
        images: uint8, or float32 with 0 for black and 1 for white, [m, 3, S, S].
        labels: int64 [m].
        weights: Weights of the images in the loss, float [m]. Those of a class sum to 1.
        class_names: The names of the classes, by label.
        extras: Soft labels and the learning rate of the student, if the set has them; see
            `ddbench.distillation.units.EXTRAS`.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    class_names: tuple[str, ...]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return image if image.is_floating_point() else image.float() / 255, self.labels[index]

    def __repr__(self) -> str:
        size = self.images.shape[-1]
        return f"LoadedSet({len(self)} images of {len(self.class_names)} classes, {size} x {size} pixels)"


def load_set(source: str, workspace: Workspace, results_dir: Path, pixels: str | None = None) -> LoadedSet:
    """Loads a distilled set.

    Args:
        source: A file, a folder, the name of a record, or `hf:...`.
        workspace: The cache, and the datasets for a set of real images.
        results_dir: The folder of the records.
        pixels: The space of float images; None: the set holds bytes.

    Returns:
        The set. Images from files have the size of the first one.

    Raises:
        DDBenchError: There is no such set, or it cannot be read.
    """
    is_hub, form = source.startswith(HUB_PREFIX), Form(None, pixels=pixels)
    if is_hub or is_path(source):
        read = read_hub_set(source, form, workspace.relay) if is_hub else read_set(expand_user(Path(source)), form)
        for note in read.notes:
            workspace.note_once(f"{Path(source).name}: {note}", "given")
        weights = class_weights(read.labels, read.weights)
        stored = StoredSet(read.images, read.labels, weights, list(read.names), read.extras)
    else:
        stored = required_set(record_of(source, results_dir), workspace.cache, workspace.dataset)
    stored = stored.decoded()
    return LoadedSet(stored.images, stored.labels, stored.weights, tuple(stored.class_names), stored.extras)
