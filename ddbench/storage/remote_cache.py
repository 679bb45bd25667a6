"""The cache and the results on shared storage: local copies that everything else works on, and what goes between."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ddbench.core import files
from ddbench.core.errors import DDBenchError
from ddbench.storage.cache import Artifact, Built, Cache, Checkpoint, canonical_json, read_tensors
from ddbench.storage.remote_folder import ListedFile, RemoteFolder, is_abandoned_upload

LOCAL_COPIES = Path("~/.cache/ddbench/shared")
"""Holds the local copies; each can be removed at any time when nothing runs and nothing in it is unpublished."""
PARALLEL_REQUESTS = 16
"""How many small files are asked for at the same time."""
HEADER_BYTES = 2**18
"""Bytes at the beginning of an artifact that are read for its header; a longer one is read by its length."""
MAX_HEADER_BYTES = 2**26
RESULT_FOLDERS = ("records", "efficiency", "runs", "failures", "figures")
"""The folders of results that are read from the shared ones; what is written anywhere below is published."""
_ARTIFACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]*/[0-9a-z]{32}\.safetensors")


class _Told(NamedTuple):
    """What an artifact's header tells, unverified: its digest, that of its tensors, what it was made from.

    All None: the header is damaged. No content: it is of an older version.
    """

    digest: str | None = None
    content: str | None = None
    made_from: str | None = None


class RemoteCache(Cache):
    """A cache whose artifacts are those of a shared folder; its local copy holds what was used here.

    What is not here is fetched, what is built is published; checkpoints, locks and what is set aside stay local. The
    artifact that is there counts, and one here that differs (it was made anew elsewhere) is replaced by it; but what
    is still unpublished here is published first. What is damaged there is named, made again, and replaced.
    """

    def __init__(
        self,
        shared: RemoteFolder,
        force: frozenset[str] = frozenset(),
        warn: Callable[[str], None] | None = None,
        builds: bool = True,
    ) -> None:
        super().__init__(shared.copy, force, warn, builds)
        self.shared = shared
        self._agreed: set[Path] = set()
        self._fetched: dict[Path, _Told] = {}
        self._spoilt: set[Path] = set()
        self._there: dict[str, _Told] = {}
        self._asks = True
        self._caught_up = False

    @property
    def place(self) -> str:
        """What another process, or another host, opens the same cache with."""
        return self.shared.url

    def made_elsewhere(self, name: str) -> bool:
        """Whether the artifact STAGE/KEY, which another process made for this one, is there; then it is no old one."""
        path = self.root / f"{name}.safetensors"
        if path not in self._fresh:
            self._there.pop(_name(path), None)
            if self._told(_name(path)) is not None:
                self._agreed.discard(path)
                self._fresh.add(path)
        return path in self._fresh

    def has(self, stage: str, depends_on: Mapping[str, Any]) -> bool:
        """Whether a run would find it, here or there."""
        if super().has(stage, depends_on):
            return True
        path = self.path(stage, depends_on)
        return (stage not in self._force or path in self._fresh) and self._told(_name(path)) is not None

    def find(self, stage: str, depends_on: Mapping[str, Any]) -> Artifact | None:
        """As a Cache's; where the copy here is damaged the artifact is fetched again."""
        found, path = super().find(stage, depends_on), self.path(stage, depends_on)
        if found is None and path in self._spoilt:
            self._spoilt.remove(path)
            found = super().find(stage, depends_on)
        return found

    def get(self, stage: str, depends_on: Mapping[str, Any], build: Callable[[Checkpoint], Built]) -> Artifact:
        """As a Cache's; what an earlier run could not publish is published before the first."""
        if self._builds and not self._caught_up:
            self._caught_up = True
            self._publish_what_is_left()

        def built(slot: Checkpoint) -> Built:
            made = build(slot)
            # It must be stored here before anybody is asked, who may not answer.
            self._agreed.add(self.path(stage, depends_on))
            self._asks = False
            return made

        try:
            return super().get(stage, depends_on, built)
        finally:
            self._asks = True

    def entries(self) -> list[dict[str, Any]]:
        """One row an artifact that is there, `where` shared; and one for each file that is here alone, `where` here."""
        found = [self._entry(listed) for listed in self.shared.list() if "/" in listed.name]
        known = {row["path"] for row in found}
        return found + [{**row, "where": "here"} for row in super().entries() if row["path"] not in known]

    def _entry(self, listed: ListedFile) -> dict[str, Any]:
        path = self.shared.here(listed.name)
        facts = {"bytes": listed.bytes, "modified": listed.modified, "where": "shared", "listed": listed}
        return {"stage": listed.name.partition("/")[0], "key": path.stem, "path": path, **facts}

    def _remove(self, entry: dict[str, Any], old: bool) -> bool:
        listed = entry.get("listed")
        if listed is None:
            return super()._remove(entry, old)
        if is_abandoned_upload(listed) or (old and not listed.name.endswith(".partial")):
            self.shared.remove(listed.name)
            return True
        return False

    # -- what goes between ------------------------------------------------------------------------------------

    def _told(self, name: str) -> _Told | None:
        """What the header there tells, None where it is not there; asked for once where it is."""
        if name not in self._there:
            told = self._ask(name) if self._asks else None
            if told is None:
                return None
            self._there[name] = told
        return self._there[name]

    def _ask(self, name: str) -> _Told | None:
        start = self.shared.beginning(name, HEADER_BYTES)
        if start is None:
            return None
        length = 8 + int.from_bytes(start[:8], "little")
        if len(start) < length <= MAX_HEADER_BYTES:
            start = self.shared.beginning(name, length) or b""
        return _told_by(start)

    def _settled(self, path: Path) -> bool:
        return path in self._agreed

    def _settle(self, path: Path) -> None:
        name = _name(path)
        if self._settled(path) or not _ARTIFACT.fullmatch(name):
            return
        there = None if self.shared.is_unpublished(name) else self._told(name)
        here = _told_by(_start(path)) if path.exists() else None
        if there is None or (there == self._fetched.get(path) and here is not None):
            if self._builds and here is not None and _is_sound(path):
                self._publish(path)
        elif there != here and there != self._fetched.get(path):
            self._fetched[path] = there
            if here is None:
                self.shared.fetch(name)  # whoever reads it finds out whether it is sound
            elif not self.shared.fetch(name, _is_sound):
                self._warn(f"damaged {path.parent.name} artifact: {self.shared}/{name}; the one here is used")
                self._settle(path)
        if path.exists():
            self._agreed.add(path)

    def _published(self, built: Artifact) -> Artifact:
        self._asks = True
        path, name = built.path, _name(built.path)
        with self.shared.publishing(name):
            there, mine = self._ask(name), _told_by(_start(path))
            first = there is not None and there != self._fetched.get(path) and built.stage not in self._force
            # What another host made from other artifacts does not fit to those that are there now.
            if first and there and there.made_from == mine.made_from and self.shared.fetch(name, _is_sound):
                return self._sound(path, self._aside) or built
            self._publish(path)
        return built

    def _publish(self, path: Path) -> None:
        self.shared.publish(_name(path))
        self._there[_name(path)] = _told_by(_start(path))

    def _publish_what_is_left(self) -> None:
        for name in filter(_ARTIFACT.fullmatch, self.shared.unpublished()):
            path = self.shared.here(name)
            # A living process that publishes it now holds the lock.
            with self._locks.holding(f"{path.parent.name}-{path.stem}", f"{path.parent.name} artifact"):
                if self.shared.is_unpublished(name) and path.exists() and _is_sound(path):
                    try:
                        self._publish(path)
                    except DDBenchError as error:
                        self._warn(f"still unpublished: {error}")
                        return

    def _aside(self, fault: str, path: Path, why: str = "") -> None:
        self._agreed.discard(path)
        if fault == "damaged" and path not in self._fetched:
            self._spoilt.add(path)
        super()._aside(fault, path, why + (f" (it came from {self.shared})" if path in self._fetched else ""))

    def _changed(self, made_from: Mapping[str, str]) -> str | None:
        names = {name: f"{name}.safetensors" for name in made_from}
        apart = [name for name in names.values() if _ARTIFACT.fullmatch(name) and self.root / name not in self._agreed]
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            told = dict(zip(apart, pool.map(self._told, apart), strict=True))
        suspects = {}
        for name, content in made_from.items():
            there = told.get(names[name])
            if there is not None and not self.shared.is_unpublished(names[name]):
                if there.content in (None, content):
                    continue
                self._settle(self.shared.here(names[name]))  # the header alone may be damaged
            suspects[name] = content
        return super()._changed(suspects)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _start(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(8)
        return start + file.read(min(int.from_bytes(start, "little"), MAX_HEADER_BYTES))
    return b""


def _is_sound(path: Path) -> bool:
    return read_tensors(path) is not None


def _told_by(start: bytes) -> _Told:
    try:
        header = json.loads(start[8 : 8 + int.from_bytes(start[:8], "little")])["__metadata__"]
        meta = json.loads(header["meta"])["meta"]
        content = meta.get("content")
        return _Told(
            str(header["digest"]), None if content is None else str(content), canonical_json(meta.get("made_from", {}))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Told()


def is_url(place: str | Path) -> bool:
    """Whether a place is shared storage, and not a folder."""
    return isinstance(place, str) and "://" in place


def local_copy(url: str, of: str) -> Path:
    """The folder of this machine that holds the local copy of the cache or the results (`of`) at a URL."""
    return LOCAL_COPIES.expanduser() / hashlib.sha256(re.sub(r"//[^/]*@", "//", url).encode()).hexdigest()[:16] / of


def open_cache(
    place: str | Path,
    force: frozenset[str] = frozenset(),
    warn: Callable[[str], None] | None = None,
    builds: bool = True,
) -> Cache:
    """The cache at a URL or in a folder; arguments as Cache's. With its `place` another host opens the same."""
    if is_url(place):
        return RemoteCache(RemoteFolder(str(place), local_copy(str(place), "cache"), warn), force, warn, builds)
    return Cache(Path(place).expanduser().resolve(), force, warn, builds)


def open_results(url: str, warn: Callable[[str], None] | None = None) -> Path:
    """The local copy of the results at a URL, as they are there; what is written below it from now on is published.

    What could not be published before is published first. What is damaged there is found by who reads it.
    """
    shared = RemoteFolder(url, local_copy(url, "results"), warn)
    copy = shared.copy
    files.write_hooks.pop(copy, None)
    for name in shared.unpublished():
        if (copy / name).exists():
            shared.publish(name)
    there = {each.name: each for folder in RESULT_FOLDERS for each in shared.list(folder) if "/." not in each.name}
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        list(pool.map(lambda each: _bring(shared, each), there.values()))
    for path in (path for folder in RESULT_FOLDERS for path in (copy / folder).rglob("*") if path.is_file()):
        name = path.relative_to(copy).as_posix()
        if name not in there and "/." not in name and not shared.is_unpublished(name):  # "/.": being written
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def publishing(path: Path) -> Iterator[None]:
        name = path.relative_to(copy).as_posix()
        with shared.publishing(name):
            yield
            shared.publish(name)

    files.write_hooks[copy] = publishing
    return copy


def _bring(shared: RemoteFolder, each: ListedFile) -> None:
    path = shared.here(each.name)
    with contextlib.suppress(OSError):
        known = path.stat()
        if (known.st_size, int(known.st_mtime)) == (each.bytes, int(each.modified)):
            return
    if not shared.is_unpublished(each.name) and shared.fetch(each.name):
        times = each.modified or time.time()
        os.utime(path, (times, times))
