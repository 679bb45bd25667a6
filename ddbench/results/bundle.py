"""Bundles: records to send to others, with a card, the distilled images, and a digest of every file."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ddbench.core.errors import DDBenchError
from ddbench.core.files import atomic_write
from ddbench.core.text import counted, error_text
from ddbench.core.text_layout import UNLIMITED, format_table
from ddbench.results import verified_json
from ddbench.results.export import export_set
from ddbench.results.labels import recipe_label
from ddbench.results.preview import preview_path
from ddbench.results.records import Record, parse, read
from ddbench.results.stored_sets import stored_images
from ddbench.storage.cache import Cache

MANIFEST = "bundle.json"
"""The file that lists all others. Its digest is part of it, as of a record."""
CARD = "README.md"
SET_FILE = "distilled.safetensors"
LAYOUT = re.compile(
    r"README\.md|bundle\.json|records/[^/\\:]+\.json|runs/[\w-]+/(preview\.png|set/\w[\w.-]*)", re.ASCII
)
"""The paths of the files of a bundle. None leads out of the folder in which a bundle is unpacked."""
NAME = re.compile(r"[\w-]+", re.ASCII)
"""The names of records, which `verify` prints."""
MAX_RECORD_BYTES = 10_000_000
"""The largest record that is read."""
MAX_SET_BYTES = 4_000_000_000
"""The largest file of a distilled set that is read."""
MAX_BYTES = 20_000_000_000
"""The largest sum of all files of a bundle, unpacked."""
CLOCKS = timedelta(days=1)
"""How far the clocks of two machines may differ."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of all files in a ZIP file, so that equal bundles have equal bytes."""


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """The content of `bundle.json`."""

    format: int = Field(default=1, ge=1, le=1, description="version of the file format")
    ddbench: str = Field(description="version of ddbench that wrote the bundle")
    files: dict[str, str] = Field(description="SHA-256 of each other file, by its path in the bundle")


def write(paths: Sequence[Path], results_dir: Path, cache: Cache, output: Path, warn: Callable[[str], None]) -> Path:
    """Writes a bundle: a folder with the layout of a results folder, or a ZIP file of it.

    Args:
        paths: Files of records.
        results_dir: The results folder, which may hold previews of their sets.
        cache: The cache, which may hold their sets.
        output: Folder to write, absent or empty; or a file that ends with `.zip`.
        warn: Receives a message for each set whose images are not in the bundle.

    Returns:
        `output`.

    Raises:
        DDBenchError: A file is not a record, two records have one name, or `output` exists or cannot be written.
    """
    stored = {path: read(path) for path in dict.fromkeys(paths)}
    names = [path.name for path in stored]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DDBenchError(f"two records have the name {repeated}: send them in two bundles")
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise DDBenchError(f"{output} exists: choose a new name, existing files are not overwritten")
    with atomic_write(output) as partial:
        folder = partial.with_name("files") if output.suffix == ".zip" else partial
        folder.mkdir()
        _write_records(folder, stored)
        for record in {record.distilled_digest: record for record in stored.values()}.values():
            _write_set(folder, record, results_dir, cache, warn)
        (folder / CARD).write_text(card([*stored.values()]), encoding="utf-8")
        files = {name: _digest(folder, name) for name in _files(folder)}
        manifest = Manifest(ddbench=metadata.version("ddbench"), files=files)
        (folder / MANIFEST).write_text(verified_json.dump(manifest.model_dump(mode="json")), encoding="utf-8")
        if output.suffix == ".zip":
            _pack(folder, partial)
    return output


def _write_records(folder: Path, stored: Mapping[Path, Record]) -> None:
    (folder / "records").mkdir()
    for path, record in stored.items():
        text = verified_json.dump(record.model_dump(mode="json"))
        (folder / "records" / path.name).write_text(text, encoding="utf-8")


def _write_set(folder: Path, record: Record, results_dir: Path, cache: Cache, warn: Callable[[str], None]) -> None:
    """Writes the images of a record's set as tensors, and its preview. Real images are not sent, also as preview."""
    stored = stored_images(record, cache)
    if stored is None:
        warn(f"note: without the images of {record.name}: they are real images, or no longer in the cache")
        return
    run = preview_path(record, folder).parent
    preview = preview_path(record, results_dir)
    if preview.is_file():
        run.mkdir(parents=True)
        (run / preview.name).write_bytes(preview.read_bytes())
    export_set(stored, record.model_dump(mode="json"), run / "set", "safetensors")


def card(stored: Sequence[Record]) -> str:
    """Returns the text of the card: what the bundle holds and how it is checked."""
    rows = [
        (
            record.name,
            record.method,
            recipe_label(record),
            f"{record.dataset}, {record.image_size} px",
            "all" if record.ipc is None else str(record.ipc),
            f"{record.evaluator} v{record.evaluator_version}",
            f"{record.metrics.top1_last:.2f}",
        )
        for record in stored
    ]
    table = format_table(("record", "method", "recipe", "dataset", "ipc", "protocol", "top-1"), rows, UNLIMITED)
    listed = "".join(f"    {line}\n" for line in table.splitlines())
    return (
        f"# Results of dataset distillation\n\n{counted(len(stored), 'record')} of ddbench; each is one student on one "
        f"distilled set.\n\n{listed}\n`ddbench verify` checks this bundle, and `ddbench verify --repeat` computes its "
        "records again.\n"
    )


def _pack(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _files(folder):
            with (folder / name).open("rb") as source, archive.open(zipfile.ZipInfo(name, EPOCH), "w") as file:
                shutil.copyfileobj(source, file)


Root = Path | zipfile.Path
"""A bundle: a folder, or the inside of a ZIP file."""


def open_bundle(path: Path) -> Root:
    """Opens a bundle. Nothing is unpacked.

    Raises:
        DDBenchError: There is no such bundle.
    """
    if path.is_dir():
        return path
    try:
        return zipfile.Path(path)
    except FileNotFoundError as error:
        raise DDBenchError("there is none") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise DDBenchError("neither a folder nor a ZIP file") from error


def check(path: Path) -> list[Record]:
    """Checks a bundle: the digest of each file, the records, their numbers, and the images of their sets.

    Args:
        path: The folder or ZIP file.

    Returns:
        Its records.

    Raises:
        DDBenchError: Something is wrong. The message names the first fault.
    """
    try:
        root = open_bundle(path)
        _check_layout(root)
        manifest = _manifest(root)
        _check_files(root, manifest)
        names = [name for name in manifest.files if PurePosixPath(name).parent.as_posix() == "records"]
        stored = [parse(_bytes(root, name, MAX_RECORD_BYTES), name) for name in names]
        if not stored:
            raise DDBenchError("it holds no records")
        for record in stored:
            _check_plausible(record)
        for name in manifest.files:
            if PurePosixPath(name).name == SET_FILE:
                _check_set(root, name, {record.distilled_digest for record in stored})
    except DDBenchError as error:
        raise DDBenchError(f"bundle {path}: {error}") from error
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DDBenchError(f"bundle {path} is damaged: {error_text(error)}") from error
    return stored


def _manifest(root: Root) -> Manifest:
    if not (root / MANIFEST).is_file():
        raise DDBenchError(f"it has no {MANIFEST}, which ddbench submit writes")
    try:
        return Manifest(**verified_json.load(_bytes(root, MANIFEST, MAX_RECORD_BYTES).decode()))
    except (ValueError, TypeError, ValidationError) as error:
        raise DDBenchError(f"{MANIFEST}: {error_text(error)}") from error


def _check_layout(root: Root) -> None:
    """Refuses files that a bundle does not have, before any is read: it may be unpacked by another program.

    Raises:
        DDBenchError: A file has another path than those of `LAYOUT`, is a link or is there twice, or all are too large.
    """
    if isinstance(root, zipfile.Path):
        entries = [entry for entry in root.root.infolist() if not entry.is_dir()]
        sizes = [(entry.filename, entry.file_size) for entry in entries]
        links = [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
    else:
        paths = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
        sizes = [(path.relative_to(root).as_posix(), path.lstat().st_size) for path in paths]
        links = [path.relative_to(root).as_posix() for path in paths if not stat.S_ISREG(path.lstat().st_mode)]
    names = [name for name, _ in sizes]
    if strange := next((name for name in names if not LAYOUT.fullmatch(name)), None):
        raise DDBenchError(f"the file {strange} does not belong in a bundle")
    if links:
        raise DDBenchError(f"{links[0]} is not a file, but a link or a device")
    if len(set(names)) < len(names):
        raise DDBenchError(f"it holds two files {next(name for name in names if names.count(name) > 1)}")
    if sum(size for _, size in sizes) > MAX_BYTES:
        raise DDBenchError(f"its files have more than {MAX_BYTES // 10**9} GB")


def _check_files(root: Root, manifest: Manifest) -> None:
    actual = set(_files(root)) - {MANIFEST}
    if missing := sorted(manifest.files.keys() - actual):
        raise DDBenchError(f"the file {missing[0]} is missing")
    if others := sorted(actual - manifest.files.keys()):
        raise DDBenchError(f"the file {others[0]} is not listed in {MANIFEST}")
    for name, digest in manifest.files.items():
        if _digest(root, name) != digest:
            raise DDBenchError(f"the file {name} is damaged, or was changed after ddbench submit")


def _check_plausible(record: Record) -> None:
    """Refuses a record whose numbers cannot be those of one student.

    Raises:
        DDBenchError: The message names the record and the number.
    """
    metrics, fault_of_time = record.metrics, _fault_of_time(record.created)
    problems = {
        "a name with other characters than letters, digits, - and _": not NAME.fullmatch(record.name),
        f"top-1 of {len(metrics.per_class)} classes, and the dataset has {record.classes}": len(metrics.per_class)
        != record.classes,
        f"top-1 {metrics.top1_last:.2f} is not between those of its classes": not _within(
            metrics.top1_last, metrics.per_class
        ),
        f"{record.distilled_images} images of {record.classes} classes at IPC {record.ipc}": record.ipc is not None
        and abs(record.distilled_images - record.ipc * record.classes) >= record.classes,
        f"it was created on {record.created[:10]}, {fault_of_time}": bool(fault_of_time),
        "a stage with less than 0 seconds": min(record.seconds.values(), default=0.0) < 0,
        "a teacher with a top-1 outside 0 to 100 %": not 0 <= record.teacher.get("top1", 0) <= 100,
    }
    if problem := next((text for text, is_wrong in problems.items() if is_wrong), None):
        raise DDBenchError(f"record {record.name} is implausible: {problem}")


def _within(value: float, values: Sequence[float]) -> bool:
    return min(values, default=0.0) - 1e-6 <= value <= max(values, default=100.0) + 1e-6


def _fault_of_time(created: str) -> str:
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return "which is not a time"
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return "in the future" if time > datetime.now(UTC) + CLOCKS else ""


def _check_set(root: Root, name: str, digests: set[str]) -> None:
    """Refuses images that are not those of a record."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from ddbench.distillation.distilled_set import set_digest

    try:
        tensors = load(_bytes(root, name, MAX_SET_BYTES))
    except (SafetensorError, ValueError) as error:
        raise DDBenchError(f"{name} is not a file of tensors: {error_text(error)}") from error
    if set_digest(tensors) not in digests:
        raise DDBenchError(f"{name} is not the distilled set of a record of the bundle")


def other_versions(record: Record, methods: Mapping[str, Any], protocols: Mapping[str, Any]) -> str:
    """Returns why the numbers of a record are not comparable with those of this version of ddbench; empty if they are.

    Args:
        record: The record.
        methods: The installed methods by name.
        protocols: The installed protocols by name.
    """
    versions = (
        ("protocol", record.evaluator, record.evaluator_version, protocols),
        ("method", record.method, record.method_version, methods),
    )
    for kind, name, version, installed in versions:
        if name in installed and installed[name].version != version:
            return f"{kind} {name} has version {version}, and version {installed[name].version} is installed"
    if record.evaluator not in protocols:
        return f"protocol {record.evaluator} is not installed"
    return ""


def _files(root: Root, prefix: str = "") -> Iterator[str]:
    """Yields the paths of all files below a folder, in order."""
    entries: list[Root] = [*root.iterdir()]
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}"


def _digest(root: Root, name: str) -> str:
    with (root / name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # both types have readinto


def _bytes(root: Root, name: str, limit: int) -> bytes:
    with (root / name).open("rb") as file:
        content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise DDBenchError(f"{name} has more than {limit // 10**6} MB")
    return content
