"""Label budgets: largest probabilities and quantised logits by their definitions, exact bytes, one student each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from ddbench.evaluators.fkd_labels import StoredLabels
from ddbench.evaluators.label_budgets import (
    LabelBudget,
    dequantise,
    index_dtype,
    largest,
    pack_pairs,
    quantise,
    unpack_pairs,
)
from ddbench.evaluators.protocols import KnowledgeDistillation
from ddbench.evaluators.rded import PatchShuffling

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

SMALL = {"epochs": 4, "batch_size": 8}
VIEW = 4 + 4 + 8 + 1
"""Bytes of a view: position and partner int32, four int16, a flip."""
BUDGETS = [
    ({"label_views": 2}, 2, 10 * 2),
    ({"label_views": 9}, 4, 10 * 2),
    ({"label_top": 3}, 4, 3 * (2 + 1)),
    ({"label_top": 10}, 4, 10 * 2),
    ({"label_bits": 8}, 4, 10 + 2 + 2),
    ({"label_bits": 4}, 4, 5 + 2 + 2),
    ({"label_views": 1, "label_top": 3, "label_bits": 4}, 1, 3 + 2 + 2 + 2),
]
"""Settings, with the stored epochs and the bytes of a label of ten classes."""


def fkd(**changes: Any) -> KnowledgeDistillation:
    return KnowledgeDistillation.model_validate({**SMALL, **changes})


half_logits = st.lists(
    st.lists(st.floats(-60000, 60000, width=16), min_size=6, max_size=6), min_size=1, max_size=4
).map(lambda rows: torch.tensor(rows).half())


@given(half_logits, st.integers(1, 5), st.sampled_from([1.0, 4.0, 20.0]))
@settings(max_examples=60, deadline=None)
def test_the_rest_of_the_mass_is_spread_evenly(logits: Tensor, top: int, temperature: float) -> None:
    budget = LabelBudget(top=top)
    decoded = budget.decode(budget.encode(logits, temperature), 6)
    exact = torch.softmax(logits.double() / temperature, 1)
    for label, probabilities in zip(torch.softmax(decoded.double() / temperature, 1), exact, strict=True):
        order = sorted(range(6), key=lambda index: (-float(probabilities[index]), index))
        expected = torch.full((6,), (1 - float(probabilities[order[:top]].sum())) / (6 - top), dtype=torch.float64)
        expected[order[:top]] = probabilities[order[:top]]
        # float16 has 11 bits: a logit z has an error of 2^-11 z, and its probability that of z / T.
        bound = float(decoded.max()) * 2**-11 / temperature
        torch.testing.assert_close(label, expected, atol=min(1.0, bound) + 1e-6, rtol=0)


def test_equal_logits_keep_the_first_classes() -> None:
    values, classes = largest(torch.zeros(2, 300).half(), 3, 20.0)
    assert classes.tolist() == [[0, 1, 2]] * 2
    assert not bool(values.any())


@given(half_logits, st.sampled_from([4, 8]))
@settings(max_examples=100, deadline=None)
def test_quantised_logits_are_within_half_a_step(logits: Tensor, bits: int) -> None:
    codes, offsets, scales = quantise(logits, bits)
    error = (dequantise(codes, offsets, scales).double() - logits.double()).abs().amax(1)
    step = (logits.double().amax(1) - logits.double().amin(1)) / (2**bits - 1)
    # The scale has 11 bits; below 2^-14 it has steps of 2^-24.
    assert bool((error <= step / 2 * (1 + 2**-10) + 2**bits * 2**-25).all())
    assert int(codes.max()) < 2**bits
    smallest = torch.gather(codes, 1, logits.argmin(1, keepdim=True))
    assert not bool(smallest.any())


@given(st.lists(st.integers(0, 15), min_size=1, max_size=9))
def test_two_codes_fit_in_a_byte(row: list[int]) -> None:
    codes = torch.tensor([row, row[::-1]], dtype=torch.uint8)
    packed = pack_pairs(codes)
    assert packed.nbytes == 2 * -(-len(row) // 2)
    assert torch.equal(unpack_pairs(packed, len(row)), codes)


@pytest.mark.parametrize("num_classes", [256, 257, 2**15, 2**15 + 1])
def test_the_last_class_fits_in_its_index(num_classes: int) -> None:
    assert int(torch.tensor(num_classes - 1).to(index_dtype(num_classes))) == num_classes - 1


@pytest.mark.parametrize(("changes", "epochs", "label"), BUDGETS)
def test_the_bytes_are_those_of_the_packed_file(
    changes: dict[str, Any], epochs: int, label: int, make_task: Callable[..., WatchedTask], tmp_path: Path
) -> None:
    """The tensors of a safetensors file follow its header, whose size is in the first eight bytes."""
    task = make_task()
    online = fkd(**changes).label_source(task)
    stored = fkd(labels="stored", **changes).label_source(task)
    assert isinstance(stored, StoredLabels)
    save_file({name: tensor.contiguous() for name, tensor in stored.stored.items()}, tmp_path / "labels.safetensors")
    content = (tmp_path / "labels.safetensors").read_bytes()
    assert stored.label_bytes == len(content) - 8 - int.from_bytes(content[:8], "little")
    assert stored.label_bytes == online.label_bytes == epochs * (20 * (VIEW + label) + 3 * 8)


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [
        (KnowledgeDistillation, {"label_views": 2, "label_top": 3, "label_bits": 4}),
        (PatchShuffling, {"label_views": 3, "label_bits": 8}),
    ],
)
def test_stored_and_online_labels_train_one_student(
    protocol: type[KnowledgeDistillation], changes: dict[str, Any], make_task: Callable[..., WatchedTask]
) -> None:
    online, stored, plain = make_task(), make_task(), make_task()
    protocol_settings = {**SMALL, **changes}
    first = protocol.model_validate(protocol_settings).evaluate(online)
    assert protocol.model_validate({**protocol_settings, "labels": "stored"}).evaluate(stored) == first
    protocol.model_validate(SMALL).evaluate(plain)
    pairs = zip(*(task.students[0].state_dict().values() for task in (online, stored, plain)), strict=True)
    differs = False
    for one, other, without in pairs:
        assert torch.equal(one, other)
        differs |= not torch.equal(one, without)
    assert differs


def test_views_are_reused_in_turn(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    fkd(label_views=3).evaluate(task)
    epochs = [task.shown[3 * epoch : 3 * epoch + 3] for epoch in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(epochs[0], epochs[3], strict=True))
    assert not torch.equal(epochs[0][0], epochs[1][0])
    whole = make_task()
    fkd().evaluate(whole)
    assert all(torch.equal(a, b) for a, b in zip(task.shown[:9], whole.shown[:9], strict=True))


def test_as_many_views_as_epochs_are_no_budget(make_task: Callable[..., WatchedTask]) -> None:
    assert fkd(label_views=4).evaluate(make_task()) == fkd().evaluate(make_task())


def test_quantised_labels_are_close_to_the_teachers(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    exact, coarse = (fkd(label_bits=bits).label_source(task) for bits in (16, 4))
    batch = next(iter(exact.batches(exact.views(0))))
    logits, rounded = exact.logits(0, batch).float(), coarse.logits(0, batch)
    step = (logits.amax(1) - logits.amin(1)) / 15
    assert bool(((logits - rounded).abs().amax(1) <= 0.51 * step).all())
    assert not torch.equal(logits, rounded)


def test_budgets_are_left_out_of_keys_by_default() -> None:
    assert not {"label_views", "label_top", "label_bits"} & KnowledgeDistillation().model_dump().keys()
    dumped = fkd(label_views=2, label_top=3, label_bits=4).model_dump()
    assert {name: dumped[name] for name in ("label_views", "label_top", "label_bits")} == {
        "label_views": 2,
        "label_top": 3,
        "label_bits": 4,
    }


@pytest.mark.parametrize("wrong", [{"label_views": 0}, {"label_top": 0}, {"label_bits": 5}])
def test_wrong_budgets_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        fkd(**wrong)


def test_without_a_budget_labels_are_the_logits() -> None:
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(0)).half()
    budget = LabelBudget()
    encoded = budget.encode(logits, 20.0)
    assert encoded.keys() == {"logits"}
    assert torch.equal(budget.decode(encoded, 10), logits)
