"""The conformance tests of methods."""

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
from ddbench.core.errors import DDBenchError, exception_line
from ddbench.testing import data
from ddbench.testing.conformance import Conformance, successful_run
from ddbench.testing.harness import STUDENT, Harness
from ddbench.testing.requirements import require

MARGIN = 10.0
STUDENTS = 2
GRID = ((10, 1), (10, 3), (2, 100), (100, 10), (1, 7))
"""Pairs of a number of classes and an IPC."""


class DistillerConformance(Conformance):
    """The tests that every method must pass. Inherit from this class and set `distiller`.

    Args:
        distiller: The method, with settings for a run of a second or two.
        ipc: Images per class.
        dataset: Name of the dataset.
        budget: Name of the recipe.
        depends_on_seed: False for a method whose images do not depend on the seed.
    """

    distiller: ClassVar[Distiller]

    @classmethod
    def subject(cls) -> Distiller:
        """Returns the method."""
        return cls.distiller

    def test_paper_is_named(self) -> None:
        require(
            bool(self.distiller.paper.strip()),
            "the method names its source, which lists and tables print",
            "paper is empty",
            'set paper = "Authors, Title, Venue", or "a baseline", or "an example"',
        )

    # -- units --------------------------------------------------------------------------------------------------

    def test_units_hold_every_slot_once(self) -> None:
        for classes, ipc in GRID:
            units = self.distiller.units(classes, ipc)
            counts = Counter(slot for unit in units for slot in unit.slots)
            expected = {Slot(label, index) for label in range(classes) for index in range(ipc)}
            wrong = [
                f"class {slot.label}, index {slot.index} {counts[slot]} times"
                for slot in sorted({*counts, *expected})
                if counts[slot] != (slot in expected)
            ]
            require(
                not wrong,
                "units() holds each of the IPC slots of every class exactly once",
                f"units({classes}, {ipc}) holds {'; '.join(wrong[:3])}",
                "see ddbench.api.units_of_whole_classes and units_across_classes",
            )
            numbers = [unit.index for unit in units]
            require(
                numbers == list(range(len(units))),
                "units are numbered 0, 1, 2, ..., because the number is part of the cache key",
                f"units({classes}, {ipc}) are numbered {numbers[:5]}...",
                "number them with enumerate()",
            )

    def test_units_do_not_depend_on_the_machine(self) -> None:
        def units() -> list[list[Unit]]:
            return [self.distiller.units(classes, ipc) for classes, ipc in GRID]

        before = units()
        with _another_machine():
            elsewhere = units()
        require(
            before == elsewhere == units(),
            "units() depends on its arguments and the method's settings only",
            "another machine groups the slots otherwise",
            "make the size of a unit a setting; do not derive it from memory, devices, processes or random numbers",
        )

    # -- images -------------------------------------------------------------------------------------------------

    def test_images_have_the_right_shape_range_and_class(self, harness: Harness) -> None:
        message = ""
        try:
            distilled = harness.pipeline(harness.first.root).distilled
        except DDBenchError as error:
            message = str(error)
        require(
            not message,
            "distill() returns one image per slot: float [n, 3, S, S] in [0, 1] or in another space that "
            "UnitResult.pixels names, or int64 indices of real images of the slot's class; weights are optional, one "
            "number >= 0 per slot, and so are soft labels [n, K] and a learning rate",
            message,
            "see the message; S is task.info.image_size",
        )
        counts = torch.bincount(distilled.labels, minlength=distilled.dataset.info.num_classes)
        require(
            bool(counts.eq(self.ipc).all()),
            "a distilled set has IPC images of every class",
            f"images per class: {counts.tolist()}",
            "fill the slots of the unit in its order",
        )

    def test_another_seed_gives_other_images(self, harness: Harness) -> None:
        is_equal = successful_run(harness).digests == harness.other_seed.digests
        if self.depends_on_seed:
            require(
                not is_equal,
                "another seed gives other images",
                f"{harness.name} gives the same images for seeds 0 and 1",
                "use task.generator('name', ...) or task.noise(unit); or set depends_on_seed = False in the test class",
            )
        else:
            require(
                is_equal,
                "with depends_on_seed = False, every seed gives the same images",
                f"{harness.name} gives other images for seeds 0 and 1",
                "remove depends_on_seed = False from the test class",
            )

    def test_order_of_units_does_not_matter(self, harness: Harness) -> None:
        expected = successful_run(harness).digests
        if len(expected) == 1:
            pytest.skip("the method has a single unit here")
        # The second process builds in reverse order. If its result differs, a reversed run in this process shows
        # whether the order is the cause.
        is_equal = harness.subprocess_digests == expected
        self._require_same_result(
            harness,
            expected if is_equal else harness.rerun_digests(reverse=True),
            "units give the same images in any order",
            "name each generator by its slot, task.generator('name', slot.label, slot.index), and keep no state "
            "between units",
        )

    def test_ipc_above_class_size_works_or_is_skipped(self, harness: Harness) -> None:
        few = harness.experiment.model_copy(update={"dataset": data.FEW_DIGITS})
        info = harness.pipeline(harness.shared, _with_noise(few)).dataset.info
        for ipc in (data.SMALLEST_CLASS, data.SMALLEST_CLASS + 1):
            reason, failure = self.distiller.skip(info, ipc), ""
            if reason is not None:
                require(
                    bool(reason.strip()) and "\n" not in reason,
                    "skip() returns its reason in one line",
                    repr(reason),
                    "state what is wrong and what to do",
                )
                continue
            experiment = few.model_copy(update={"ipc": ipc})
            try:
                _ = harness.pipeline(harness.new_cache(experiment), experiment).distilled
            except Exception as error:
                failure = exception_line(error)
            require(
                not failure,
                "an IPC above the size of the smallest class works, or skip() rejects it before any training",
                f"--ipc {ipc}, with {data.SMALLEST_CLASS} images in the smallest class, fails: {failure}",
                "return ddbench.api.too_few_images(dataset, ipc) from skip()",
            )

    def test_images_train_a_better_student_than_noise(self, harness: Harness) -> None:
        top1 = _mean_top1(harness, harness.experiment, successful_run(harness).root)
        noise = _mean_top1(harness, _with_noise(harness.experiment), harness.shared)
        require(
            top1 >= noise + MARGIN,
            f"the images train a student that is better than one trained on noise, by {MARGIN:g} points of top-1",
            f"{top1:.1f} % against {noise:.1f} % (IPC {harness.experiment.ipc}, {STUDENT.epochs} epochs, class labels)",
            "give the test's distiller more steps; check the order of the slots, and that pixels are not normalised",
        )


def _with_noise(experiment: Experiment) -> Experiment:
    noise = data.Noise()
    return experiment.model_copy(update={"method_name": noise.name, "method": noise})


def _mean_top1(harness: Harness, experiment: Experiment, root: Path) -> float:
    """Mean top-1, in percent, of STUDENTS students on the distilled set in the cache `root`."""
    experiments = [experiment.model_copy(update={"student_seed": seed}) for seed in range(STUDENTS)]
    return fmean(harness.pipeline(root, each).artifact("evaluate").meta["top1"] for each in experiments)


@contextmanager
def _another_machine() -> Iterator[None]:
    """Changes the reported numbers of processors, threads and devices, and the reported rank."""
    threads, processors, accelerated = torch.get_num_threads(), os.cpu_count() or 1, torch.cuda.is_available()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(os, "cpu_count", return_value=7 * processors))
        stack.enter_context(mock.patch.object(torch, "get_num_threads", return_value=7 * threads))
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", return_value=not accelerated))
        stack.enter_context(mock.patch.object(torch.cuda, "device_count", return_value=3))
        stack.enter_context(mock.patch.dict(os.environ, {"RANK": "5", "WORLD_SIZE": "7", "LOCAL_RANK": "5"}))
        yield
