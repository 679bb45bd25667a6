"""Content-addressed artifacts: one safetensors file each, written atomically, locked, verified by digest on reading."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench.core import interruption
from ddbench.core.errors import DDBenchError, NotCached
from ddbench.core.files import atomic_write, is_abandoned, remove_abandoned, translate_os_errors
from ddbench.storage.locks import Locks

FORMAT = "1"

Tensors = dict[str, Tensor]
Built = tuple[Tensors, dict[str, Any]]


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Raises TypeError for what JSON lacks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(depends_on: Mapping[str, Any]) -> str:
    """The key of everything an artifact depends on: 32 hexadecimal characters of SHA-256 over canonical JSON."""
    return hashlib.sha256(canonical_json(depends_on).encode()).hexdigest()[:32]


def digest_of(tensors: Mapping[str, Tensor], meta: str = "") -> str:
    """SHA-256 (hexadecimal) over names, types, shapes and bytes of CPU tensors, in the order of their names."""
    sha = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        if tensor.numel():
            sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write_tensors(path: Path, tensors: Tensors, meta: Mapping[str, Any]) -> str:
    """Writes one safetensors file so that it is there whole or not at all. Returns its digest.

    `meta` is JSON-able. Raises DDBenchError where the disk is full or the folder cannot be written.
    """
    text = canonical_json(meta)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = digest_of(on_cpu, text)
    with atomic_write(path) as partial:
        save_file(on_cpu, str(partial), metadata={"format": FORMAT, "meta": text, "digest": digest})
    return digest


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any], str] | None:
    """Reads what `write_tensors` wrote: (memory-mapped tensors, meta, digest), or None where it is damaged or gone.

    Raises DDBenchError where it may not be read: that says nothing of what it holds.
    """
    while (file := _file(path)) is not None:
        found = _read(path)
        # A file that another process replaced between two openings of it is no damaged one.
        if found is not None or _file(path) == file:
            return found
    return None


def _file(path: Path) -> tuple[int, int, int] | None:
    """What tells one file at `path` from the next; None where there is none."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DDBenchError(f"cannot read {path}: {error.strerror}") from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> tuple[Tensors, dict[str, Any], str] | None:
    try:
        with safe_open(str(path), framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a mapping)
        text, digest = header["meta"], header["digest"]
        if header["format"] != FORMAT or digest_of(tensors, text) != digest:
            return None
        meta = json.loads(text)
        return (tensors, meta, digest) if isinstance(meta, dict) else None
    # RuntimeError: torch's, where the file goes away (a checkpoint that is done with) between two openings of it.
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
        return None


def _content(path: Path) -> str | None:
    """The digest of an artifact's tensors as its header tells, unverified; None where it tells none."""
    try:
        with safe_open(str(path), framework="pt") as handle:
            content = json.loads(handle.metadata()["meta"])["meta"]["content"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None
    return str(content)


def quarantine(path: Path, fault: str = "damaged") -> Path:
    """Renames a file that is of no use so that it is never read again, and returns its new path."""
    target = path.with_name(f"{path.name}.{fault}-{time.time_ns()}")
    try:
        path.replace(target)
    except FileNotFoundError:
        pass  # another process was quicker
    except OSError as error:
        raise DDBenchError(f"{path} is {fault} and cannot be set aside: {error.strerror}") from error
    return target


@dataclass(frozen=True)
class Artifact:
    """A finished result of one stage: tensors (memory-mapped), its JSON meta, and the digest of both.

    In the meta of what stages write: `content`, the digest of the tensors alone, and `made_from`, by name the
    contents of the artifacts that it was made from. Artifacts of older versions tell neither.
    """

    stage: str
    key: str
    path: Path
    tensors: Tensors
    meta: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """Stage and key."""
        return f"{self.stage}/{self.key}"

    @property
    def content(self) -> str:
        """The digest of the tensors alone: the same where they are computed again with the same bits."""
        return self.meta.get("content") or digest_of(self.tensors)


@dataclass(frozen=True)
class Checkpoint:
    """The place where a running build saves how far it is; it outlives the process and goes when the build is done."""

    path: Path
    warn: Callable[[str], None] = field(default=lambda text: None, compare=False)

    def load(self) -> Built | None:
        """What was saved last, or None (nothing there, or damaged or another's: set aside, with a warning)."""
        found = read_tensors(self.path)
        if found is None and not self.path.exists():
            return None
        if found is None:
            self.warn(f"damaged checkpoint set aside: {quarantine(self.path)}; starting this part again")
            return None
        tensors, meta, _ = found
        if meta.pop("checkpoint_of", self.path.stem) != self.path.stem:
            self.warn(f"misnamed checkpoint set aside: {quarantine(self.path, 'misnamed')}; starting this part again")
            return None
        return tensors, meta

    def save(self, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        """Replaces what was saved, atomically."""
        interruption.cancel_deadline()
        write_tensors(self.path, tensors, {**meta, "checkpoint_of": self.path.stem})

    def clear(self) -> None:
        """Removes it, and what is left of one that was being saved."""
        self.path.unlink(missing_ok=True)
        remove_abandoned(self.path)

    def clear_behind(self, artifact: Path) -> None:
        """Removes it where it is older than `artifact`, whose maker was killed before it could do so."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_mtime_ns <= artifact.stat().st_mtime_ns:
                self.clear()


class _Aside(Protocol):
    def __call__(self, fault: str, path: Path, why: str = "") -> None: ...


def _leave(fault: str, path: Path, why: str = "") -> None:
    """Leaves what is not sound where it is."""


def _refuse(fault: str, path: Path, why: str = "") -> None:
    """Leaves what is not sound where it is, and says so."""
    raise NotCached(f"{path} is {fault}{why}: left as it is, for nothing is computed here")


class Cache:
    """Artifacts below one folder, by stage and key.

    `force` names stages whose artifacts are computed anew in this process even where they exist; `warn` is told
    of every damaged artifact. Without `builds` nothing is computed: `get` raises NotCached for what it would have to
    build. Raises DDBenchError where the folder cannot be made.
    """

    def __init__(
        self,
        root: Path,
        force: frozenset[str] = frozenset(),
        warn: Callable[[str], None] | None = None,
        builds: bool = True,
    ) -> None:
        self.root = root
        self._warn = warn or (lambda text: None)
        self._force = force
        self._fresh: set[Path] = set()
        self._locks = Locks(root, self._warn)
        self._builds = builds

    @property
    def place(self) -> str:
        """The folder or URL that another process or host opens the same cache with (`remote_cache.open_cache`)."""
        return str(self.root)

    def path(self, stage: str, depends_on: Mapping[str, Any]) -> Path:
        """Where the artifact of `stage` with these dependencies stands, or would stand."""
        return self.root / stage / f"{key_of({'stage': stage, **depends_on})}.safetensors"

    @property
    def forced(self) -> frozenset[str]:
        """The stages that are computed anew: those that were asked for and all after them."""
        return self._force

    def force(self, stages: frozenset[str]) -> None:
        """Builds the artifacts of these stages anew in this process, even where they exist."""
        self._force = stages

    def made_elsewhere(self, name: str) -> bool:
        """Whether the artifact STAGE/KEY, which another process made for this one, is there; then it is no old one."""
        path = self.root / f"{name}.safetensors"
        if path.exists():
            self._fresh.add(path)
        return path in self._fresh

    def has(self, stage: str, depends_on: Mapping[str, Any]) -> bool:
        """Whether a run would find it (it is not read; a damaged one counts until it is)."""
        path = self.path(stage, depends_on)
        return path.exists() and (stage not in self._force or path in self._fresh)

    def find(self, stage: str, depends_on: Mapping[str, Any]) -> Artifact | None:
        """The verified artifact, or None. One that is not sound is named, set aside, and never used.

        That is a damaged one, one of other settings than its name says, and one that was made from an artifact
        (`made_from` in its meta) in whose place there is another now.
        """
        return self._find(stage, depends_on, self._aside)

    def _find(self, stage: str, depends_on: Mapping[str, Any], aside: _Aside) -> Artifact | None:
        if not self.has(stage, depends_on):
            return None
        self._settle(self.path(stage, depends_on))
        found = self._sound(self.path(stage, depends_on), aside)
        changed = self._changed(found.meta.get("made_from", {})) if found else None
        if found and changed:
            aside("outdated", found.path, f" (it was made from another {changed})")
            return None
        return found

    def _sound(self, path: Path, aside: _Aside) -> Artifact | None:
        found = read_tensors(path)
        if found is None:
            if path.exists():
                aside("damaged", path)
            return None
        tensors, parts, digest = found
        meta, depends_on = parts.get("meta"), parts.get("depends_on")
        if not (
            isinstance(meta, dict) and isinstance(depends_on, dict) and isinstance(meta.get("made_from", {}), dict)
        ):
            aside("damaged", path, " (nobody writes such a header)")
            return None
        artifact = Artifact(path.parent.name, path.stem, path, tensors, meta, digest)
        if key_of({"stage": artifact.stage, **depends_on}) != artifact.key:
            aside("misnamed", path, " (it holds another one than its name says)")
            return None
        return artifact

    def _aside(self, fault: str, path: Path, why: str = "") -> None:
        self._warn(f"{fault} {path.parent.name} artifact set aside: {quarantine(path, fault)}{why}")

    def _changed(self, made_from: Mapping[str, str]) -> str | None:
        """The name of the first of these artifacts that is there with another content."""
        for name, content in made_from.items():
            path = self.root / f"{name}.safetensors"
            if _content(path) in (None, content):
                continue
            now = read_tensors(path)  # the header alone may be damaged
            if now is not None and now[1]["meta"]["content"] != content:
                return name
        return None

    def get(self, stage: str, depends_on: Mapping[str, Any], build: Callable[[Checkpoint], Built]) -> Artifact:
        """The artifact, built by `build` where it is missing; one process of a host builds, the others wait.

        `build` gets a Checkpoint that a killed run left behind, or an empty one, and returns tensors and meta. Where
        a stop is asked for meanwhile, it comes when what was built is stored.
        """
        path = self.path(stage, depends_on)
        checkpoint = Checkpoint(self.root / "checkpoints" / stage / path.name, self._warn)
        # Set aside under the lock alone: else it might be the new one, from a process that was quicker.
        found = None
        if self._settled(path) or not self._builds:
            found = self._find(stage, depends_on, _leave if self._builds else _refuse)
        if found is None and not self._builds:
            raise NotCached(f"{path} is not there, and nothing is computed here")
        if found is not None:
            checkpoint.clear_behind(path)
            remove_abandoned(path)  # the empty folder of a writer that was killed right after it was done
            return found
        with self._locks.holding(f"{stage}-{path.stem}", f"{stage} artifact"):
            found = self.find(stage, depends_on)  # another process may have built it while this one waited
            if found is not None:
                return found
            remove_abandoned(path)
            if stage in self._force:
                checkpoint.clear()
            tensors, meta = build(checkpoint)
            # Where the lock does not hold (between hosts) another may have been first: then both go on with that one.
            found = self.find(stage, depends_on)
            if found is None:
                interruption.cancel_deadline()
                write_tensors(path, tensors, {"depends_on": dict(depends_on), "meta": meta})
                self._fresh.add(path)
                found = self.find(stage, depends_on)
            if found is None:
                raise DDBenchError(f"{path} cannot be read back after writing; check the disk")
            checkpoint.clear()
            found = self._published(found)
        interruption.raise_if_requested()
        return found

    def _settled(self, path: Path) -> bool:
        """Whether the file at `path` alone says what the artifact is."""
        return True

    def _settle(self, path: Path) -> None:
        """Sees to it that the file at `path` is the artifact that all hosts use."""

    def _published(self, built: Artifact) -> Artifact:
        """Hands it to all hosts; the one that they go on with."""
        return built

    def read(self, stage: str, key: str) -> Artifact | None:
        """The verified artifact with a key that a record names, or None where it is not (or no longer) there."""
        if len(key) != 32 or not key.isalnum():  # a record that names a path
            return None
        path = self.root / stage / f"{key}.safetensors"
        self._settle(path)
        return self._sound(path, self._aside)

    def prune(self, stages: frozenset[str], older_than: float) -> tuple[int, int]:
        """Removes artifacts of `stages` (empty: all) older than so many seconds. Returns (files, bytes) removed."""
        now, count, size = time.time(), 0, 0
        for entry in self.entries():
            asked = not stages or entry["stage"] in stages
            if asked and self._remove(entry, now - entry["modified"] >= older_than):
                count, size = count + 1, size + entry["bytes"]
        return count, size

    def _remove(self, entry: dict[str, Any], old: bool) -> bool:
        path = entry["path"]
        half = path.parent.suffix == ".partial"
        if not (is_abandoned(path.parent) if half else old):
            return False
        with translate_os_errors(path):
            path.unlink(missing_ok=True)
            if half:
                path.parent.rmdir()
        return True

    def entries(self) -> list[dict[str, Any]]:
        """One row an artifact for `ddbench cache ls`: stage, key, bytes, modified (seconds since 1970), path."""
        rows = []
        folders = [path for path in sorted(self.root.glob("*")) if path.is_dir() and path.name != "locks"]
        for folder in sorted(folders, key=lambda path: path.name == "checkpoints"):
            stage = folder.name
            for path in sorted(folder.rglob("*")):
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
