"""Records: one JSON file for one evaluation, written atomically, and all of them as a pandas frame."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from ddbench.api.evaluator import Metrics
from ddbench.config.recipes import require_plain
from ddbench.config.schema import DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig
from ddbench.core.errors import DDBenchError, did_you_mean
from ddbench.core.files import atomic_write
from ddbench.core.text import error_text

if TYPE_CHECKING:
    import pandas as pd

Tree = dict[str, Any]


def _having(**kinds: Any) -> AfterValidator:
    """A tree with values of these names and kinds, or empty: what reads records takes them out without asking."""

    def check(tree: Tree) -> Tree:
        for name, kind in kinds.items() if tree else ():
            if name not in tree:
                raise ValueError(f"'{name}' is missing")
            if not isinstance(tree[name], kind):
                raise ValueError(f"'{name}' is a {type(tree[name]).__name__}")
        return tree

    return AfterValidator(check)


_CORE: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "teacher": TeacherConfig,
    "statistics": StatisticsConfig,
    "distill": DistillConfig,
    "runtime": RuntimeConfig,
}


SECTIONS = (*_CORE, "method_settings", "evaluator_settings")


def _sound(tree: Tree) -> Tree:
    """A configuration with every section, whose values, where the core knows the setting, are such as it can have."""
    needed = {"runtime": {"device", "precision"}, "distill": {"jpeg_quality"}}
    for name, model in _CORE.items():
        if missing := needed.get(name, set()) - tree[name].keys():
            raise ValueError(f"'{name}.{min(missing)}' is missing")
        try:
            model(**{key: value for key, value in tree[name].items() if key in model.model_fields})
        except ValidationError as error:
            raise ValueError(f"{name}.{error_text(error)}") from error
    return tree


class Record(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """One student trained on one distilled set with one seed, and everything needed to do it again."""

    format: int = Field(default=1, description="of this file")
    name: str
    created: str = Field(description="UTC, ISO 8601")
    method: str
    method_version: str
    dataset: str
    classes: int
    ipc: int | None
    image_size: int
    recipes: list[str]
    evaluator: str
    evaluator_version: str
    student: str
    seed: int = Field(description="base seed")
    repeat: int = Field(description="which distilled set")
    student_seed: int = Field(description="which student on that set")
    metrics: Metrics
    teacher: Annotated[Tree, _having(name=str, top1=int | float)] = Field(
        description="name, top1 (on what students are measured on), key; empty without a teacher"
    )
    feature_transport_cost: float | None = Field(
        description="W_2^2 of the set's features to their class, mean over classes; None where no teacher was used"
    )
    data: dict[str, Any] = Field(
        default_factory=dict,
        description="fingerprint of the real images, how many were trained on, and how many measured on",
    )
    distilled_digest: str
    distilled_images: int
    keys: dict[str, list[str]]
    configuration: Annotated[
        Tree,
        Field(min_length=1),
        _having(dataset=str, ipc=int | None, student_stem=str, **dict.fromkeys(SECTIONS, dict)),
        AfterValidator(_sound),
    ]
    seconds: dict[str, float] = Field(description="seconds of each stage when it was computed")
    seconds_per_iteration: float | None = Field(description="of the recover loop, where the method has one")
    peak_memory: dict[str, int] = Field(description="bytes: device, and resident in the process")
    device: Annotated[Tree, Field(min_length=1), _having(type=str, name=str, threads=int)]
    versions: dict[str, str]
    git_commit: str | None

    @property
    def holdout(self) -> float:
        """The share of the training images that was held out and measured on; 0: measured on the validation images."""
        return float(self.configuration.get("data", {}).get("holdout", 0.0))

    @property
    def measured_on(self) -> str:
        """What every accuracy of this record is measured on, in words."""
        return measured_on(self.holdout)


def measured_on(holdout: float) -> str:
    """What accuracies are measured on, in words; `holdout` the share of the training images held out, 0: none."""
    return f"held-out training images ({holdout:g})" if holdout else "validation images"


def run_name(method: str, dataset: str, ipc: int | None, key: str) -> str:
    """A file name for a run: letters, digits, dots, dashes and underscores alone, so that it stays in its folder."""
    size = "full" if ipc is None else f"ipc{ipc}"
    return f"{_safe(method)}-{_safe(dataset)}-{size}-{key[:8]}"


def _safe(text: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text).strip("_")[-40:]


def write(record: Record, folder: Path) -> Path:
    """Writes the record as `folder/NAME.json`, whole or not at all, with a digest of it. Returns its path."""
    path = folder / f"{record.name}.json"
    with atomic_write(path) as partial:
        partial.write_text(dump_with_digest(record.model_dump(mode="json")), encoding="utf-8")
    return path


def read(path: Path) -> Record:
    """Reads one record. Raises DDBenchError where the file is damaged, was changed by hand, or is none."""
    try:
        return Record(**load_verified(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DDBenchError(f"no record {path}") from error
    except OSError as error:
        raise DDBenchError(f"record {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, ValidationError) as error:
        raise DDBenchError(f"{path} is not a record: {error_text(error)}") from error


def dump_with_digest(content: Mapping[str, Any]) -> str:
    """Measured values (a JSON object) as the text of a file, with a digest of them: indentation and order are free."""
    return json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n"


def load_verified(text: str) -> dict[str, Any]:
    """The values that `sealed` wrote. Raises ValueError where they, or the digest, are not those that were written.

    What older versions wrote has no digest, and is given as it is.
    """
    try:
        found = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    require_plain(found)
    content = dict(found)
    if "digest" in content and content.pop("digest") != _digest(content):
        raise ValueError("damaged, or changed by hand: it does not match its digest; run its cell again")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that was measured")
    return value


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find(folder: Path, name: str | None) -> Path:
    """The record called `name` (or beginning so), or the newest one. Raises DDBenchError with "did you mean"."""
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise no_records_error(folder)
    if name is None:
        return paths[-1]
    exact = [path for path in paths if path.stem == name.removesuffix(".json")]
    matching = exact or [path for path in paths if path.stem.startswith(name)]
    if len(matching) > 1:
        raise DDBenchError(f"'{name}' begins {len(matching)} records: {', '.join(p.stem for p in matching[:3])} ...")
    if not matching:
        raise DDBenchError(f"no record '{name}' in {folder}{did_you_mean(name, [path.stem for path in paths])}")
    return matching[0]


def read_all(folder: Path, warn: Callable[[str], None] = warnings.warn) -> list[Record]:
    """All readable records of `folder`, by name; `warn` is told of every file that is no record."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read(path))
        except DDBenchError as error:
            warn(str(error))
    return found


def no_records_error(folder: Path) -> DDBenchError:
    """The error where a folder holds no record, with a command that makes one."""
    example = "ddbench run --method random --dataset digits --ipc 1"
    return DDBenchError(f"no records in {folder}; run something first, e.g. {example}")


def load(folder: Path, warn: Callable[[str], None] = warnings.warn) -> pd.DataFrame:
    """All readable records of `folder` as a tidy frame: one row a record, the metrics as columns.

    `ipc` is a nullable integer, missing for the whole training set; `holdout` the share of the training images that
    was measured on in place of the validation images (0: none); `configuration` the whole tree, as a dict. `warn` is
    told of every file that is no record.
    """
    import pandas as pd

    rows = []
    for record in read_all(folder, warn):
        row = record.model_dump(mode="json", exclude={"metrics", "keys"})
        rows.append({**row, "holdout": record.holdout, **record.metrics.model_dump(mode="json")})
    frame = pd.DataFrame(rows)
    return frame.astype({"ipc": "Int64"}) if rows else frame
