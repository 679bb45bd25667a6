"""Datasets: sources, downloads, decoding, the cache of decoded images, held-out images.

The exported classes are imported at their first use, because `ddbench.data.registry` must not import numpy and Pillow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddbench.data.source import ArraySplit, FileSplit

__all__ = ["ArraySplit", "FileSplit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ddbench.data import source

    return getattr(source, name)
