"""The operations of siamese augmentation by name, for the settings of methods and protocols. Imports no torch."""

from typing import Annotated

from pydantic import AfterValidator

from ddbench.errors import DDBenchError, unknown

OPERATIONS = ("color", "crop", "cutout", "flip", "rotate", "scale")
DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
"""Every operation: the strategy of DSA and DM on natural images."""


def operations_of(strategy: str) -> list[str]:
    """The operations that a strategy joins by underscores. Raises DDBenchError for an unknown one."""
    operations = strategy.split("_")
    for name in operations:
        if name not in OPERATIONS:
            raise unknown("operation of siamese augmentation", name, OPERATIONS)
    return operations


def _checked(strategy: str | None) -> str | None:
    try:
        if strategy is not None:
            operations_of(strategy)
    except DDBenchError as error:
        raise ValueError(str(error)) from error
    return strategy


Strategy = Annotated[str | None, AfterValidator(_checked)]
"""The type of a setting that names a strategy; None: no augmentation."""
