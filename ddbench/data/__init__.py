"""Datasets: where their images come from, decoding, the decoded cache, hold-out."""

from ddbench.data.source import ArraySplit, FileSplit

__all__ = ["ArraySplit", "FileSplit"]
