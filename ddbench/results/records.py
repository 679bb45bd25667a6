"""Records: one JSON file per evaluation."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from ddbench.api.evaluator import Metrics
from ddbench.config.datasets import FOLDER_PREFIX, dataset_name, recorded_name
from ddbench.core.errors import DDBenchError, did_you_mean
from ddbench.core.files import atomic_write
from ddbench.core.text import error_text
from ddbench.results import verified_json
from ddbench.results.measures import Measured
from ddbench.results.record_checks import (
    SECTIONS,
    OtherTeacher,
    Tree,
    check_optional,
    check_sections,
    require_values,
)

LONGEST_PART = 40
"""Largest length of the method, and of the dataset, in the name of a record."""


class Trial(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A trial of a search (`ddbench tune`) that a record is part of. With `data.holdout` 0, it is one that won."""

    search: str = Field(description="name of the search")
    trial: int = Field(description="number of the trial among those of the method, from 1")
    of: int = Field(description="number of trials of the method")
    settings: Tree = Field(description="searched settings with their values")


class Record(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """One student, trained on one distilled set with one seed, with everything that is needed to repeat it."""

    format: int = Field(default=1, description="version of the file format")
    name: str = Field(description="name of the record: that of its file without .json")
    created: str = Field(description="when the student was evaluated: UTC, ISO 8601")
    method: str = Field(description="name of the method; of a given set, its name and digest")
    method_version: str = Field(description="version of the method")
    dataset: str = Field(description="name of the dataset; of an image folder, its name and digits of its fingerprint")
    classes: int = Field(description="number of classes")
    ipc: int | None = Field(description="images per class; None: the whole training set")
    image_size: int = Field(description="height and width of the images, in pixels")
    recipes: list[str] = Field(description="names of the recipes, in their order")
    evaluator: str = Field(description="name of the protocol")
    evaluator_version: str = Field(description="version of the protocol")
    student: str = Field(description="network of the student")
    seed: int = Field(description="base seed")
    repeat: int = Field(description="number of the distilled set")
    student_seed: int = Field(description="number of the student on that set")
    metrics: Metrics = Field(description="results of the student")
    teacher: Annotated[
        Tree, require_values(name=str, top1=int | float), check_optional(others=dict[str, OtherTeacher])
    ] = Field(
        description="name, top1 (percent, on the images that students are evaluated on), per_class (top-1 of each "
        "class), key, digest; others: top1, key, digest and used_by of further teachers, by network; empty without a "
        "teacher"
    )
    feature_transport_cost: float | None = Field(
        description="W_2^2 between the features of the set and of its class, mean over classes; None without a teacher"
    )
    data: dict[str, Any] = Field(
        default_factory=dict,
        description="fingerprint of the real images; names of the classes in order; numbers of training images, of "
        "evaluation images, and of those of the latter that have the content of a training image; numbers of skipped "
        "images by split and reason",
    )
    distilled_digest: str = Field(description="SHA-256 of the distilled set")
    distilled_images: int = Field(description="number of distilled images")
    distilled_form: Tree = Field(
        default_factory=dict,
        exclude_if=lambda form: not form,
        description="what the set holds besides uint8 images, classes and weights: float32 pixels, soft labels "
        "(probabilities or logits), a learning rate, a decoder",
    )
    origin: Tree = Field(
        default_factory=dict,
        exclude_if=lambda origin: not origin,
        description="of a set that was given, or that the method started from: name, number and SHA-256 of its files, "
        "or the record that it is from",
    )
    trials: list[Trial] = Field(
        default_factory=list,
        exclude_if=lambda trials: not trials,
        description="trials of searches (ddbench tune) that the record is part of",
    )
    measures: dict[str, Measured] = Field(
        default_factory=dict, exclude_if=lambda measures: not measures, description="numbers beside top-1, by measure"
    )
    keys: dict[str, list[str]] = Field(
        description="cache keys of evaluation, distilled set, teacher and statistics, by stage"
    )
    configuration: Annotated[
        Tree,
        Field(min_length=1),
        require_values(dataset=str, ipc=int | None, student_stem=str, **dict.fromkeys(SECTIONS, dict)),
        check_optional(changed=list[str], recipe_files=dict[str, str]),
        AfterValidator(check_sections),
    ] = Field(
        description="dataset, method, ipc, evaluator, student, student_stem (its first layers), seeds, recipes, "
        "changed (settings given by --set), and a section for each part that has settings"
    )
    seconds: dict[str, float] = Field(
        description="of each stage, the sum over its artifacts of their own seconds when they were built: without the "
        "artifacts that they requested and without imports"
    )
    seconds_per_iteration: float | None = Field(
        description="seconds of one step of the method's optimisation loop; None without one"
    )
    peak_memory: dict[str, int] = Field(
        description="largest memory in bytes: on the device, and resident in the process"
    )
    device: Annotated[Tree, Field(min_length=1), require_values(type=str, name=str, threads=int)] = Field(
        description="device of the evaluation: type, name, number of CPU threads; processes that trained one artifact, "
        "if several; nondeterministic operations, if recorded"
    )
    versions: dict[str, str] = Field(
        description="versions of Python and packages; numerics: those of the core's numerical code"
    )
    git_commit: str | None = Field(
        description="commit of the checkout of ddbench, with + if files were modified; None without a checkout"
    )
    stages: dict[str, list[dict[str, Any]]] = Field(
        default_factory=dict,
        description="of each stage, every distinct way in which its artifacts were built: versions of PyTorch and POT, "
        "threads, processes, and the plugin's distribution with the digest of its code",
    )
    built: dict[str, str] = Field(
        default_factory=dict,
        description="of each stage, when its newest artifact was built; a later run reads it from the cache",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_folder(cls, content: Any) -> Any:
        """Names the image folder of an older record by its own name and fingerprint. Older records contain its path."""
        if not isinstance(content, dict) or not str(content.get("dataset")).startswith(FOLDER_PREFIX):
            return content
        data, configuration = content.get("data"), content.get("configuration")
        fingerprint = data.get("fingerprint") if isinstance(data, dict) else None
        try:
            name = dataset_name(content["dataset"])
            name = recorded_name(name, fingerprint) if isinstance(fingerprint, str) else name
        except DDBenchError as error:
            raise ValueError(str(error)) from error
        if isinstance(configuration, dict) and "dataset" in configuration:
            content = {**content, "configuration": {**configuration, "dataset": name}}
        return {**content, "dataset": name}

    @property
    def distill_seconds(self) -> float | None:
        """Seconds of the distilled set: of its units, and of the intermediate results of the method."""
        own = self.seconds.get("distill")
        return None if own is None else own + self.seconds.get("method", 0.0)

    @property
    def holdout(self) -> float:
        """Share of the training images that is held out for evaluation; 0: evaluated on the validation images."""
        return float(self.configuration.get("data", {}).get("holdout", 0.0))

    @property
    def measured_on(self) -> str:
        """The images that every accuracy of this record is measured on, in words."""
        return measured_on(self.holdout, float(self.configuration.get("data", {}).get("split", 0.0)))


def measured_on(holdout: float, split: float = 0.0) -> str:
    """Names the images that accuracies are measured on.

    Args:
        holdout: Share of the training images that is held out, in [0, 1). 0: none.
        split: Share of the images that `data.split` made validation images, in [0, 1). 0: none.

    Example:
        >>> measured_on(0.0), measured_on(0.0, 0.2), measured_on(0.1)
        ('validation images', 'validation images (data.split 0.2)', 'held-out training images (0.1)')
    """
    if holdout:
        return f"held-out training images ({holdout:g})"
    return f"validation images (data.split {split:g})" if split else "validation images"


def run_name(method: str, dataset: str, ipc: int | None, key: str) -> str:
    """Returns the file name of a run. It contains only letters, digits, dashes and underscores.

    Args:
        method: Name of the method.
        dataset: Name of the dataset.
        ipc: Images per class. None: the whole training set.
        key: Cache key. The name contains its first 8 characters.

    Example:
        >>> run_name("wmdd", "folder:my pets", 10, "0123456789abcdef")
        'wmdd-folder_my_pets-ipc10-01234567'
    """
    size = "full" if ipc is None else f"ipc{ipc}"
    name = _file_name(method)
    if len(name) > LONGEST_PART:  # a given set: its digest is at the end
        name = f"{name[: LONGEST_PART - 17]}_{name[-16:]}"
    return f"{name}-{_file_name(dataset)[-LONGEST_PART:]}-{size}-{key[:8]}"


def _file_name(text: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text).strip("_")


def write(record: Record, folder: Path) -> Path:
    """Writes a record atomically, with a digest of its content.

    Returns:
        The path, `folder/NAME.json`.
    """
    path = folder / f"{record.name}.json"
    with atomic_write(path) as partial:
        partial.write_text(verified_json.dump(record.model_dump(mode="json")), encoding="utf-8")
    return path


def store(record: Record, folder: Path) -> Record:
    """Writes the record of a run beside all others: it replaces only a record of the same key and numbers.

    A record of another key that has the same name, or of the same key with other numbers (another machine, PyTorch or
    number of threads), is kept, and the new record gets a longer name. The new record keeps the trials and the other
    measures of the record that it replaces.

    Args:
        record: The record, with its usual name.
        folder: Folder of the records.

    Returns:
        The record with the name that it was written under.
    """
    identity = _identity(record)
    name, trials, measures = record.name, record.trials, record.measures
    if (previous := _read_if_valid(folder / f"{name}.json")) and _identity(previous) != identity:
        name += f"-{verified_json.digest(identity)[:8]}"
        previous = _read_if_valid(folder / f"{name}.json")
    if previous:
        trials = [*previous.trials, *(trial for trial in trials if trial not in previous.trials)]
        measures = dict(sorted({**previous.measures, **measures}.items()))
    stored = record.model_copy(update={"name": name, "trials": trials, "measures": measures})
    write(stored, folder)
    return stored


def _read_if_valid(path: Path) -> Record | None:
    try:
        return read(path)
    except DDBenchError:  # there is none, or it is damaged
        return None


def _identity(record: Record) -> dict[str, Any]:
    """The key of the evaluation, and the numbers that it gave."""
    return {
        "key": record.keys.get("evaluate"),
        "metrics": record.metrics.model_dump(mode="json"),
        "distilled_digest": record.distilled_digest,
        "teacher": record.teacher.get("digest"),
    }


def read(path: Path) -> Record:
    """Reads one record.

    Raises:
        DDBenchError: If the file is missing, damaged, edited by hand or not a record.
    """
    try:
        return parse(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise DDBenchError(f"no record {path}") from error
    except OSError as error:
        raise DDBenchError(f"record {path} cannot be read: {error.strerror}") from error


def parse(content: bytes, name: Path | str) -> Record:
    """Returns the record in the content of a file.

    Raises:
        DDBenchError: The content is damaged, edited by hand or not a record. The message contains the name of the file.
    """
    try:
        return Record(**verified_json.load(content.decode("utf-8")))
    except (ValueError, TypeError, ValidationError) as error:
        raise DDBenchError(f"{name} is not a record: {error_text(error)}") from error


def find(folder: Path, name: str | None, of_set: bool = False) -> Path:
    """Finds the file of a record.

    Args:
        folder: Folder of records.
        name: Name of the record, or the beginning of one name. None: the newest record.
        of_set: Whether the record stands for its distilled set: of several that match and have one set, the newest.

    Raises:
        DDBenchError: If no record or more than one matches.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise no_records_error(folder)
    if name is None:
        return paths[-1]
    exact = [path for path in paths if path.stem == name.removesuffix(".json")]
    matching = exact or [path for path in paths if path.stem.startswith(name)]
    if of_set and len({read(path).distilled_digest for path in matching}) == 1:
        return matching[-1]
    if len(matching) > 1:
        raise DDBenchError(f"{len(matching)} records begin with '{name}'; {_newest(matching)}")
    if not matching:
        hint = did_you_mean(name, [path.stem for path in paths], f"; {_newest(paths)}")
        raise DDBenchError(f"no record '{name}' in {folder}{hint}")
    return matching[0]


def _newest(paths: Sequence[Path]) -> str:
    """Returns the names of the newest of several files in the order of their age, for a message."""
    names = [path.stem for path in reversed(paths[-3:])]
    return f"the newest: {', '.join(names)} (ddbench records lists all)"


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pauses Python's garbage collector: many records are many objects without cycles, which it searches in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@collection_paused()
def read_all(folder: Path, warn: Callable[[str], None] = warnings.warn) -> list[Record]:
    """Reads all records of a folder, in the order of their names.

    Args:
        folder: Folder of records.
        warn: Called with a message for each JSON file that is not a record.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(read(path))
        except DDBenchError as error:
            warn(str(error))
    return records


def no_records_error(folder: Path) -> DDBenchError:
    """Returns the error for a folder without records. It names a command that makes a record."""
    example = "ddbench run --method random --dataset digits --ipc 1"
    return DDBenchError(f"no records in {folder}; start a run first, e.g. {example}")
