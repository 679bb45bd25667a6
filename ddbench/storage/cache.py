"""The cache: artifacts of stages below one folder, each built once, stored atomically and verified when it is read."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ddbench.core import interruption
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.core.files import is_abandoned, remove_abandoned, require_utf8, translate_os_errors
from ddbench.storage.artifacts import (
    Artifact,
    ArtifactHeader,
    Built,
    quarantine,
    read_header,
    read_tensors,
    reason_unreadable,
    write_tensors,
)
from ddbench.storage.checkpoint import Checkpoint
from ddbench.storage.locks import Locks

CACHE_FILE = re.compile(r"[0-9a-z]{32}\.safetensors(\..*)?")
"""Names of the files of a cache: artifacts, checkpoints, unusable and partial files. `prune` deletes no others."""


class _FaultHandler(Protocol):
    """Handles an unusable artifact file; `reason` continues the message. None: the caller prints a message."""

    def __call__(self, fault: str, path: Path, reason: str | None = "") -> None: ...


def _ignore_fault(fault: str, path: Path, reason: str | None = "") -> None:
    pass


Accept = Callable[[Mapping[str, Any]], bool]
"""Returns whether an artifact with these metadata may be used, and tells the user if not."""


def accept_all(meta: Mapping[str, Any]) -> bool:
    """Accepts every artifact."""
    return True


class Cache:
    """Artifacts below one folder: `ROOT/STAGE/KEY.safetensors`.

    Processes of one host build an artifact once: the others wait for it. Processes on hosts that share the folder
    without locks may build it twice; then all of them use the one that is stored first.

    Args:
        root: The folder. It is created when the first artifact is stored.
        force: Stages whose artifacts are rebuilt in this process even if they exist.
        warn: Called with a message for every unusable artifact and while the process waits for another one.

    Raises:
        DDBenchError: The path of the folder is not UTF-8. (safetensors cannot open files in it.)
    """

    def __init__(
        self,
        root: Path,
        force: frozenset[str] = frozenset(),
        warn: Callable[[str], None] | None = None,
    ) -> None:
        require_utf8(root, "cache folder")
        self.root = root
        self._warn = warn or (lambda text: None)
        self._force = force
        self._fresh: set[Path] = set()  # artifacts that this process or a worker of it has built
        self._headers: dict[str, tuple[tuple[int, int, int], ArtifactHeader]] = {}
        self._locks = Locks(root, self._warn)

    @property
    def place(self) -> str:
        """The folder or URL with which `remote_cache.open_cache` opens the same cache in another process or host."""
        return str(self.root)

    def path(self, stage: str, depends_on: Mapping[str, Any]) -> Path:
        """Returns the path of an artifact, whether it exists or not.

        Args:
            stage: The stage.
            depends_on: Everything that the artifact depends on, as JSON values.
        """
        return self.root / stage / f"{key_of({'stage': stage, **depends_on})}.safetensors"

    @property
    def forced(self) -> frozenset[str]:
        """The stages whose artifacts are rebuilt."""
        return self._force

    def force(self, stages: frozenset[str]) -> None:
        """Sets the stages whose artifacts are rebuilt in this process even if they exist.

        Args:
            stages: Names of the stages.
        """
        self._force = stages

    def adopt(self, name: str) -> bool:
        """Accepts an artifact that a worker built for this process, also if its stage is forced.

        Args:
            name: `STAGE/KEY`.

        Returns:
            Whether the artifact exists.
        """
        path = self.root / f"{name}.safetensors"
        if path.exists():
            self._fresh.add(path)
        return path in self._fresh

    def has(self, stage: str, depends_on: Mapping[str, Any]) -> bool:
        """Tests whether an artifact exists and need not be built. Its content is not verified.

        Args:
            stage: The stage.
            depends_on: Everything that the artifact depends on.
        """
        path = self.path(stage, depends_on)
        return path.exists() and (stage not in self._force or path in self._fresh)

    def header(self, name: str) -> ArtifactHeader:
        """Reads the header of an artifact. It is empty if there is no artifact. Its content is not verified.

        Args:
            name: `STAGE/KEY`.
        """
        path = self.root / f"{name}.safetensors"
        try:
            stat = path.stat()
        except OSError:
            return ArtifactHeader()
        identity = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if name not in self._headers or self._headers[name][0] != identity:
            self._headers[name] = identity, read_header(path)
        return self._headers[name][1]

    def find(self, stage: str, depends_on: Mapping[str, Any], accept: Accept = accept_all) -> Artifact | None:
        """Reads and verifies an artifact.

        An artifact is unusable if it is damaged, if its name does not match its settings, if an artifact that it was
        computed from (`made_from`) has been rebuilt with another content, or if `accept` refuses it. An unusable
        artifact is renamed, with a warning.

        Args:
            stage: The stage.
            depends_on: Everything that the artifact depends on.
            accept: Returns whether the artifact may be used.

        Returns:
            The artifact, or None if there is no usable one.
        """
        return self._find(stage, depends_on, self._quarantine, accept)

    def _find(
        self, stage: str, depends_on: Mapping[str, Any], on_fault: _FaultHandler, accept: Accept = accept_all
    ) -> Artifact | None:
        if not self.has(stage, depends_on):
            return None
        path = self.path(stage, depends_on)
        self._synchronise(path)
        artifact = self._read_verified(path, on_fault)
        if artifact is None:
            return None
        changed = self._first_changed(artifact.meta.get("made_from", {}))
        if changed:
            on_fault("outdated", path, f" (it was made from another {changed})")
            return None
        if not accept(artifact.meta):
            on_fault("outdated", path, None)
            return None
        return artifact

    def _read_verified(self, path: Path, on_fault: _FaultHandler) -> Artifact | None:
        stored = read_tensors(path)
        if stored is None:
            if path.exists():
                on_fault("damaged", path)
            return None
        tensors, header, digest = stored
        meta, depends_on = header.get("meta"), header.get("depends_on")
        if not (
            isinstance(meta, dict) and isinstance(depends_on, dict) and isinstance(meta.get("made_from", {}), dict)
        ):
            on_fault("damaged", path, " (its header has another structure)")
            return None
        artifact = Artifact(path.parent.name, path.stem, path, tensors, meta, digest)
        if key_of({"stage": artifact.stage, **depends_on}) != artifact.key:
            on_fault("misnamed", path, " (its name does not match its settings)")
            return None
        return artifact

    def _quarantine(self, fault: str, path: Path, reason: str | None = "") -> None:
        renamed = quarantine(path, fault)
        if reason is not None:
            self._warn(f"{fault} {path.parent.name} artifact renamed: {renamed}{reason}")

    def _raise_not_readable(self, fault: str, path: Path, reason: str | None = "") -> None:
        cause = (reason or "").strip(" ()") or reason_unreadable(path)
        self._quarantine(fault, path, reason)
        raise DDBenchError(f"{path} was written but cannot be used: {cause}")

    def _first_changed(self, inputs: Mapping[str, str]) -> str | None:
        """Returns the name of the first of the artifacts `inputs` (content by name) whose content has changed."""
        for name, content in inputs.items():
            path = self.root / f"{name}.safetensors"
            if read_header(path).content in (None, content):
                continue
            stored = read_tensors(path)  # the tensors may be intact even if the header is damaged
            if stored is not None and stored[1]["meta"]["content"] != content:
                return name
        return None

    def get(
        self,
        stage: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Checkpoint], Built],
        accept: Accept = accept_all,
    ) -> Artifact:
        """Returns an artifact, and builds it if there is no usable one.

        If a stop is requested during the build, it takes effect after the artifact is stored.

        Args:
            stage: The stage.
            depends_on: Everything that the artifact depends on, as JSON values.
            build: Computes tensors and metadata. Its argument is the checkpoint of this build, which may hold the state
                of a killed run.
            accept: Returns whether the artifact in the cache may be used. If not, it is renamed.

        Returns:
            The artifact.

        Raises:
            DDBenchError: The artifact cannot be written or read.
            Stopped: A stop was requested. The artifact is stored.
        """
        path = self.path(stage, depends_on)
        checkpoint = Checkpoint(self.root / "checkpoints" / stage / path.name, self._warn)
        artifact = None
        if self._is_synchronised(path):
            # Only the holder of the lock renames an unusable file. Without the lock, another process could replace the
            # file first, and the new file would be renamed.
            artifact = self._find(stage, depends_on, _ignore_fault, accept)
        if artifact is not None:
            checkpoint.clear_if_older(path)
            remove_abandoned(path)  # a killed writer may leave its empty folder
            return artifact
        with self._locks.hold(f"{stage}-{path.stem}", f"{stage} artifact"):
            artifact = self.find(stage, depends_on, accept)  # another process may have built it while this one waited
            if artifact is not None:
                return artifact
            artifact = self._build(stage, depends_on, build, checkpoint, accept)
        interruption.raise_if_requested()
        return artifact

    def _build(
        self,
        stage: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Checkpoint], Built],
        checkpoint: Checkpoint,
        accept: Accept,
    ) -> Artifact:
        path = self.path(stage, depends_on)
        remove_abandoned(path)
        if stage in self._force:
            checkpoint.clear()
        tensors, meta = build(checkpoint)
        with self._local_only(path):
            # The lock has no effect between hosts. If another host stored its artifact first, both hosts use that
            # artifact.
            artifact = self.find(stage, depends_on, accept)
            if artifact is None:
                interruption.cancel_deadline()
                write_tensors(path, tensors, {"depends_on": dict(depends_on), "meta": meta})
                self._fresh.add(path)
                artifact = self._find(stage, depends_on, self._raise_not_readable)
        if artifact is None:
            raise DDBenchError(f"{path} was removed by another process directly after it was written")
        checkpoint.clear()
        return self._publish(artifact)

    def _is_synchronised(self, path: Path) -> bool:
        """Returns whether the local file is known to be the artifact that all hosts use."""
        return True

    def _synchronise(self, path: Path) -> None:
        """Makes the local file the artifact that all hosts use."""

    @contextlib.contextmanager
    def _local_only(self, path: Path) -> Iterator[None]:
        """While the block runs, `find` uses only local files."""
        yield

    def _publish(self, artifact: Artifact) -> Artifact:
        """Makes a new artifact available to all hosts. Returns the artifact that all hosts use."""
        return artifact

    def read(self, stage: str, key: str) -> Artifact | None:
        """Reads and verifies an artifact by its key, e.g. from a record.

        Args:
            stage: The stage.
            key: The key.

        Returns:
            The artifact, or None if there is no usable one.
        """
        if len(key) != 32 or not key.isalnum():  # a damaged record could hold a path instead of a key
            return None
        path = self.root / stage / f"{key}.safetensors"
        self._synchronise(path)
        return self._read_verified(path, self._quarantine)

    def prune(self, stages: frozenset[str], older_than: float) -> tuple[int, int]:
        """Deletes old artifacts, their locks and the leftovers of killed writers.

        Args:
            stages: Stages whose artifacts are deleted. Empty: all.
            older_than: Smallest age in seconds.

        Returns:
            Number of deleted files and their size in bytes.
        """
        now, count, size = time.time(), 0, 0
        for entry in self.entries():
            selected = not stages or entry["stage"] in stages
            if selected and self._remove(entry, now - entry["modified"] >= older_than):
                count, size = count + 1, size + entry["bytes"]
        self._locks.prune(stages, older_than)
        return count, size

    def _remove(self, entry: dict[str, Any], old: bool) -> bool:
        path = entry["path"]
        is_partial = path.parent.suffix == ".partial"
        if not (is_abandoned(path.parent) if is_partial else old):
            return False
        with translate_os_errors(path):
            path.unlink(missing_ok=True)
            if is_partial:
                path.parent.rmdir()
        return True

    def entries(self) -> list[dict[str, Any]]:
        """Lists the files of the cache, for `ddbench cache ls`.

        Returns:
            One row per artifact, checkpoint or leftover: `stage`, `key`, `bytes`, `modified` (seconds since 1970) and
            `path`.
        """
        folders = [path for path in sorted(self.root.glob("*")) if path.is_dir()]
        rows = []
        for folder in sorted(folders, key=lambda path: path.name == "checkpoints"):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and CACHE_FILE.fullmatch(path.name):
                    stat = path.stat()
                    rows.append(
                        {
                            "stage": folder.name,
                            "key": path.stem,
                            "bytes": stat.st_size,
                            "modified": stat.st_mtime,
                            "path": path,
                        }
                    )
        return rows
