"""Units hold every slot exactly once, whatever the batch size."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.api.units import Slot, Unit, units_across_classes, units_of_whole_classes

SIZES = {"num_classes": st.integers(1, 12), "ipc": st.integers(1, 6), "batch_size": st.integers(1, 30)}


@pytest.mark.parametrize("group", [units_of_whole_classes, units_across_classes])
@given(**SIZES)
def test_every_slot_is_in_one_unit(
    group: Callable[[int, int, int], list[Unit]], num_classes: int, ipc: int, batch_size: int
) -> None:
    units = group(num_classes, ipc, batch_size)
    slots = [slot for unit in units for slot in unit.slots]
    assert sorted(slots) == [Slot(label, index) for label in range(num_classes) for index in range(ipc)]
    assert [unit.index for unit in units] == list(range(len(units)))
    assert all(unit.slots for unit in units)


@given(**SIZES)
def test_classes_stay_whole(num_classes: int, ipc: int, batch_size: int) -> None:
    for unit in units_of_whole_classes(num_classes, ipc, batch_size):
        labels = {slot.label for slot in unit.slots}
        assert len(unit.slots) == len(labels) * ipc
        assert len(unit.slots) <= batch_size or len(labels) == 1


@given(**SIZES)
def test_a_unit_across_classes_has_one_image_of_each(num_classes: int, ipc: int, batch_size: int) -> None:
    for unit in units_across_classes(num_classes, ipc, batch_size):
        assert len({slot.label for slot in unit.slots}) == len(unit.slots) <= batch_size
        assert len({slot.index for slot in unit.slots}) == 1
