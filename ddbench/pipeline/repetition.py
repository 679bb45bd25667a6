"""Repeats a record: its experiment, what differs on this machine, and whether the numbers agree."""

from __future__ import annotations

import contextlib
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ddbench.config.datasets import HUB_PREFIX
from ddbench.config.experiment import Experiment
from ddbench.config.given_sets import SPACES, SUFFIXES, digest_in
from ddbench.config.schema import RuntimeConfig, device_kind, replace_paths
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.core.files import content_digest, translate_os_errors
from ddbench.core.text import error_text
from ddbench.core.text_layout import format_table, terminal_width
from ddbench.data.dataset import Dataset
from ddbench.nn import device as devices
from ddbench.pipeline.given_sets import GivenSet, open_hub_set, open_set
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import experiment_of
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.collection import Kind
from ddbench.registry.registry import PluginRegistry
from ddbench.results.conditions import other_numerics
from ddbench.results.provenance import git_commit, versions
from ddbench.results.records import Record
from ddbench.storage.artifacts import digest_of
from ddbench.storage.cache import Cache

SHARED_STAGES = ("data", "given")
"""Stages of the user's cache that a repetition reads: inputs, which are verified by their digests."""
_RECORDED_FILE = re.compile(r"(.+)@([0-9a-f]{8})")
"""A file or folder among the settings of a method or protocol, as records contain it."""
Row = tuple[str, str, str]
"""What differs, its value in the record, and its value here."""


class Files:
    """Finds the files that a record names without their folder.

    Args:
        given: Files that the user gives.
        folders: Folders in which other files are searched, in order.
    """

    def __init__(self, given: Sequence[Path], folders: Iterable[Path]) -> None:
        for path in given:
            if not path.exists():
                raise DDBenchError(f"--file {path}: there is no such file or folder")
        self._given, self._folders = given, tuple(dict.fromkeys(folder.absolute() for folder in folders))
        self._used: set[Path] = set()

    def find(self, recorded: Path, suffixes: Sequence[str] = ()) -> Path:
        """Returns the path of a file or folder of a record: `NAME`, or `NAME@DIGEST` of a given content.

        Args:
            recorded: Its name in the record.
            suffixes: Suffixes that it can have, and that the record leaves out.

        Raises:
            DDBenchError: There is none, or none with this content.
        """
        match = _RECORDED_FILE.fullmatch(recorded.name)
        name, digest = (match[1], match[2]) if match else (recorded.name, "")
        names = [name, *(f"{name}{suffix}" for suffix in suffixes)]
        given = [path for path in self._given if path.name in names]
        self._used.update(given)
        places = given or [folder / each for folder in self._folders for each in names]
        candidates = [path for path in places if path.exists()]
        for path in candidates:
            if not digest or (content_digest(path) or "").startswith(digest):
                return path
        if candidates:
            raise DDBenchError(f"{candidates[0]} has another content than '{recorded.name}' of the record")
        searched = ", ".join(map(str, self._folders))
        raise DDBenchError(f"the record needs '{name}', which is not in {searched}: give it with --file")

    def is_given(self, name: str) -> bool:
        """Returns whether the user gives a file or folder with this name, which can lack its suffix."""
        return any(name in (path.name, path.stem) for path in self._given)

    def check_used(self) -> None:
        """Refuses given files that the record does not name."""
        for path in self._given:
            if path not in self._used:
                raise DDBenchError(f"--file {path}: the record names no file '{path.name}'")


def recorded_experiment(record: Record, registry: PluginRegistry, files: Files) -> Experiment:
    """Returns the experiment of a record. Settings that the record lacks, because they are newer, have their default.

    A device that this machine does not have is replaced by its own. The number of threads is that of the record.

    Args:
        record: The record.
        registry: The installed methods and protocols.
        files: Finds the files that the record names.

    Raises:
        DDBenchError: The method or protocol is not installed, has no such setting, or a file is missing.
    """
    numbers = ("dataset", "method", "ipc", "evaluator", "student", "seed", "repeat", "student_seed", "recipes")
    identity = {name: getattr(record, name) for name in numbers}
    try:
        experiment = experiment_of({**record.configuration, **identity, "runtime": _runtime(record)}, registry)
    except ValidationError as error:
        raise DDBenchError(f"{record.name}: this version cannot have {error_text(error)}") from error
    with_files = {
        name: replace_paths(getattr(experiment, name), files.find) for name in ("teacher", "method", "evaluator")
    }
    return experiment.model_copy(update=with_files)


def _runtime(record: Record) -> dict[str, Any]:
    runtime = {"compile": "off", **record.configuration["runtime"], "threads": record.device["threads"]}
    kind = device_kind(runtime["device"])
    try:
        devices.resolve(RuntimeConfig(device=kind))
    except DDBenchError:
        kind = "auto"
    return {**runtime, "device": kind}


def own_cache(cache: Cache, record: Record, warn: Callable[[str], None]) -> Cache:
    """Returns a cache inside the user's cache, so that nothing of the record is served instead of computed.

    The real images and given sets are those of the user's cache, whose other artifacts are never replaced. After an
    interruption the same repetition resumes. `discard` removes the cache of a finished one.

    Args:
        cache: The user's cache.
        record: The record that is repeated.
        warn: As for `Cache`.
    """
    root = cache.root / "repeats" / key_of(record.model_dump(mode="json"))[:16]
    with translate_os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for stage in SHARED_STAGES if cache.place == str(cache.root) else ():  # the files of a URL's copy are uploaded
            (cache.root / stage).mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (root / stage).symlink_to(cache.root.absolute() / stage, target_is_directory=True)
    return Cache(root, warn=warn)


def add_given_set(record: Record, experiment: Experiment, workspace: Workspace, files: Files) -> None:
    """Reads the given set of a record from its file or from the hub, if the cache does not have the set.

    The record does not hold the space of float images: every space is tried, and the digest decides.

    Raises:
        DDBenchError: There is no such file, or it holds another set.
    """
    reference = experiment.method.given_set()
    if reference is None:
        return
    origin = record.origin
    cached = workspace.cache.has("given", {"set": digest_in(reference)})
    if cached and not files.is_given(str(origin.get("name", ""))):
        return
    again = "evaluate it once here (ddbench evaluate)"
    if "record" in origin:
        raise DDBenchError(f"{reference} is the set of the record {origin['record']}, which is no file: {again}")
    if "name" not in origin:
        raise DDBenchError(f"{record.name}: the record does not hold where {reference} is from ('origin.name')")
    dataset, others, problem = workspace.dataset(experiment.dataset, experiment.data), [], ""
    for pixels in (None, *SPACES):
        try:
            given = _open_origin(str(origin["name"]), files, dataset, workspace, pixels)
        except DDBenchError as error:
            problem = problem or str(error)
            continue
        if given.digest == digest_in(reference):
            workspace.add_given_set(given)
            return
        others.append(given.digest)
    if not others:
        raise DDBenchError(problem)
    classes = "if it was read with --classes, " + again
    raise DDBenchError(f"{origin['name']} holds another set ({others[0]}) than {reference}; {classes}")


def _open_origin(name: str, files: Files, dataset: Dataset, workspace: Workspace, pixels: str | None) -> GivenSet:
    """Opens the set of a record from a file or folder, a folder of parquet files (`NAME:SPLIT`), or the hub."""
    if "/" in name:
        return open_hub_set(f"{HUB_PREFIX}{name}", dataset, workspace.relay, pixels)
    folder, _, split = name.partition(":")
    path = files.find(Path(folder), SUFFIXES)
    if path.is_dir() and any(path.rglob("*.parquet")):
        place = f"{HUB_PREFIX}{path.absolute()}" + (f":{split}" if split else "")
        return open_hub_set(place, dataset, workspace.relay, pixels)
    return open_set(path, dataset, pixels)


def discard(cache: Cache) -> None:
    """Removes the cache of a finished repetition. The stages that it shares with the user's cache remain."""
    shutil.rmtree(cache.root, ignore_errors=True)


def check_teacher(pipeline: Pipeline, record: Record) -> None:
    """Verifies the weights of a teacher's checkpoint.

    Raises:
        DDBenchError: They are not those of the record.
    """
    checkpoint, recorded = pipeline.experiment.teacher.checkpoint, record.teacher.get("digest")
    if checkpoint is None or recorded is None or not pipeline.uses_teacher:
        return
    actual = digest_of(pipeline.pool.checkpoint_network().state_dict())
    if actual != recorded:
        weights = f"it has the weights {actual[:12]}, and the teacher of the record {recorded[:12]}"
        raise DDBenchError(f"{checkpoint} is another teacher: {weights}; give the right one with --file")


def differences(record: Record, pipeline: Pipeline) -> list[Row]:
    """Returns what cannot be the same here: what it is, in the record, and here.

    Args:
        record: The record.
        pipeline: The pipeline of its experiment.
    """
    here = devices.describe(pipeline.device)
    runtime, registry = pipeline.experiment.runtime, pipeline.workspace.registry
    rows = [
        ("device", f"{record.device['name']} ({record.device['type']})", f"{here['name']} ({here['type']})"),
        ("threads", _by_stage(record, "threads", record.device["threads"]), str(pipeline.threads)),
        ("processes", _by_stage(record, "processes", record.device.get("processes", 1)), "1"),
        ("compile", str(record.configuration["runtime"].get("compile", "off")), runtime.compile),
        ("real images", str(record.data.get("fingerprint", "")), pipeline.info.fingerprint),
        (f"method {record.method}", f"version {record.method_version}", f"version {pipeline.method.version}"),
        (f"protocol {record.evaluator}", f"version {record.evaluator_version}", f"version {pipeline.protocol.version}"),
        ("commit of ddbench", _short(record.git_commit or ""), _short(git_commit() or "not a checkout")),
        *_code(record, registry),
    ]
    installed = versions()
    for name, version in record.versions.items():
        if name != "numerics":
            rows.append((name, version, installed.get(name, "not installed")))
    rows = [(name, there, own) for name, there, own in rows if there and there != own]
    if runtime.precision == "bf16" and not devices.has_fast_bf16(runtime.device):
        rows.append(("precision", "bf16", "bf16, without fast hardware"))
    if parts := other_numerics(record):
        current = dict(part.split("=") for part in installed["numerics"].split())
        own = " ".join(f"{name}={current.get(name)}" for name in (part.partition("=")[0] for part in parts.split()))
        rows.append(("numerics of the core", parts, own))
    if newer := _newer_settings(record, pipeline.experiment):
        rows.append(("settings", "older than these", ", ".join(newer)))
    return rows


def _short(commit: str) -> str:
    """Returns the first digits of a commit, and the + of a modified checkout."""
    return commit if len(commit) < 40 else f"{commit[:12]}{commit[40:]}"


def _by_stage(record: Record, name: str, otherwise: int) -> str:
    """Returns a condition of the stages; with the stages if they differ."""
    stages: dict[str, list[str]] = {}
    for stage, conditions in record.stages.items():
        for condition in conditions:
            if (value := condition.get(name)) is not None:
                stages.setdefault(str(value), []).append(stage)
    if len(stages) > 1:
        return ", ".join(f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in stages.items())
    return next(iter(stages), str(otherwise))


def _code(record: Record, registry: PluginRegistry) -> Iterator[Row]:
    """Yields the digests of the code of the method and the protocol, if the record has them."""
    kinds: tuple[tuple[Kind, str, str], ...] = (
        ("method", "distill", record.method),
        ("evaluator", "evaluate", record.evaluator),
    )
    for kind, stage, name in kinds:
        recorded = [str(condition["digest"]) for condition in record.stages.get(stage, ()) if condition.get("digest")]
        if recorded:
            yield f"code of {name}", recorded[-1][:12], registry.source_of(kind, name).digest[:12]


def _newer_settings(record: Record, experiment: Experiment) -> list[str]:
    """Returns the names of the settings that the record lacks. They have their default."""
    sections: Mapping[str, BaseModel] = {
        **{name: getattr(experiment, name) for name in ("data", "teacher", "statistics")},
        "method_settings": experiment.method,
        "evaluator_settings": experiment.evaluator,
    }
    return [
        f"{section.removesuffix('_settings')}.{name}"
        for section, settings in sections.items()
        for name in settings.model_dump(mode="json")
        if name not in record.configuration[section]
    ]


def plan_text(record: Record, pipeline: Pipeline) -> str:
    """Formats what cannot be the same here, whether the settings are those of the record, and what is not repeated.

    Args:
        record: The record.
        pipeline: The pipeline of its experiment.
    """
    rows = differences(record, pipeline)
    width = terminal_width()
    lines = [textwrap.fill(f"repeats {record.name}: {pipeline.experiment.name}", width)]
    if rows:
        lines += ["", format_table(("differs here", "record", "here"), rows, width), ""]
    same = record.keys.get("evaluate") == [pipeline.cache_key("evaluate")]
    keys = "equal those of the record: settings, real images, and all versions that keys contain, are the same"
    other = "differ from those of the record" + ("" if rows else ", for a reason that the record does not hold")
    lines.append(textwrap.fill(f"the cache keys {keys if same else other}", width))
    if record.measures:
        lines.append(textwrap.fill(f"measures are not computed again: {', '.join(record.measures)}", width))
    return "\n".join(lines)


def agreement(record: Record, repeated: Record) -> tuple[str, bool]:
    """Compares the numbers of a record with those of its repetition.

    Args:
        record: The record.
        repeated: The record of the repetition.

    Returns:
        A text, and whether the distilled sets and all accuracies are equal.
    """
    old, new = record.metrics, repeated.metrics
    by_class = [abs(one - other) for one, other in zip(old.per_class, new.per_class, strict=False)]
    same_set = record.distilled_digest == repeated.distilled_digest
    same_top1 = (old.top1_last, old.per_class) == (new.top1_last, new.per_class)
    rows: list[Row] = [("distilled set", record.distilled_digest[:16], repeated.distilled_digest[:16])]
    if teacher := record.teacher.get("digest"):
        rows.append(("teacher", teacher[:16], repeated.teacher.get("digest", "")[:16]))
    rows.append(("top-1", f"{old.top1_last:.2f}", f"{new.top1_last:.2f}"))
    lines = [format_table(("", "record", "here"), rows, terminal_width()), ""]
    lines.append(f"largest difference of a class: {max(by_class, default=0.0):.2f} percentage points")
    if same_set and same_top1:
        return "\n".join([*lines, "agrees: the same distilled set and the same accuracies"]), True
    images = "the same distilled set" if same_set else "another distilled set"
    points = "the same accuracies" if same_top1 else f"top-1 {new.top1_last - old.top1_last:+.2f} percentage points"
    return "\n".join([*lines, f"differs: {images}, {points}"]), False
