"""Names and formats of distilled sets that are given. A name contains a digest, never a path. Imports no torch."""

import re
from collections.abc import Mapping

from ddbench.api.dataset import IMAGENET_MEAN, IMAGENET_STD, RGB

METHOD_PREFIX = "given:"
"""The method of a given set is named `given:NAME@DIGEST`."""
SET_PREFIX = "set:"
"""The setting `initial` of a method names a given set `set:DIGEST`."""
SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
"""Files that can hold a set."""
SPACES: Mapping[str, tuple[RGB, RGB]] = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Mean and standard deviation of normalised float images. Those of CIFAR are in the code of DC, DM and MTT."""
ZCA = "zca"
"""The space of whitened images, which is refused: whitened sets are measured on whitened real images."""
DIGITS = 16
"""Hexadecimal digits of the digest in these names."""
_NAME = re.compile(rf"{METHOD_PREFIX}[\w.-]+@([0-9a-f]{{{DIGITS}}})", re.ASCII)
_SET = re.compile(rf"{SET_PREFIX}([0-9a-f]{{{DIGITS}}})")


def method_name(name: str, digest: str) -> str:
    """Returns the name of the method of a given set. Of `name` letters, digits, `_`, `-` and dots remain.

    Args:
        name: The name of its file or folder, without suffix, or of the record that it is from.
        digest: Its digest.

    Example:
        >>> method_name("my images", "0123456789abcdef0123")
        'given:my_images@0123456789abcdef'
    """
    own = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._")[:60] or "set"
    return f"{METHOD_PREFIX}{own}@{digest[:DIGITS]}"


def digest_in(reference: str) -> str | None:
    """Returns the digest in `given:NAME@DIGEST` or `set:DIGEST`; None for another text, such as a path.

    Example:
        >>> digest_in("given:mtt@0123456789abcdef"), digest_in("set:0123456789abcdef"), digest_in("sets/mtt.pt")
        ('0123456789abcdef', '0123456789abcdef', None)
    """
    match = _NAME.fullmatch(reference) or _SET.fullmatch(reference)
    return match[1] if match else None
