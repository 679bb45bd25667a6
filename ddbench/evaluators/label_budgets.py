"""Labels of views in fewer bytes: fewer views, the largest probabilities of each view, logits in fewer bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelBudget:
    """How many labels of a student are stored, and in which form.

    Attributes:
        views: The epochs whose views and labels are stored. Epoch e uses those of epoch e mod `views`. None: all.
        top: The number of the largest probabilities of each view that are stored; see `largest`. None, or at least
            the number of classes: all.
        bits: The bits of a logit: 16 (float16), 8 or 4; see `quantise`.
    """

    views: int | None = None
    top: int | None = None
    bits: Literal[16, 8, 4] = 16

    def epochs(self, epochs: int) -> int:
        """Returns the number of epochs whose labels are stored for a student of `epochs` epochs."""
        return epochs if self.views is None else min(self.views, epochs)

    def encode(self, logits: Tensor, temperature: float) -> dict[str, Tensor]:
        """Converts the teacher's logits to the tensors that are stored.

        Args:
            logits: The logits, float16 [B, K].
            temperature: The temperature of the labels.

        Returns:
            With 16 bits `logits`, float16 [B, n]; else `codes`, uint8 [B, n] or two in a byte, `offsets` and `scales`,
            float16 [B]. n is K; with `top` it is `top`, and `classes`, integers [B, n], are stored too.

        Example:
            >>> logits = torch.tensor([[4.0, 1.0, 0.0, 1.0, 0.0]]).half()
            >>> LabelBudget(top=1).encode(logits, temperature=1.0)
            {'logits': tensor([[3.3809]], dtype=torch.float16), 'classes': tensor([[0]], dtype=torch.uint8)}
            >>> {name: list(tensor.shape) for name, tensor in LabelBudget(bits=4).encode(logits, 1.0).items()}
            {'codes': [1, 3], 'offsets': [1], 'scales': [1]}
        """
        classes: dict[str, Tensor] = {}
        if self._drops_classes(logits.shape[1]):
            assert self.top is not None
            dtype = index_dtype(logits.shape[1])
            logits, indices = largest(logits, self.top, temperature)
            classes = {"classes": indices.to(dtype)}
        if self.bits == 16:
            return {"logits": logits, **classes}
        codes, offsets, scales = quantise(logits, self.bits)
        codes = pack_pairs(codes) if self.bits == 4 else codes
        return {"codes": codes, "offsets": offsets, "scales": scales, **classes}

    def decode(self, encoded: Mapping[str, Tensor], num_classes: int) -> Tensor:
        """Converts the tensors of `encode` to the logits of the labels.

        Args:
            encoded: The tensors. Others are ignored.
            num_classes: K.

        Returns:
            The logits [B, K]: float16 if all are stored with 16 bits, else float32. With `top`, those of the classes
            that are not stored are 0.
        """
        drops = self._drops_classes(num_classes)
        if self.bits == 16:
            logits = encoded["logits"]
        else:
            stored = self.top if drops and self.top is not None else num_classes
            codes = unpack_pairs(encoded["codes"], stored) if self.bits == 4 else encoded["codes"]
            logits = dequantise(codes, encoded["offsets"], encoded["scales"])
        if not drops:
            return logits
        return torch.zeros(len(logits), num_classes, device=logits.device).scatter_(
            1, encoded["classes"].long(), logits.float()
        )

    def _drops_classes(self, num_classes: int) -> bool:
        return self.top is not None and self.top < num_classes


ALL_LABELS = LabelBudget()
"""Every view has its own label, with all logits in float16."""


def largest(logits: Tensor, top: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Selects the largest probabilities of each label; the other classes share the rest of the mass evenly.

    This is the marginal smoothing with top-k of FKD (Shen and Xing, A Fast Knowledge Distillation Framework for Visual
    Recognition, ECCV 2022): of p = softmax(z / T), the k largest are kept, and each other class has the probability
    (1 - their sum) / (K - k). Labels are stored as logits here: the other classes have one common logit
    c = T log mean exp(z / T), with the mean over these classes. A softmax does not change if c is subtracted from all
    logits, so z - c of the k classes is enough. Of equal logits, those of the first classes are kept.

    Args:
        logits: z, float16 [B, K].
        top: k, below K.
        temperature: T.

    Returns:
        z - c of the classes with the largest probabilities, in descending order, float16 [B, k]; their numbers,
        int64 [B, k].

    Example:
        >>> values, classes = largest(torch.tensor([[4.0, 1.0, 0.0, 1.0, 0.0]]).half(), top=1, temperature=1.0)
        >>> label = torch.zeros(1, 5).scatter_(1, classes, values.float()).softmax(1)
        >>> label.round(decimals=3)  # the softmax is 0.880, 0.044, 0.016, 0.044, 0.016
        tensor([[0.8800, 0.0300, 0.0300, 0.0300, 0.0300]])
    """
    ordered, classes = logits.float().sort(dim=1, descending=True, stable=True)
    rest = ordered[:, top:] / temperature
    common = temperature * (rest.logsumexp(1, keepdim=True) - math.log(rest.shape[1]))
    values = (ordered[:, :top] - common).clamp(max=torch.finfo(torch.float16).max)
    return values.half(), classes[:, :top]


def quantise(values: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds the numbers of each row to 2^bits equidistant levels, from the smallest number to the largest.

    A number is `offset` + `scale` code, and its error is at most half of `scale`.

    Args:
        values: Numbers, float16 [B, n].
        bits: Bits of a code, at most 8.

    Returns:
        Codes, uint8 [B, n]; the offset and the scale of each row, float16 [B].

    Example:
        >>> codes, offsets, scales = quantise(torch.tensor([[-1.0, 0.3, 2.75]]).half(), bits=4)
        >>> codes, dequantise(codes, offsets, scales)
        (tensor([[ 0,  5, 15]], dtype=torch.uint8), tensor([[-1.0000,  0.2500,  2.7500]]))
    """
    steps = 2**bits - 1
    offsets, high = values.aminmax(dim=1)
    scales = ((high.float() - offsets.float()) / steps).half()
    # A scale that rounds to 0 is that of equal numbers, up to rounding.
    distance = (values.float() - offsets.float()[:, None]) / scales.float().clamp(min=1e-30)[:, None]
    return distance.round().clamp(0, steps).to(torch.uint8), offsets, scales


def dequantise(codes: Tensor, offsets: Tensor, scales: Tensor) -> Tensor:
    """Returns the numbers of `quantise`, float32 [B, n]."""
    return offsets.float()[:, None] + scales.float()[:, None] * codes.float()


def pack_pairs(codes: Tensor) -> Tensor:
    """Packs codes of 4 bits, two in a byte: the first of a pair in the low bits. An odd last code has a byte.

    Args:
        codes: Codes below 16, uint8 [B, n].

    Returns:
        uint8 [B, ceil(n / 2)].

    Example:
        >>> packed = pack_pairs(torch.tensor([[1, 2, 15]], dtype=torch.uint8))
        >>> packed, unpack_pairs(packed, 3)
        (tensor([[33, 15]], dtype=torch.uint8), tensor([[ 1,  2, 15]], dtype=torch.uint8))
    """
    low, high = codes[:, ::2], codes[:, 1::2]
    packed = low.clone()
    packed[:, : high.shape[1]] += high << 4
    return packed


def unpack_pairs(packed: Tensor, count: int) -> Tensor:
    """Returns the `count` codes of each row that `pack_pairs` packed, uint8 [B, count]."""
    return torch.stack([packed & 15, packed >> 4], 2).flatten(1)[:, :count]


def index_dtype(num_classes: int) -> torch.dtype:
    """Returns the smallest integer type for the numbers of classes.

    Example:
        >>> index_dtype(10), index_dtype(1000)
        (torch.uint8, torch.int16)
    """
    if num_classes <= 2**8:
        return torch.uint8
    return torch.int16 if num_classes <= 2**15 else torch.int32
