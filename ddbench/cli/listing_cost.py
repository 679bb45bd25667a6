"""The section of `ddbench list methods NAME` about the cost of a method under each recipe. Imports no torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ddbench.api.dataset import DatasetInfo, DatasetSpec
from ddbench.core.errors import DDBenchError
from ddbench.core.text_layout import format_table, join_sections
from ddbench.pipeline.request import Request, experiments

if TYPE_CHECKING:
    from ddbench.api.distiller import Distiller
    from ddbench.registry.registry import PluginRegistry

DATASET = "imagenette"
"""The dataset whose number of classes and images the costs are for."""
IPCS = (1, 10, 50)


def cost_section(cls: type[Distiller], registry: PluginRegistry, width: int) -> str:
    """Formats the image passes of a method as a table: a row for each budget and stage, a column for each IPC.

    Args:
        cls: The method.
        registry: The installed recipes, datasets and stages.
        width: Characters per line.

    Returns:
        The table. Empty if no recipe has sizes for the method, or if it declares no passes.
    """
    spec = next((spec for spec in registry.datasets() if spec.name == DATASET), None)
    if spec is None or not cls.needs_ipc:
        return ""
    rows = []
    for recipe in sorted({recipe.name for recipe in registry.recipes() if recipe.kind == "budget"}):
        counts = [_passes(cls.name, recipe, ipc, spec, registry) for ipc in IPCS]
        for stage in counts[0]:
            values = [passes.get(stage, 0) for passes in counts]
            if any(values):
                rows.append((recipe, stage, *(f"{value:,.0f}" for value in values)))
    if not rows:
        return ""
    table = format_table(("recipe", "stage", *(f"IPC {ipc}" for ipc in IPCS)), rows, width)
    return join_sections(f"Image passes on {DATASET} without the teacher, by recipe:", table)


def _passes(method: str, recipe: str, ipc: int, spec: DatasetSpec, registry: PluginRegistry) -> dict[str, float]:
    """Returns the image passes of each stage of a method; none if the recipe does not apply to it."""
    request = Request((method,), (spec.name,), (ipc,), (recipe,))
    try:
        settings = experiments(request, registry)[0].method
    except DDBenchError:
        return {}
    info = _info(spec)
    run: Any = SimpleNamespace(method=settings, info=info)
    passes = {}
    with registry.attribute_errors("method", method):
        for name in settings.stages():
            stage = registry.stage(name)()
            passes[name] = sum(stage.image_passes(run, part) for part in range(stage.count(run)))
        passes["distill"] = float(settings.image_passes(info.num_classes, ipc))
    return passes


def _info(spec: DatasetSpec) -> DatasetInfo:
    """Returns the facts about a dataset that its specification has, with classes of equal size."""
    classes, images = spec.classes or 0, spec.train_size or 0
    names = tuple(map(str, range(classes)))
    counts = tuple(images // classes + (label < images % classes) for label in range(classes))
    return DatasetInfo(spec.name, names, names, counts, counts, spec.native_size, "")
