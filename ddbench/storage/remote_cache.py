"""A cache on shared storage: all hosts use the same artifacts, each through a local copy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ddbench.core.errors import DDBenchError
from ddbench.core.files import expand_user
from ddbench.storage.artifacts import (
    MAX_HEADER_BYTES,
    Artifact,
    ArtifactHeader,
    Built,
    is_intact,
    parse_header,
    read_header,
)
from ddbench.storage.cache import CACHE_FILE, Accept, Cache, accept_all
from ddbench.storage.checkpoint import Checkpoint
from ddbench.storage.remote_folder import (
    PENDING,
    ListedFile,
    RemoteFolder,
    is_abandoned_upload,
    is_url,
    local_copy,
)

PARALLEL_REQUESTS = 16
"""Number of headers that are requested at the same time."""
HEADER_BYTES = 2**18
"""Number of bytes that are requested for the header of a remote artifact. A longer header takes a second request."""
_STAGE = r"[A-Za-z0-9][A-Za-z0-9._+:-]*"
_ARTIFACT = re.compile(rf"{_STAGE}/[0-9a-z]{{32}}\.safetensors")
_ARTIFACT_OR_PARTIAL = re.compile(rf"{_STAGE}/\.?{CACHE_FILE.pattern}")


class RemoteCache(Cache):
    """A cache whose artifacts are those of a remote folder.

    Missing artifacts are downloaded and new ones are uploaded. Checkpoints, locks and unusable files stay local. If the
    local and the remote artifact of a key differ (it was rebuilt on another host), the remote one is used, with two
    exceptions: an artifact whose upload is pending is uploaded first, and a damaged remote artifact is replaced.

    The first use of a local artifact compares its header with the header of the remote one. So a process makes one
    small request per artifact.

    Args:
        remote: The remote folder. Its local copy is the folder of this cache.
        force: See Cache.
        warn: See Cache.
    """

    def __init__(
        self,
        remote: RemoteFolder,
        force: frozenset[str] = frozenset(),
        warn: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(remote.copy, force, warn)
        self.remote = remote
        self._synchronised: set[Path] = set()
        self._downloaded: dict[Path, ArtifactHeader] = {}  # header of each remote artifact at its last download
        self._damaged_copies: set[Path] = set()
        self._remote_headers: dict[str, ArtifactHeader] = {}
        self._offline = False
        self._retried_uploads = False

    @property
    def place(self) -> str:
        """The URL with which `open_cache` opens the same cache in another process or host."""
        return self.remote.url

    def adopt(self, name: str) -> bool:
        """Accepts an artifact that a worker built for this process. See Cache.adopt.

        Args:
            name: `STAGE/KEY`.

        Returns:
            Whether the remote artifact exists.
        """
        path = self.root / f"{name}.safetensors"
        if path not in self._fresh:
            self._remote_headers.pop(_name(path), None)
            if self._remote_header(_name(path)) is not None:
                self._synchronised.discard(path)
                self._fresh.add(path)
        return path in self._fresh

    def has(self, stage: str, depends_on: Mapping[str, Any]) -> bool:
        """Tests whether an artifact exists, locally or remotely, and need not be built. See Cache.has.

        Args:
            stage: The stage.
            depends_on: Everything that the artifact depends on.
        """
        if super().has(stage, depends_on):
            return True
        path = self.path(stage, depends_on)
        return (stage not in self._force or path in self._fresh) and self._remote_header(_name(path)) is not None

    def header(self, name: str) -> ArtifactHeader:
        """Reads the header of an artifact: of the local file if there is one, else of the remote one.

        Args:
            name: `STAGE/KEY`.
        """
        file = f"{name}.safetensors"
        if (self.root / file).exists() or not _ARTIFACT.fullmatch(file):
            return super().header(name)
        return self._remote_header(file) or ArtifactHeader()

    def find(self, stage: str, depends_on: Mapping[str, Any], accept: Accept = accept_all) -> Artifact | None:
        """Reads and verifies an artifact. A damaged local copy is downloaded again. See Cache.find.

        Args:
            stage: The stage.
            depends_on: Everything that the artifact depends on.
            accept: Returns whether the artifact may be used.

        Returns:
            The artifact, or None if there is no usable one.
        """
        artifact, path = super().find(stage, depends_on, accept), self.path(stage, depends_on)
        if artifact is None and path in self._damaged_copies:
            self._damaged_copies.remove(path)
            artifact = super().find(stage, depends_on, accept)
        return artifact

    def get(
        self,
        stage: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Checkpoint], Built],
        accept: Accept = accept_all,
    ) -> Artifact:
        """Returns an artifact, and builds it if there is no usable one. See Cache.get.

        The first call uploads the artifacts whose upload is pending since an earlier run.

        Args:
            stage: The stage.
            depends_on: Everything that the artifact depends on.
            build: Computes tensors and metadata.
            accept: Returns whether the artifact in the cache may be used.

        Returns:
            The artifact.
        """
        if not self._retried_uploads:
            self._retried_uploads = True
            self._retry_pending_uploads()
        return super().get(stage, depends_on, build, accept)

    def entries(self) -> list[dict[str, Any]]:
        """Lists the remote artifacts and all files that exist only locally, for `ddbench cache ls`.

        Returns:
            Rows as in Cache.entries with one more entry, `where`: `shared` or `here`.
        """
        rows = [self._entry(file) for file in self.remote.files() if _ARTIFACT_OR_PARTIAL.fullmatch(file.name)]
        remote_paths = {row["path"] for row in rows}
        local = [row for row in super().entries() if row["stage"] != PENDING and row["path"] not in remote_paths]
        return rows + [{**row, "where": "here"} for row in local]

    def _entry(self, file: ListedFile) -> dict[str, Any]:
        path = self.remote.local_path(file.name)
        facts = {"bytes": file.bytes, "modified": file.modified, "where": "shared", "file": file}
        return {"stage": file.name.partition("/")[0], "key": path.stem, "path": path, **facts}

    def _remove(self, entry: dict[str, Any], old: bool) -> bool:
        file = entry.get("file")
        if file is None:
            return super()._remove(entry, old)
        if is_abandoned_upload(file) or (old and not file.name.endswith(".partial")):
            self.remote.remove(file.name)
            return True
        return False

    # -- synchronisation --------------------------------------------------------------------------------------

    def _remote_header(self, name: str) -> ArtifactHeader | None:
        """Returns the header of a remote artifact, or None. An existing header is requested only once."""
        if name not in self._remote_headers:
            header = None if self._offline else self._request_header(name)
            if header is None:
                return None
            self._remote_headers[name] = header
        return self._remote_headers[name]

    def _request_header(self, name: str) -> ArtifactHeader | None:
        start = self.remote.read_start(name, HEADER_BYTES)
        if start is None:
            return None
        length = 8 + int.from_bytes(start[:8], "little")
        if len(start) < length <= MAX_HEADER_BYTES:
            start = self.remote.read_start(name, length) or b""
        return parse_header(start)

    def _is_synchronised(self, path: Path) -> bool:
        return path in self._synchronised

    def _synchronise(self, path: Path) -> None:
        name = _name(path)
        if self._is_synchronised(path) or not _ARTIFACT.fullmatch(name):
            return
        remote = None if self.remote.is_pending(name) else self._remote_header(name)
        local = read_header(path) if path.exists() else None
        # If the remote header equals that of the last download, the downloaded file was damaged: upload the local one.
        if remote is None or (local is not None and remote == self._downloaded.get(path)):
            if local is not None and is_intact(path):
                self._upload(path)
        elif remote != local and remote != self._downloaded.get(path):
            self._downloaded[path] = remote
            if local is None:
                self.remote.download(name)  # the artifact is verified when it is read
            elif not self.remote.download(name, is_intact):
                self._warn(f"damaged {path.parent.name} artifact: {self.remote}/{name}; the local copy is used")
                self._synchronise(path)
        if path.exists():
            self._synchronised.add(path)

    @contextlib.contextmanager
    def _local_only(self, path: Path) -> Iterator[None]:
        # A new artifact is stored locally before any request, because a request may fail.
        self._synchronised.add(path)
        self._offline = True
        try:
            yield
        finally:
            self._offline = False

    def _publish(self, artifact: Artifact) -> Artifact:
        path, name = artifact.path, _name(artifact.path)
        with self.remote.pending_upload(name):
            remote = self._request_header(name)
            # Another host was first if the remote artifact has changed since its last download. (An unchanged one is
            # damaged or outdated, and the new artifact replaces it.)
            is_new = remote is not None and remote != self._downloaded.get(path) and artifact.stage not in self._force
            # The artifact of the other host is used only if it was made from the same artifacts, by the same code.
            local = read_header(path)
            fits = (
                is_new and remote is not None and (remote.made_from, remote.source) == (local.made_from, local.source)
            )
            if fits and self.remote.download(name, is_intact):
                return self._read_verified(path, self._quarantine) or artifact
            self._upload(path)
        return artifact

    def _upload(self, path: Path) -> None:
        self.remote.upload(_name(path))
        self._remote_headers[_name(path)] = read_header(path)

    def _retry_pending_uploads(self) -> None:
        for name in filter(_ARTIFACT.fullmatch, self.remote.pending_uploads()):
            path = self.remote.local_path(name)
            # A process that is uploading the artifact holds the lock.
            with self._locks.hold(f"{path.parent.name}-{path.stem}", f"{path.parent.name} artifact"):
                if self.remote.is_pending(name) and path.exists() and is_intact(path):
                    try:
                        self._upload(path)
                    except DDBenchError as error:
                        self._warn(f"an upload of an earlier run is still pending: {error}")
                        return

    def _quarantine(self, fault: str, path: Path, reason: str | None = "") -> None:
        self._synchronised.discard(path)
        if path in self._downloaded:
            reason = None if reason is None else f"{reason} (it came from {self.remote})"
        elif fault == "damaged":
            self._damaged_copies.add(path)
        super()._quarantine(fault, path, reason)

    def _first_changed(self, inputs: Mapping[str, str]) -> str | None:
        files = {name: f"{name}.safetensors" for name in inputs}
        unknown = [
            file for file in files.values() if _ARTIFACT.fullmatch(file) and self.root / file not in self._synchronised
        ]
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            headers = dict(zip(unknown, pool.map(self._remote_header, unknown), strict=True))
        suspects = {}
        for name, content in inputs.items():
            header = headers.get(files[name])
            if header is not None and not self.remote.is_pending(files[name]):
                if header.content in (None, content):
                    continue
                # If only the remote header is damaged, this repairs the remote artifact from an intact local copy.
                self._synchronise(self.remote.local_path(files[name]))
            suspects[name] = content
        return super()._first_changed(suspects)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def open_cache(
    place: str | Path,
    force: frozenset[str] = frozenset(),
    warn: Callable[[str], None] | None = None,
) -> Cache:
    """Opens the cache in a folder or at a URL.

    Args:
        place: The folder or URL, e.g. `Cache.place` of another process.
        force: See Cache.
        warn: See Cache.

    Returns:
        The cache.

    Raises:
        DDBenchError: The URL is invalid.
    """
    if is_url(place):
        remote = RemoteFolder(str(place), local_copy(str(place), "cache"), warn)
        return RemoteCache(remote, force, warn)
    return Cache(expand_user(Path(place)).resolve(), force, warn)
