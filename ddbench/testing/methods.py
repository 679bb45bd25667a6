"""The promises of a method."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import ClassVar
from unittest import mock

import pytest
import torch

from ddbench.api.distiller import Distiller
from ddbench.api.units import Slot, Unit
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.testing import data
from ddbench.testing.bench import STUDENT, Bench
from ddbench.testing.promises import Conformance, demand, first

MARGIN = 10.0
STUDENTS = 2
SIZES = ((10, 1), (10, 3), (2, 100), (100, 10), (1, 7))


class DistillerConformance(Conformance):
    """What a method promises, as tests. Inherit, and set `distiller`, with settings for a run of a second or two.

    Also `ipc`, `dataset` and `budget`, and `draws = False` for a method whose images do not depend on the seed.
    """

    distiller: ClassVar[Distiller]

    @classmethod
    def subject(cls) -> Distiller:
        """The method."""
        return cls.distiller

    def test_it_names_its_source(self) -> None:
        demand(
            bool(self.distiller.paper.strip()),
            "a source stands beside the method's name in lists and tables",
            "paper is empty",
            'set paper = "Authors, Title, Venue", or say that it is a baseline or an example',
        )

    # -- units ------------------------------------------------------------------------------------------------

    def test_units_hold_every_slot_once(self) -> None:
        for classes, ipc in SIZES:
            units = self.distiller.units(classes, ipc)
            held = Counter(slot for unit in units for slot in unit.slots)
            wanted = {Slot(label, index) for label in range(classes) for index in range(ipc)}
            wrong = [
                f"class {slot.label}, index {slot.index} {held[slot]} times"
                for slot in sorted({*held, *wanted})
                if held[slot] != (slot in wanted)
            ]
            demand(
                not wrong,
                "units() holds each of IPC slots of every class exactly once",
                f"units({classes}, {ipc}) hold {'; '.join(wrong[:3])}",
                "see ddbench.api.units.units_of_whole_classes and units_across_classes",
            )
            numbers = [unit.index for unit in units]
            demand(
                numbers == list(range(len(units))),
                "units are numbered 0, 1, 2, ...: the number is part of the key",
                f"units({classes}, {ipc}) are numbered {numbers[:5]}...",
                "number them by enumerate()",
            )

    def test_units_do_not_depend_on_the_machine(self) -> None:
        def asked() -> list[list[Unit]]:
            return [self.distiller.units(classes, ipc) for classes, ipc in SIZES]

        here = asked()
        with _another_machine():
            there = asked()
        demand(
            here == there == asked(),
            "units() depends on its arguments and the method's settings alone",
            "another machine groups the slots otherwise",
            "make the size of a unit a setting; memory, devices, processes and chance must not decide it",
        )

    # -- images -----------------------------------------------------------------------------------------------

    def test_images_have_the_right_shape_range_and_class(self, bench: Bench) -> None:
        refused = ""
        try:
            made = bench.pipeline(bench.first.root).distilled
        except DDBenchError as error:
            refused = str(error)
        demand(
            not refused,
            "one image a slot: float [n, 3, S, S] in [0, 1], or int64 indices of real images of the slot's class; "
            "weights, if any, are one number >= 0 a slot",
            refused,
            "see the message; task.info.image_size is S",
        )
        counts = torch.bincount(made.labels, minlength=made.dataset.info.num_classes)
        demand(
            bool(counts.eq(self.ipc).all()),
            "a set has IPC images of every class",
            f"images a class: {counts.tolist()}",
            "fill the slots of the unit, in its order",
        )

    def test_another_seed_gives_other_images(self, bench: Bench) -> None:
        here = first(bench).made
        there = bench.other.made
        if self.draws:
            demand(
                here != there,
                "another seed gives other images",
                f"{bench.name} makes the same for seeds 0 and 1",
                "draw from task.generator('name', ...) or task.noise(unit); or set draws = False in the test class",
            )
        else:
            demand(
                here == there,
                "with draws = False, the seed changes nothing",
                f"{bench.name} makes other images for seeds 0 and 1",
                "remove draws = False from the test class",
            )

    def test_the_order_of_units_does_not_matter(self, bench: Bench) -> None:
        if len(first(bench).made) == 1:
            pytest.skip("it makes all images in one unit here")
        # Another process took the reverse order; where that differs, the order alone is tried in this one.
        made = bench.elsewhere if bench.elsewhere == first(bench).made else bench.again(backwards=True)
        self._same(
            bench,
            made,
            "units come out the same in any order",
            "name what a draw is for, task.generator('name', slot.label, slot.index), and keep nothing between units",
        )

    def test_more_images_than_a_class_has_are_refused_or_made(self, bench: Bench) -> None:
        few = bench.experiment.model_copy(update={"dataset": data.FEW})
        info = bench.pipeline(bench.folder / "shared", _of_noise(few)).dataset.info
        for ipc in (data.SMALLEST, data.SMALLEST + 1):
            reason, fault = self.distiller.skip(info, ipc), ""
            if reason is not None:
                demand(
                    bool(reason.strip()) and "\n" not in reason,
                    "skip() gives its reason in one line",
                    repr(reason),
                    "say what is wrong and what would do",
                )
                continue
            cell = few.model_copy(update={"ipc": ipc})
            try:
                _ = bench.pipeline(bench.empty(cell), cell).distilled
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
            demand(
                not fault,
                "an IPC above the size of the smallest class works, or is refused by skip(), before all training",
                f"--ipc {ipc}, with {data.SMALLEST} images in the smallest class, ends in {fault}",
                "return ddbench.api.distiller.too_few_images(dataset, ipc) from skip()",
            )

    def test_a_student_learns_more_from_it_than_from_noise(self, bench: Bench) -> None:
        made = _top1(bench, bench.experiment, first(bench).root)
        noise = _top1(bench, _of_noise(bench.experiment), bench.folder / "shared")
        demand(
            made >= noise + MARGIN,
            f"a student learns more from the images than from noise, by {MARGIN:g} points of top-1",
            f"{made:.1f} % against {noise:.1f} % (ipc {bench.experiment.ipc}, {STUDENT.epochs} epochs, class labels)",
            "give the test's distiller more steps; are the slots filled in order, and the pixels not normalised?",
        )


def _of_noise(experiment: Experiment) -> Experiment:
    noise = data.Noise()
    return experiment.model_copy(update={"method_name": noise.name, "method": noise})


def _top1(bench: Bench, experiment: Experiment, root: Path) -> float:
    """Mean top-1, in percent, of STUDENTS students on the set in `root`."""
    cells = [experiment.model_copy(update={"student_seed": seed}) for seed in range(STUDENTS)]
    return fmean(bench.pipeline(root, cell).artifact("evaluate").meta["top1"] for cell in cells)


@contextmanager
def _another_machine() -> Iterator[None]:
    """Other counts of processors, threads and devices, other ranks."""
    threads, processors, accelerated = torch.get_num_threads(), os.cpu_count() or 1, torch.cuda.is_available()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(os, "cpu_count", return_value=7 * processors))
        stack.enter_context(mock.patch.object(torch, "get_num_threads", return_value=7 * threads))
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", return_value=not accelerated))
        stack.enter_context(mock.patch.object(torch.cuda, "device_count", return_value=3))
        stack.enter_context(mock.patch.dict(os.environ, {"RANK": "5", "WORLD_SIZE": "7", "LOCAL_RANK": "5"}))
        yield
