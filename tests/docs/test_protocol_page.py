"""The table of settings, bytes and costs of the protocols is that of the recipes and the code."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddbench.augment.views import batch_slices, epoch_views
from ddbench.evaluators.base import DistilledSetProtocol
from ddbench.evaluators.length import EpochsOrSteps
from ddbench.evaluators.packed_views import num_bytes, pack_views
from ddbench.nn.build import build_network
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
IMAGES, CLASSES, SIZE = 100, 10, 224
EVERY_VIEW, ONE_LABEL, OWN_LABELS = ("fkd", "rded", "cv-dd", "edc", "gvbsm"), ("soft",), ("datm-dsa", "own")
"""Protocols by the labels that they store; the others store classes."""
ROWS = {
    cells[0]: cells[1:]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \[`", line)
    and len(cells := re.split(r" \| ", re.sub(r"\[`(.*?)`\]\(.*?\)", r"\1", line[2:-2]))) == 8
}


def test_every_protocol_on_a_distilled_set_is_in_the_table() -> None:
    trained = {e.name for e in PluginRegistry().evaluators() if issubclass(e, EpochsOrSteps) and not e.for_one_set}
    assert trained == ROWS.keys()


@cache
def operations(network: str, stem: str) -> int:
    """The floating-point operations of a forward pass of one image."""
    with torch.device("meta"):
        images = torch.empty(1, 3, SIZE, SIZE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build_network(network, CLASSES, SIZE, stem, 0).to("meta").eval()(images)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_that_of_the_recipe_and_the_code(name: str) -> None:
    _, student, length, _, teacher, label_bytes, cost = ROWS[name]
    request = Request(("random",), ("imagenette",), (10,), ("paper",), evaluators=(name,), image_size=SIZE)
    (cell,) = experiments(request, PluginRegistry())
    settings = cell.evaluator
    assert isinstance(settings, EpochsOrSteps)
    steps = len(batch_slices(IMAGES, settings.batch_size)) * (settings.epochs or 0)
    assert (student, length) == (cell.student, f"{settings.epochs}, {settings.batch_size}, {steps}")
    passes = settings.image_passes(IMAGES)
    teachers = getattr(settings, "teachers", ()) or ("resnet18",)
    of_teacher = passes if name in EVERY_VIEW else IMAGES if name in ONE_LABEL else 0
    assert teacher == f"{of_teacher * len(teachers):,}"

    classes = 8 * IMAGES
    stored = 4 * IMAGES * CLASSES if name in OWN_LABELS else 2 * IMAGES * CLASSES if name in ONE_LABEL else classes
    if name in EVERY_VIEW:
        assert isinstance(settings, DistilledSetProtocol)
        sizes, batch = torch.tensor([SIZE, SIZE]), settings.batch_size
        views = epoch_views(
            IMAGES, sizes, 0, 0, batch, cutmix_alpha=1.0, image_size=SIZE, factor=settings.shuffle_factor
        )
        stored = (settings.epochs or 0) * (num_bytes(pack_views(views)) + 2 * IMAGES * CLASSES)
        stored += classes if name in ("edc", "gvbsm") else 0
    assert label_bytes == f"{stored:,}"

    of_fkd = 30_000 * 4 * operations("resnet18", "imagenet")
    actual = 3 * passes * operations(cell.student, cell.student_stem)
    actual += of_teacher * sum(operations(teacher, "imagenet") for teacher in teachers)
    assert float(cost) == pytest.approx(actual / of_fkd, abs=0.05)
