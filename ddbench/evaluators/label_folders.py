"""Labels of every view in a folder, in the format of `ddbench export --labels` or of SRe2L's released code (FKD)."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import RandomSampler

from ddbench.core.errors import DDBenchError
from ddbench.evaluators.label_budgets import LabelBudget
from ddbench.evaluators.packed_views import num_bytes
from ddbench.nn.checkpoint_files import read_torch_file, reason_unreadable

FORMAT = "ddbench fkd labels 1"
FILE, DESCRIPTION = "labels.safetensors", "labels.json"
TENSORS = {
    "logits": "[epochs, n, K]: the teacher's logits of the view at each position of an epoch, after CutMix; with "
    "`classes` only those of these classes",
    "codes": "[epochs, n, K]: with label_bits 8 or 4, codes of the logits: offset + scale * code; 4 bits: two in a "
    "byte, the first in the low bits",
    "offsets": "[epochs, n]: the offset of the codes of each view",
    "scales": "[epochs, n]: the scale of the codes of each view",
    "classes": "[epochs, n, label_top]: the classes whose logits are stored; the logit of the others is 0",
    "order": "[epochs, n]: the image at each position, a number in `rows`",
    "boxes": "[epochs, n, 4]: its crop (top, left, height, width in pixels), resized to S x S bilinear, antialiased",
    "places": "[epochs, n, 2, factor]: where each row and each column of its patches moves, before the crop",
    "flips": "[epochs, n]: whether the crop is flipped left-right",
    "partners": "[epochs, n]: the position, within its batch, of the view that CutMix pastes from",
    "mix_boxes": "[epochs, batches, 4]: the pasted box of each batch (top, left, height, width in pixels)",
    "rows": "[n]: the rows of the images in the exported set; without held-out images 0 to n - 1",
}
"""What the tensors of the file are, for its description."""
PLAIN = "save plain values: torch.save([coords, flips, index, float(lam), [int(x) for x in box], logits], PATH)"


@dataclass(frozen=True)
class LabelFile:
    """The labels of one student, as `ddbench export --labels` writes them.

    Attributes:
        tensors: Those of `TENSORS`; without CutMix no `partners` and `mix_boxes`.
        description: What they are, as JSON: format, set, teacher, seed, protocol, normalisation, batches, tensors.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Writes `labels.safetensors` and `labels.json` into a folder."""
        save_file({name: value.contiguous() for name, value in self.tensors.items()}, folder / FILE)
        text = json.dumps(self.description, indent=2, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_labels(folder: Path) -> LabelFile:
    """Reads labels that were exported.

    Args:
        folder: The folder of the exported set.

    Raises:
        DDBenchError: The folder holds no labels in this format. The message is one line.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise DDBenchError(f"{folder} holds no labels of ddbench export --labels: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise DDBenchError(f"{folder / DESCRIPTION} does not describe labels in the format '{FORMAT}'")
    return LabelFile(tensors, description)


class Labels(ABC):
    """The views and labels of every epoch.

    Attributes:
        epochs: The number of epochs that the labels are for.
        batches: The batches of an epoch, in positions.
        rows: The images of the set that the views are of, int64 [n].
        weights: Weights of these images, float [n]; None: those of the set.
        schedule: The schedule of the learning rate under the protocol of the labels, "cosine" or "half-cosine".
        temperature: The temperature that the labels are for; None: any.
    """

    epochs: int
    batches: tuple[slice, ...]
    rows: Tensor
    weights: Tensor | None = None
    schedule: str = "cosine"
    temperature: float | None = None

    @abstractmethod
    def epoch(self, number: int) -> Mapping[str, Tensor]:
        """Returns `logits` (float16 or float32 [n, K]) and the tensors of `pack_views` of an epoch."""

    def num_bytes(self, epochs: int) -> int:
        """Returns the bytes of the labels and views of the first epochs."""
        return epochs * num_bytes(self.epoch(0))


def open_labels(folder: Path, size: int, order_seed: int) -> Labels:
    """Opens a folder of labels.

    Args:
        folder: A folder of `ddbench export --labels`, or with files `epoch_*/batch_*.tar` of SRe2L's relabel code.
        size: The side of the images and the views in pixels.
        order_seed: The seed of the order of the images in SRe2L's code (`--fkd-seed`).

    Raises:
        DDBenchError: The folder holds neither. The message is one line.
    """
    if (folder / DESCRIPTION).is_file():
        return _Exported(folder)
    if (folder / "epoch_0").is_dir():
        return _Released(folder, size, order_seed)
    raise DDBenchError(f"{folder} holds no labels: neither {DESCRIPTION} of ddbench export nor epoch_0 of SRe2L")


class _Exported(Labels):
    """Labels of `ddbench export --labels`."""

    def __init__(self, folder: Path) -> None:
        file = read_labels(folder)
        try:
            self._open(file)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise DDBenchError(
                f"{folder / DESCRIPTION} is not as ddbench export --labels writes it ({problem})"
            ) from error

    def _open(self, file: LabelFile) -> None:
        self._tensors = {name: value for name, value in file.tensors.items() if name != "rows"}
        self._stored = len(self._tensors["order"])
        protocol = file.description["protocol"]
        self._budget = LabelBudget(
            protocol.get("label_views"), protocol.get("label_top"), protocol.get("label_bits", 16)
        )
        self._classes = len(file.description["class_names"])
        self.rows = file.tensors["rows"]
        self.batches = tuple(slice(start, stop) for start, stop in file.description["batches"])
        if self.batches[-1].stop != len(self.rows):
            raise ValueError(f"batches of {self.batches[-1].stop} views, not {len(self.rows)}")
        self.epochs = self._stored
        if self._budget.views is not None:
            self.epochs = protocol["epochs"] or math.ceil(protocol["steps"] / len(self.batches))
        if self._budget.top is not None:
            self.temperature = protocol["temperature"]
        default = "half-cosine" if protocol["name"] == "rded" else "cosine"
        self.schedule = protocol.get("schedule", default)

    def epoch(self, number: int) -> Mapping[str, Tensor]:
        stored = {name: value[number % self._stored] for name, value in self._tensors.items()}
        return {**stored, "logits": self._budget.decode(stored, self._classes)}

    def num_bytes(self, epochs: int) -> int:
        return min(epochs, self._stored) * num_bytes({name: value[0] for name, value in self._tensors.items()})


class _Released(Labels):
    """Labels of the released code of SRe2L and WMDD: `epoch_E/batch_B.tar`, each a list.

    The list holds the crops (top, left, height, width as fractions of the image), the flips, the partners, lambda and
    the box of CutMix (or None), the logits, and in WMDD the weights. The images of a batch are not named: their order
    is that of torch's `RandomSampler` over the sorted files, with one generator for all epochs.
    """

    def __init__(self, folder: Path, size: int, order_seed: int) -> None:
        self._folder, self._size = folder, size
        numbers = _numbers(folder, r"epoch_(\d+)")
        self.epochs, self._parts = len(numbers), len(_numbers(folder / "epoch_0", r"batch_(\d+)\.tar"))
        self._orders: list[Tensor] = []
        first = self._read(0)
        sizes = [len(batch["flips"]) for batch in first]
        self.batches = tuple(slice(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0)))
        self.rows = torch.arange(sum(sizes))
        self._sampler = RandomSampler(range(sum(sizes)), generator=torch.Generator().manual_seed(order_seed))
        if all("weights" in batch for batch in first):
            self.weights = torch.empty(sum(sizes)).index_copy_(
                0, self._order(0).long(), torch.cat([batch["weights"] for batch in first]).float()
            )

    def epoch(self, number: int) -> Mapping[str, Tensor]:
        batches = self._read(number)
        names = [name for name in batches[0] if name not in ("mix_boxes", "weights")]
        try:
            tensors = {name: torch.cat([batch[name] for batch in batches]) for name in names}
            if "partners" in names:
                tensors["mix_boxes"] = torch.stack([batch["mix_boxes"] for batch in batches])
        except (KeyError, RuntimeError) as error:
            raise DDBenchError(f"{self._folder}/epoch_{number}: its batches differ in form") from error
        if len(tensors["flips"]) != len(self.rows):
            raise DDBenchError(f"{self._folder}/epoch_{number} has {len(tensors['flips'])} views, not {len(self.rows)}")
        return {**tensors, "order": self._order(number)}

    def _order(self, epoch: int) -> Tensor:
        while len(self._orders) <= epoch:
            self._orders.append(torch.tensor(list(self._sampler), dtype=torch.int32))
        return self._orders[epoch]

    def _read(self, epoch: int) -> list[dict[str, Tensor]]:
        folder = self._folder / f"epoch_{epoch}"
        return [self._batch(folder / f"batch_{number}.tar") for number in range(self._parts)]

    def _batch(self, path: Path) -> dict[str, Tensor]:
        try:
            content = read_torch_file(path)
        except Exception as error:  # a damaged or malicious file may raise anything
            raise DDBenchError(f"{path} cannot be read as labels: {reason_unreadable(path, error, PLAIN)}") from error
        if not isinstance(content, list | tuple) or len(content) not in (6, 7):
            raise DDBenchError(f"{path} is not a batch of labels of SRe2L, a list of 6 or 7 entries")
        coords, flips, partners, _, box, logits, *weights = content
        count = len(logits) if isinstance(logits, Tensor) and logits.ndim == 2 else -1
        if partners is not None and box is None:
            raise DDBenchError(f"{path}: the labels are of mixup, and only those of CutMix or without mixing are read")
        shapes = [(coords, (count, 4)), (flips, (count,)), (logits, (count, *getattr(logits, "shape", (0,))[1:]))]
        shapes += [(partners, (count,))] if partners is not None else []
        shapes += [(weights[0], (count,))] if weights else []
        if not all(isinstance(value, Tensor) and tuple(value.shape) == shape for value, shape in shapes):
            raise DDBenchError(f"{path}: crops, flips, partners and logits are not tensors of one length")
        if not bool(logits.isfinite().all()) or not bool(((coords >= 0) & (coords <= 1)).all()):
            raise DDBenchError(f"{path}: the logits are not finite, or the crops are not fractions of the image")
        batch = {"logits": logits.half(), "boxes": self._boxes(coords).short(), "flips": flips.bool()}
        if partners is not None:
            if not (isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(end, int) for end in box)):
                raise DDBenchError(f"{path}: the box of CutMix is not four whole numbers: {PLAIN}")
            top, left, bottom, right = box  # their x is the row
            if not (0 <= top <= bottom <= self._size and 0 <= left <= right <= self._size):
                raise DDBenchError(f"{path}: the box of CutMix is {box}, outside of views of {self._size} px")
            if bool(((partners < 0) | (partners >= count)).any()):
                raise DDBenchError(f"{path}: the partners of CutMix are not positions in the batch")
            mix_box = torch.tensor([top, left, bottom - top, right - left], dtype=torch.int16)
            batch |= {"partners": partners.int(), "mix_boxes": mix_box}
        return batch | ({"weights": weights[0]} if weights else {})

    def _boxes(self, coords: Tensor) -> Tensor:
        """Returns crops in pixels: the edges are rounded, as Pillow does in the released code."""
        start, length = coords[:, :2].double(), coords[:, 2:].double()
        first = (start * self._size).round().long().clamp(max=self._size - 1)
        last = ((start + length) * self._size).round().long().clamp(max=self._size)
        return torch.cat([first, (last - first).clamp(min=1)], 1)


def _numbers(folder: Path, pattern: str) -> list[int]:
    """Returns the numbers in the names in a folder, which must be 0, 1, 2, ..."""
    matches = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers or numbers != list(range(len(numbers))):
        raise DDBenchError(f"{folder}: files or folders are missing; their numbers must be 0, 1, 2, ...")
    return numbers
