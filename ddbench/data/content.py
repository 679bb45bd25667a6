"""Keeps the content digests of the files of a large dataset, so that they are read in full only once."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
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
KEPT_ABOVE_FILES = 20_000
"""The digests of smaller datasets are computed in every run, which takes seconds."""
SETTLED_SECONDS = 2.0
"""The digest of a file that changed so shortly before the run is not kept: a later change could have the same time."""
_REPORT_EVERY = 500
Rows = NDArray[np.uint8]


def read_digests(source: Source, cache: Path, report: Report, verify: bool = False) -> None:
    """Reads stored digests of a large dataset's files from `CACHE/digests`; computes and stores digests of new files.

    A file is recognised by its path, size, inode and times (of modification, and of the last change of inode or
    content).

    Args:
        source: The dataset. Splits without files are not changed.
        cache: The folder of the cache.
        report: Called with progress events.
        verify: Whether every file is read, and compared with its stored digest.

    Raises:
        DDBenchError: A file cannot be read.
    """
    settled = time.time() - SETTLED_SECONDS
    splits = [split for split in source.splits.values() if isinstance(split, FileSplit)]
    num_bytes, num_files = sum(int(split.status[:, 0].sum()) for split in splits), sum(len(s.names) for s in splits)
    if num_bytes <= KEPT_ABOVE_BYTES and num_files <= KEPT_ABOVE_FILES:
        return
    root = os.path.realpath(splits[0].root)
    path = cache / "digests" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.safetensors"
    files = np.concatenate([_identities(split) for split in splits])
    stored_files, stored_digests = _load(path)
    digests, known = _look_up(files, stored_files, stored_digests)
    read = np.zeros_like(known) if verify else known.copy()
    if not read.all():
        changed = 0
        try:
            missing = np.flatnonzero(~read).tolist()
            for index, digest in zip(missing, _read(splits, missing, report), strict=True):
                row = np.frombuffer(digest, dtype=np.uint8)
                changed += bool(known[index]) and not np.array_equal(digests[index], row)
                digests[index], read[index] = row, True
        finally:  # an interrupted run continues with the next file
            times = np.concatenate([split.status[:, 2] for split in splits])
            kept = (read | known) & (times < settled * 1e9)
            _save(path, files[kept], digests[kept])
        if changed:
            text = f"{changed} of {num_files} files have another content than before, with the same size and times"
            report(Event("note", "data", message=text))
    for split, rows in zip(splits, np.split(digests, [len(splits[0].names)]), strict=False):
        split.digests = rows


def _look_up(files: Rows, stored_files: Rows, stored_digests: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """Returns the stored digest of each file, and whether there is one."""
    if np.array_equal(files, stored_files):  # nothing has changed
        return stored_digests.copy(), np.ones(len(files), dtype=bool)
    rows = {file.tobytes(): row for row, file in enumerate(stored_files)}
    found = np.array([rows.get(file.tobytes(), -1) for file in files])
    digests = np.zeros((len(files), 32), dtype=np.uint8)
    digests[found >= 0] = stored_digests[found[found >= 0]]
    return digests, found >= 0


def _read(splits: list[FileSplit], files: list[int], report: Report) -> Iterator[bytes]:
    """Yields the digests of files, which are numbered through all splits."""
    first = len(splits[0].names)

    def digest(position: int) -> bytes:
        index = files[position]
        return splits[0].read_digest(index) if index < first else splits[1].read_digest(index - first)

    report(Event("started", "data", "reading content", total=len(files)))
    for done, content in enumerate(parallel_map(digest, len(files)), 1):
        yield content
        if done % _REPORT_EVERY == 0:
            report(Event("step", "data", "reading content", done, len(files)))
    report(Event("finished", "data", "reading content", len(files), len(files)))


def _identities(split: FileSplit) -> Rows:
    digests = (
        hashlib.sha256(os.fsencode(name) + b"\0" + status.tobytes()).digest()[:16]
        for name, status in zip(split.names, split.status, strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)


def _load(path: Path) -> tuple[Rows, Rows]:
    """Returns the identities [n, 16] and the digests [n, 32] that are stored."""
    stored = read_tensors(path)
    if stored is None:
        return np.empty((0, 16), dtype=np.uint8), np.empty((0, 32), dtype=np.uint8)
    return stored[0]["files"].numpy(), stored[0]["digests"].numpy()


def _save(path: Path, files: Rows, digests: Rows) -> None:
    tensors = {"files": torch.from_numpy(files), "digests": torch.from_numpy(digests)}
    with contextlib.suppress(DDBenchError):  # without the file, the next run only takes longer
        write_tensors(path, tensors, {})
