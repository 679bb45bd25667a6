"""What a unit of work holds while it runs: `--set resources.STAGE.WHAT=VALUE`. In no key and no record."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from ddbench.api.settings import Section
from ddbench.config import recipes
from ddbench.core import text as core_text
from ddbench.core.errors import DDBenchError, did_you_mean


class Resources(Section):
    """Of one unit of a stage."""

    cpus: int = Field(default=1, ge=1, description="cores; torch computes with so many threads")
    gpus: float | None = Field(
        default=None, ge=0, description="a share (0.5), or a whole number (default: 1 on CUDA, else 0)"
    )
    memory: float | None = Field(default=None, gt=0, description="GiB that a node must have left for it")

    @field_validator("gpus")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus % 1:
            raise ValueError("a share of one GPU, or a whole number")
        return gpus


class TrainingResources(Resources):
    """Of each process of a unit that trains."""

    processes: int = Field(default=1, ge=1, description="processes that train it together, each with all these")

    @field_validator("processes")
    @classmethod
    def _a_device_each(cls, processes: int, info: ValidationInfo) -> int:
        if processes > 1 and 0 < (info.data.get("gpus") or 0) < 1:
            raise ValueError("they need a whole GPU each")
        return processes


class ResourcesConfig(Section):
    """Of the units of every stage; `evaluate` counts for `measure` too, which is one process."""

    teacher: TrainingResources = TrainingResources()
    statistics: Resources = Resources()
    distill: Resources = Resources()
    evaluate: TrainingResources = TrainingResources()

    def of(self, stage: str) -> Resources:
        """What a unit of `stage` holds."""
        found: Resources = getattr(self, "evaluate" if stage == "measure" else stage)
        return found

    def processes(self, stage: str) -> int:
        """How many make a unit of `stage` together."""
        return int(getattr(getattr(self, stage, None), "processes", 1))


def resources_of(assignments: Iterable[str]) -> ResourcesConfig:
    """From `resources.distill.gpus=0.5` and the like; later wins. Raises DDBenchError for the first wrong one."""
    settings: dict[str, dict[str, object]] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        _, stage, what = (*path.strip().split(".", 2), "", "")[:3]
        if not (equals and what and value.strip()):
            raise DDBenchError(f"--set {text}: write it as resources.STAGE.WHAT=VALUE, e.g. resources.distill.gpus=0.5")
        if stage not in ResourcesConfig.model_fields:
            raise DDBenchError(f"--set {text}: no stage '{stage}'{did_you_mean(stage, ResourcesConfig.model_fields)}")
        kind = type(getattr(ResourcesConfig(), stage))
        if what not in kind.model_fields:
            raise DDBenchError(f"--set {text}: {stage} has no resource '{what}'{did_you_mean(what, kind.model_fields)}")
        try:
            settings.setdefault(stage, {})[what] = recipes.parse_plain_yaml(value)
            kind.model_validate(settings[stage], strict=False)
        except ValidationError as error:
            raise DDBenchError(f"resources.{stage}.{core_text.error_text(error)}") from error
        except ValueError as error:
            raise DDBenchError(f"--set {text}: '{value}' is not a plain value") from error
    return ResourcesConfig.model_validate(settings)
