"""Reads distilled sets from datasets of the Hugging Face hub and from local folders of parquet files."""

import hashlib

import torch
from PIL import Image

from ddbench.api.dataset import Report
from ddbench.core.errors import DDBenchError
from ddbench.data.decode import CorruptImage
from ddbench.data.hub import HubSplit, open_hub_split
from ddbench.distillation.set_files import Form, SetFile, fit


def read_hub_set(reference: str, form: Form, report: Report) -> SetFile:
    """Reads one split as a distilled set with hard labels.

    Args:
        reference: `hf:OWNER/NAME[@REVISION][:SPLIT]` or `hf:./FOLDER[:SPLIT]`.
        form: The size of the images.
        report: Called with progress events.

    Raises:
        DDBenchError: The split cannot be read, or an image is damaged.
    """
    if form.pixels not in (None, "unit"):
        raise DDBenchError(f"--pixels {form.pixels}: {reference} holds image files, whose pixels are bytes")
    names, split = open_hub_split(reference, report)
    count = len(split.labels)
    images, notes = fit((_decode(split, index) for index in range(count)), count, form)
    digest = hashlib.sha256(b"\n".join(split.identity())).hexdigest()
    return SetFile(images, torch.from_numpy(split.labels), names, None, digest, count, notes)


def _decode(split: HubSplit, index: int) -> Image.Image:
    try:
        return split.image(index)
    except CorruptImage as error:
        raise DDBenchError(f"{split.name(index)} cannot be read: {error}") from error
