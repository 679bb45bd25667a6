"""Content-addressed artifacts: one safetensors file each, written atomically, locked, verified by digest on reading."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench import stopping
from ddbench.errors import DDBenchError
from ddbench.events import STAGES

FORMAT = "1"

Tensors = dict[str, Tensor]
Built = tuple[Tensors, dict[str, Any]]


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Raises TypeError for what JSON lacks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(depends_on: Mapping[str, Any]) -> str:
    """The key of everything an artifact depends on: 32 hexadecimal characters of SHA-256 over canonical JSON."""
    return hashlib.sha256(canonical(depends_on).encode()).hexdigest()[:32]


def digest_of(tensors: Mapping[str, Tensor], meta: str = "") -> str:
    """SHA-256 (hexadecimal) over names, types, shapes and bytes of CPU tensors, in the order of their names."""
    sha = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        if tensor.numel():
            sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a disk can answer to a write below `path` into one clear DDBenchError line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        text = str(error)
        told = re.search(r"os error (\d+)", text)  # safetensors says it in words alone
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise DDBenchError(
                f"the disk is full: {path} could not be written; free some space, then run again"
            ) from error
        if number is not None:
            raise DDBenchError(f"cannot write to {path}: {os.strerror(number)}") from error
        if isinstance(error, OSError):
            raise DDBenchError(f"cannot write to {path}: {text}") from error
        raise


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it becomes `path` when the block ends, and is gone where the block fails.

    Makes the folder. Raises DDBenchError as `writing` does.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Tensors, meta: Mapping[str, Any]) -> str:
    """Writes one safetensors file so that it is there whole or not at all. Returns its digest.

    `meta` is JSON-able. Raises DDBenchError where the disk is full or the folder cannot be written.
    """
    text = canonical(meta)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = digest_of(on_cpu, text)
    with whole(path) as partial:
        save_file(on_cpu, str(partial), metadata={"format": FORMAT, "meta": text, "digest": digest})
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
    return digest


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any], str] | None:
    """Reads what `write_tensors` wrote: (memory-mapped tensors, meta, digest), or None where it is damaged."""
    try:
        with safe_open(str(path), framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a mapping)
        text, digest = header["meta"], header["digest"]
        if header["format"] != FORMAT or digest_of(tensors, text) != digest:
            return None
        return tensors, json.loads(text), digest
    # RuntimeError: torch's, where the file goes away (a checkpoint that is done with) between two openings of it.
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
        return None


def _sweep(path: Path) -> None:
    """Removes what killed writers of `path` left half-written; nobody else may be writing it."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        partial.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Renames a damaged file so that it is never read again, and returns its new path."""
    target = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    with writing(path):
        path.replace(target)
    return target


@dataclass(frozen=True)
class Artifact:
    """A finished result of one stage: tensors (memory-mapped), its JSON meta, and the digest of both."""

    stage: str
    key: str
    path: Path
    tensors: Tensors
    meta: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Checkpoint:
    """The place where a running build saves how far it is; it outlives the process and goes when the build is done."""

    path: Path
    warn: Callable[[str], None] = field(default=lambda text: None, compare=False)

    def load(self) -> Built | None:
        """What was saved last, or None (nothing there, or damaged: then it is set aside, with a warning)."""
        if not self.path.exists():
            return None
        found = read_tensors(self.path)
        if found is None:
            self.warn(f"damaged checkpoint set aside: {set_aside(self.path)}; starting this part again")
            return None
        return found[0], found[1]

    def save(self, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        """Replaces what was saved, atomically."""
        stopping.answered()
        write_tensors(self.path, tensors, meta)

    def clear(self) -> None:
        """Removes it."""
        self.path.unlink(missing_ok=True)


class Cache:
    """Artifacts below one folder, by stage and key.

    `force` names stages whose artifacts are computed anew in this process even where they exist; `warn` is told
    of every damaged artifact. Raises DDBenchError where the folder cannot be made.
    """

    def __init__(
        self, root: Path, force: frozenset[str] = frozenset(), warn: Callable[[str], None] | None = None
    ) -> None:
        self.root = root
        self._warn = warn or (lambda text: None)
        # Keys cannot see the new content of what stands upstream: forcing a stage forces every stage after it.
        first = min((STAGES.index(stage) for stage in force), default=len(STAGES))
        self._force = frozenset(STAGES[first:])
        self._fresh: set[Path] = set()

    def path(self, stage: str, depends_on: Mapping[str, Any]) -> Path:
        """Where the artifact of `stage` with these dependencies stands, or would stand."""
        return self.root / stage / f"{key_of({'stage': stage, **depends_on})}.safetensors"

    def has(self, stage: str, depends_on: Mapping[str, Any]) -> bool:
        """Whether a run would find it (it is not read; a damaged one counts until it is)."""
        path = self.path(stage, depends_on)
        return path.exists() and (stage not in self._force or path in self._fresh)

    def find(self, stage: str, depends_on: Mapping[str, Any]) -> Artifact | None:
        """The verified artifact, or None. A damaged one is named, set aside, and never used."""
        path = self.path(stage, depends_on)
        if not self.has(stage, depends_on):
            return None
        found = read_tensors(path)
        if found is None:
            self._warn(f"damaged {stage} artifact set aside: {set_aside(path)}; computing it again")
            return None
        tensors, meta, digest = found
        if canonical(meta["depends_on"]) != canonical(dict(depends_on)):
            raise DDBenchError(f"{path} was made from other settings than its name says; remove it")
        return Artifact(stage, path.stem, path, tensors, meta["meta"], digest)

    def get(self, stage: str, depends_on: Mapping[str, Any], build: Callable[[Checkpoint], Built]) -> Artifact:
        """The artifact, built by `build` where it is missing; one process builds, the others wait.

        `build` gets a Checkpoint that a killed run left behind, or an empty one, and returns tensors and meta.
        """
        found = self.find(stage, depends_on)
        if found is not None:
            return found
        path = self.path(stage, depends_on)
        with self._lock(path):
            found = self.find(stage, depends_on)  # another process may have built it while this one waited
            if found is not None:
                return found
            checkpoint = Checkpoint(self.root / "checkpoints" / stage / path.name, self._warn)
            for file in (path, checkpoint.path):
                _sweep(file)
            if stage in self._force:
                checkpoint.clear()
            tensors, meta = build(checkpoint)
            write_tensors(path, tensors, {"depends_on": dict(depends_on), "meta": meta})
            self._fresh.add(path)
            checkpoint.clear()
        built = self.find(stage, depends_on)
        if built is None:
            raise DDBenchError(f"{path} cannot be read back after writing; check the disk")
        return built

    def read(self, stage: str, key: str) -> Artifact | None:
        """The verified artifact with a key that a record names, or None where it is not (or no longer) there."""
        path = self.root / stage / f"{key}.safetensors"
        found = read_tensors(path) if path.is_file() else None
        return None if found is None else Artifact(stage, key, path, found[0], found[1]["meta"], found[2])

    def prune(self, stages: frozenset[str], older_than: float) -> tuple[int, int]:
        """Removes artifacts of `stages` (empty: all) older than so many seconds. Returns (files, bytes) removed."""
        now, count, size = time.time(), 0, 0
        for entry in self.entries():
            if (not stages or entry["stage"] in stages) and now - entry["modified"] >= older_than:
                with writing(entry["path"]):
                    entry["path"].unlink(missing_ok=True)
                count, size = count + 1, size + entry["bytes"]
        return count, size

    @contextlib.contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        lock = self.root / "locks" / f"{path.parent.name}-{path.stem}.lock"
        with writing(self.root):
            lock.parent.mkdir(parents=True, exist_ok=True)
            probe = FileLock(str(lock))
            try:
                probe.acquire(timeout=0)
            except Timeout:
                self._warn(f"waiting for another process that makes this {path.parent.name} artifact")
                probe.acquire()
        try:
            yield
        finally:
            probe.release()

    def entries(self) -> list[dict[str, Any]]:
        """One row an artifact for `ddbench cache ls`: stage, key, bytes, modified (seconds since 1970), path."""
        rows = []
        for stage in (*STAGES, "checkpoints"):
            for path in sorted((self.root / stage).rglob("*")):
                if path.is_file():
                    stat = path.stat()
                    rows.append(
                        {
                            "stage": stage,
                            "key": path.stem,
                            "bytes": stat.st_size,
                            "modified": stat.st_mtime,
                            "path": path,
                        }
                    )
        return rows
