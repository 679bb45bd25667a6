"""Reads distilled sets from datasets of the Hugging Face hub and from local folders of parquet files."""

import hashlib
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddbench.api.dataset import Report
from ddbench.core.errors import DDBenchError
from ddbench.data.decode import CorruptImage
from ddbench.data.hub import HubSplit, open_hub_split
from ddbench.distillation.set_files import Form, SetFile, fit, refuse_resized_parts
from ddbench.distillation.set_tensors import check_weights, find_extras
from ddbench.distillation.units import OF_WHOLE_SET, check_extras


def read_hub_set(reference: str, form: Form, report: Report) -> SetFile:
    """Reads one split as a distilled set.

    Its columns `weight` and those of `EXTRAS`, as `ddbench export` writes them, are optional.

    Args:
        reference: `hf:OWNER/NAME[@REVISION][:SPLIT]` or `hf:./FOLDER[:SPLIT]`.
        form: The size of the images.
        report: Called with progress events.

    Raises:
        DDBenchError: The split cannot be read, an image is damaged, or a column is invalid.
    """
    if form.pixels not in (None, "unit"):
        raise DDBenchError(f"--pixels {form.pixels}: {reference} holds image files, whose pixels are bytes")
    names, split = open_hub_split(reference, report)
    count = len(split.labels)
    columns = {name: _numbers(reference, name, values) for name, values in split.columns.items()}
    weights = columns.pop("weight", None)
    if weights is not None:
        weights = weights.float()
        check_weights(reference, weights, count)
    columns |= {name: torch.unique(columns[name]) for name in OF_WHOLE_SET if name in columns}
    extras = find_extras(reference, columns)
    images, notes = fit((_decode(split, index) for index in range(count)), count, form)
    check_extras(extras, count, len(names), images.shape[-1], f"{reference} has")
    if notes:
        refuse_resized_parts(extras, images.shape[-1])
    lines = [*split.identity(), *(name.encode() + values.tobytes() for name, values in sorted(split.columns.items()))]
    digest = hashlib.sha256(b"\n".join(lines)).hexdigest()
    return SetFile(images, torch.from_numpy(split.labels), names, weights, digest, count, notes, extras)


def _numbers(reference: str, name: str, values: NDArray[Any]) -> Tensor:
    if values.dtype.kind not in "fi":
        raise DDBenchError(f"{reference}: the column {name} does not hold numbers, in lists of equal length or alone")
    return torch.from_numpy(values)


def _decode(split: HubSplit, index: int) -> Image.Image:
    try:
        return split.image(index)
    except CorruptImage as error:
        raise DDBenchError(f"{split.name(index)} cannot be read: {error}") from error
