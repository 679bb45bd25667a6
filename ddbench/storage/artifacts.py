"""Artifact files: named tensors and JSON metadata in one safetensors file with a digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.core.files import atomic_write

FORMAT = "1"
"""Version of the metadata in the header of an artifact file."""
MAX_HEADER_BYTES = 2**26
"""Longer headers are not parsed."""

Tensors = dict[str, Tensor]
Built = tuple[Tensors, dict[str, Any]]
"""The result of building an artifact: tensors by name, and JSON metadata."""


def digest_of(tensors: Mapping[str, Tensor], meta: str = "") -> str:
    """Computes the SHA-256 digest of tensors: their names, types, shapes and bytes, in the order of their names.

    Args:
        tensors: Tensors on the CPU.
        meta: Text that the digest covers too.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> digest_of({"x": torch.zeros(2)})[:16]
        '9d53898da71fb02c'
    """
    sha = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        if tensor.numel():
            sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write_tensors(path: Path, tensors: Tensors, meta: Mapping[str, Any]) -> str:
    """Writes an artifact file atomically.

    Args:
        path: The file.
        tensors: Tensors on any device.
        meta: JSON values.

    Returns:
        The digest of tensors and metadata.

    Raises:
        DDBenchError: The disk is full or the file cannot be written.
    """
    text = canonical_json(meta)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = digest_of(on_cpu, text)
    with atomic_write(path) as partial:
        save_file(on_cpu, str(partial), metadata={"format": FORMAT, "meta": text, "digest": digest})
    return digest


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any], str] | None:
    """Reads an artifact file and verifies its digest.

    Args:
        path: The file.

    Returns:
        Memory-mapped tensors, metadata and digest; or None if the file is missing or damaged.

    Raises:
        DDBenchError: The file exists but cannot be opened, so its content is unknown.
    """
    while (identity := _file_identity(path)) is not None:
        content = _read_verified(path)
        # `_read_verified` opens the file more than once. If another process replaced it in between, read the new file.
        if content is not None or _file_identity(path) == identity:
            return content
    return None


def _file_identity(path: Path) -> tuple[int, int, int] | None:
    """Inode, time and size, which change if the file is replaced. None if it does not exist."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DDBenchError(f"cannot read {path}: {error.strerror}") from error
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read_verified(path: Path) -> tuple[Tensors, dict[str, Any], str] | None:
    try:
        return _read(path)
    except _UNREADABLE:
        return None


# The file is opened more than once. torch raises RuntimeError if it was deleted in between, e.g. a checkpoint whose
# build finished.
_UNREADABLE = (SafetensorError, OSError, KeyError, ValueError, RuntimeError)


def _read(path: Path) -> tuple[Tensors, dict[str, Any], str]:
    with safe_open(str(path), framework="pt") as handle:
        header = handle.metadata() or {}
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a mapping)
    text, digest = header["meta"], header["digest"]
    if header["format"] == FORMAT and digest_of(tensors, text) == digest:
        meta = json.loads(text)
        if isinstance(meta, dict):
            return tensors, meta, digest
    raise ValueError("its content is not what was written; check the disk")


def reason_unreadable(path: Path) -> str:
    """Explains why a file that was just written cannot be read.

    Args:
        path: The file.

    Returns:
        The reason in words: that of the safetensors library with its version, or a digest that does not match.
    """
    try:
        _read(path)
    except SafetensorError as error:
        return f"safetensors {version('safetensors')}: {error}"
    except _UNREADABLE as error:
        return str(error)
    return "another process replaced it"


def is_intact(path: Path) -> bool:
    """Tests whether an artifact file exists and its digest is correct.

    Args:
        path: The file.

    Raises:
        DDBenchError: The file exists but cannot be opened.
    """
    return read_tensors(path) is not None


class ArtifactHeader(NamedTuple):
    """Facts from the header of an artifact file. They are not verified. All are None if the header is damaged.

    Attributes:
        digest: Digest of tensors and metadata.
        content: Digest of the tensors. Also None for artifacts of older versions.
        made_from: The contents of the artifacts that it was computed from, by name.
        source: The distribution and the digest of the code that computed it. Also None for older artifacts.
    """

    digest: str | None = None
    content: str | None = None
    made_from: Mapping[str, str] | None = None
    source: Mapping[str, str] | None = None


def read_header(path: Path) -> ArtifactHeader:
    """Reads the header of an artifact file.

    Args:
        path: The file. A missing file has a damaged header.

    Returns:
        The header.
    """
    return parse_header(_read_start(path))


def read_meta(path: Path) -> dict[str, Any]:
    """Reads the metadata that `write_tensors` wrote. They are not verified.

    Args:
        path: The file.

    Returns:
        The metadata; empty if the file is missing or its header is damaged.
    """
    try:
        meta = json.loads(_header_fields(_read_start(path))["meta"])
        return meta if isinstance(meta, dict) else {}
    except _NOT_PARSED:
        return {}


def _read_start(path: Path) -> bytes:
    start = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), MAX_HEADER_BYTES))
    return start


def _header_fields(start: bytes) -> Any:
    return json.loads(start[8 : 8 + int.from_bytes(start[:8], "little")])["__metadata__"]


_NOT_PARSED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def parse_header(start: bytes) -> ArtifactHeader:
    """Parses the header of an artifact file.

    Args:
        start: The first bytes of the file: 8 bytes with the length of the header, then at least the header.

    Returns:
        The header.
    """
    try:
        header = _header_fields(start)
        meta = json.loads(header["meta"])["meta"]
        content, made_from, source = meta.get("content"), meta.get("made_from", {}), meta.get("source")
        return ArtifactHeader(
            digest=str(header["digest"]),
            content=None if content is None else str(content),
            made_from=made_from if isinstance(made_from, dict) else None,
            source=source if isinstance(source, dict) else None,
        )
    except _NOT_PARSED:
        return ArtifactHeader()


def quarantine(path: Path, fault: str = "damaged") -> Path:
    """Renames an unusable file so that it is not read again. Nothing is deleted.

    Args:
        path: The file. If another process renamed it already, nothing happens.
        fault: One word for the fault, which becomes part of the new name.

    Returns:
        The new path, `NAME.FAULT-TIME`.

    Raises:
        DDBenchError: The file cannot be renamed.
    """
    target = path.with_name(f"{path.name}.{fault}-{time.time_ns()}")
    try:
        path.replace(target)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DDBenchError(f"{path} is {fault} and cannot be renamed: {error.strerror}") from error
    return target


@dataclass(frozen=True)
class Artifact:
    """A finished result of a stage.

    Attributes:
        stage: The stage.
        key: The cache key.
        path: The file.
        tensors: Memory-mapped tensors by name.
        meta: JSON metadata. Stages store `content`, the digest of the tensors; `made_from`, a mapping from the names of
            the artifacts that this one was computed from to their contents; and `source`, see `ArtifactHeader`.
            Artifacts of older versions have none of them.
        digest: Digest of tensors and metadata.
    """

    stage: str
    key: str
    path: Path
    tensors: Tensors
    meta: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """Stage and key, `STAGE/KEY`."""
        return f"{self.stage}/{self.key}"

    @property
    def content(self) -> str:
        """Digest of the tensors only. It is equal if a rebuild gives bit-identical tensors."""
        return self.meta.get("content") or digest_of(self.tensors)
