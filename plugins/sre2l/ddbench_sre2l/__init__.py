"""SRe2L, CDA, SCDD, DELT, FADRM+ and CV-DD: dataset distillation by inverting networks.

The entry point of the plugin: hook implementations. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ddbench.api import Distiller, Stage, hookimpl
from ddbench_sre2l.cvdd import CVDD
from ddbench_sre2l.delt import DELT
from ddbench_sre2l.fadrm import FADRMPlus
from ddbench_sre2l.scdd import SCDD, Backbone, Head
from ddbench_sre2l.sre2l import CDA, SRe2L


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns the methods."""
    return [SRe2L, CDA, SCDD, DELT, FADRMPlus, CVDD]


@hookimpl
def ddbench_stages() -> Iterable[type[Stage]]:
    """Returns the stages of SCDD."""
    return [Backbone, Head]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of the methods."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
