"""What a unit of work holds while it runs: `--set resources.STAGE.WHAT=VALUE`. In no key and no record."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, ValidationError, field_validator

from ddbench import recipes
from ddbench.config import Section
from ddbench.errors import DDBenchError, did_you_mean


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


class ResourcesConfig(Section):
    """Of the units of every stage; `evaluate` counts for `measure` too."""

    teacher: Resources = Resources()
    statistics: Resources = Resources()
    distill: Resources = Resources()
    evaluate: Resources = Resources()

    def of(self, stage: str) -> Resources:
        """What a unit of `stage` holds."""
        found: Resources = getattr(self, "evaluate" if stage == "measure" else stage)
        return found


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
        if what not in Resources.model_fields:
            raise DDBenchError(f"--set {text}: no resource '{what}'{did_you_mean(what, Resources.model_fields)}")
        try:
            settings.setdefault(stage, {})[what] = recipes.plain(value)
            Resources.model_validate(settings[stage], strict=False)
        except ValidationError as error:
            raise DDBenchError(f"resources.{stage}.{recipes.first_line(error)}") from error
        except ValueError as error:
            raise DDBenchError(f"--set {text}: '{value}' is not a plain value") from error
    return ResourcesConfig(**{stage: Resources.model_validate(values) for stage, values in settings.items()})
