"""Keeps the content digests of the files of a large dataset, so that they are read in full only once."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ddbench.api.dataset import Report, Source
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.decode import parallel_map
from ddbench.data.source import FileSplit
from ddbench.storage.artifacts import read_tensors, write_tensors

KEPT_ABOVE_BYTES = 2 * 1024**3
"""The digests of smaller datasets are computed in every run, which takes seconds."""
SETTLED_SECONDS = 2.0
"""The digest of a file that changed so shortly before the run is not kept: a later change could have the same time."""
_REPORT_EVERY = 500


def read_digests(source: Source, cache: Path, report: Report) -> None:
    """Reads stored digests of a large dataset's files from `CACHE/digests`; computes and stores digests of new files.

    A file is recognised by its path, size, inode and times (of modification, and of the last change of inode or
    content).

    Args:
        source: The dataset. Splits without files are not changed.
        cache: The folder of the cache.
        report: Called with progress events.

    Raises:
        DDBenchError: A file cannot be read.
    """
    settled = time.time() - SETTLED_SECONDS
    splits = [split for split in source.splits.values() if isinstance(split, FileSplit)]
    if sum(int(split.status[:, 0].sum()) for split in splits) <= KEPT_ABOVE_BYTES:
        return
    root = os.path.realpath(splits[0].root)
    path = cache / "digests" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.safetensors"
    kept = _load(path)
    identities = [_identities(split) for split in splits]
    missing = [
        (split, number, index)
        for number, split in enumerate(splits)
        for index, identity in enumerate(identities[number])
        if identity not in kept
    ]
    if missing:
        try:
            for (_, number, index), digest in zip(missing, _read(missing, report), strict=True):
                kept[identities[number][index]] = digest
        finally:  # an interrupted run continues with the next file
            _save(path, splits, identities, kept, settled)
    for split, known in zip(splits, identities, strict=True):
        split.digests = _rows((kept[identity] for identity in known), 32)


def _read(files: list[tuple[FileSplit, int, int]], report: Report) -> Iterator[bytes]:
    def digest(position: int) -> bytes:
        split, _, index = files[position]
        return split.read_digest(index)

    report(Event("started", "data", "reading content", total=len(files)))
    for done, content in enumerate(parallel_map(digest, len(files)), 1):
        yield content
        if done % _REPORT_EVERY == 0:
            report(Event("step", "data", "reading content", done, len(files)))
    report(Event("finished", "data", "reading content", len(files), len(files)))


def _identities(split: FileSplit) -> list[bytes]:
    return [
        hashlib.sha256(os.fsencode(name) + b"\0" + status.tobytes()).digest()[:16]
        for name, status in zip(split.names, split.status, strict=True)
    ]


def _load(path: Path) -> dict[bytes, bytes]:
    stored = read_tensors(path)
    if stored is None:
        return {}
    files, digests = (stored[0][name].numpy() for name in ("files", "digests"))
    return {file.tobytes(): digest.tobytes() for file, digest in zip(files, digests, strict=True)}


def _save(
    path: Path, splits: list[FileSplit], identities: list[list[bytes]], kept: dict[bytes, bytes], settled: float
) -> None:
    files = [
        identity
        for split, known in zip(splits, identities, strict=True)
        for identity, changed in zip(known, split.status[:, 2].tolist(), strict=True)
        if changed < settled * 1e9 and identity in kept
    ]
    tensors = {"files": _rows(files, 16), "digests": _rows((kept[file] for file in files), 32)}
    with contextlib.suppress(DDBenchError):  # without the file, the next run only takes longer
        write_tensors(path, {name: torch.from_numpy(rows.copy()) for name, rows in tensors.items()}, {})


def _rows(values: Iterable[bytes], width: int) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, width)
