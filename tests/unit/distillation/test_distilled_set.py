"""What is stored of a distilled set: rounding, JPEG, weights, digest, the first images of each class."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddbench.augment.parts import enlarge_parts
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.distilled_set import DistilledSet, assemble, class_weights, exact_weights, to_uint8


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8, 10)


def test_every_stored_value_survives_the_way_to_pixels_and_back() -> None:
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_uint8(stored.float() / 255, None), stored)
    between = torch.tensor([0.0, 0.49, 0.51, 1.49, 254.51, 255.0]) / 255
    assert to_uint8(between.reshape(1, 1, 1, 6), None).flatten().tolist() == [0, 0, 1, 1, 255, 255]


def test_jpeg_is_pillows_at_that_quality_after_cutting_off() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    actual = to_uint8(images, 75)
    for image, seen in zip(images, actual, strict=True):
        pixels = np.asarray((image * 255).floor().permute(1, 2, 0), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")  # Pillow's own default is 75
        expected = np.asarray(Image.open(buffer))
        assert np.array_equal(seen.permute(1, 2, 0).numpy(), expected)
    assert not torch.equal(actual, to_uint8(images, None))


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.01, 1e4)), min_size=1, max_size=30))
def test_weights_of_each_class_sum_to_one_and_keep_their_ratios(slots: list[tuple[int, float]]) -> None:
    labels = torch.tensor([label for label, _ in slots])
    raw = torch.tensor([weight for _, weight in slots], dtype=torch.float64)
    actual = class_weights(labels, raw)
    for label in labels.unique():
        of_class = labels == label
        torch.testing.assert_close(actual[of_class].double(), raw[of_class] / raw[of_class].sum(), rtol=1e-6, atol=0)
    uniform = class_weights(labels, None)
    for label in labels.unique():
        of_class = labels == label
        torch.testing.assert_close(uniform[of_class], torch.full((int(of_class.sum()),), 1 / int(of_class.sum())))


def test_a_part_of_a_set_has_its_images_and_weights_of_one_a_class(digits: Dataset) -> None:
    labels, weights = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0.5, 0.3, 0.2, 0.9, 0.1])
    rows = torch.tensor([0, 2, 4])
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    indices = torch.cat([digits.train.of_class(0)[:3], digits.train.of_class(1)[:2]])
    for distilled in (
        DistilledSet(digits, labels, weights, ("unit",), stored=pixels),
        DistilledSet(digits, labels, weights, ("unit",), indices=indices),
    ):
        part = distilled.part(rows)
        assert torch.equal(part.images, distilled.images[rows])
        assert part.labels.tolist() == [0, 0, 1]
        torch.testing.assert_close(part.weights, torch.tensor([5 / 7, 2 / 7, 1.0]))
        assert len(distilled.images) == 5


def test_a_class_without_weight_is_refused() -> None:
    with pytest.raises(DDBenchError, match="weights of a class sum to zero"):
        class_weights(torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 0.0]))


def test_units_are_put_together_in_order(digits: Dataset) -> None:
    units = [
        {
            "images": torch.full((2, 3, 8, 8), value, dtype=torch.uint8),
            "labels": torch.tensor([value, value]),
            "weights": torch.tensor([1.0, 3.0]),
        }
        for value in (0, 1)
    ]
    actual = assemble(digits, units, ("a", "b"), "mine")
    assert actual.labels.tolist() == [0, 0, 1, 1]
    assert actual.weights.tolist() == [0.25, 0.75, 0.25, 0.75]
    assert actual.images[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert actual.keys == ("a", "b")
    assert (len(actual), actual.image_bytes) == (4, 4 * 3 * 8 * 8)


def test_the_digest_moves_with_images_labels_and_weights(digits: Dataset) -> None:
    images = torch.arange(4 * 3 * 64, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(4, 3, 8, 8)
    labels, weights = torch.tensor([0, 0, 1, 1]), torch.full((4,), 0.5)

    def digest(images: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, key: str = "k") -> str:
        return DistilledSet(digits, labels, weights, (key,), stored=images).digest

    first = digest(images, labels, weights)
    assert first == digest(images.clone(), labels, weights, "another key")
    changed = images.clone()
    changed[3, 2, 7, 7] += 1
    assert len({first, digest(changed, labels, weights), digest(images, labels.flip(0), weights)}) == 3
    assert digest(images, labels, torch.tensor([0.5, 0.5, 0.4, 0.6])) != first
    indices = DistilledSet(digits, labels, weights, ("k",), indices=torch.tensor([0, 1, 2, 3]))
    assert indices.digest != first


def test_a_float_set_with_soft_labels_and_a_rate(digits: Dataset) -> None:
    values = torch.tensor([-0.5, 0.2, 1.0, 1.5]).view(4, 1, 1, 1)
    unit = {
        "images": values.expand(4, 3, 8, 8).contiguous(),
        "labels": torch.tensor([0, 0, 1, 1]),
        "logits": torch.log_softmax(torch.randn(4, 10, generator=torch.Generator().manual_seed(0)), 1) + 3,
        "learning_rate": torch.tensor([0.02], dtype=torch.float64),
    }
    whole = assemble(digits, [unit], ("k",), "mine")
    assert torch.equal(whole.pixels, unit["images"])
    assert whole.images[:, 0, 0, 0].tolist() == [0, 51, 255, 255]
    assert (whole.image_bytes, whole.learning_rate) == (4 * 4 * 3 * 8 * 8, 0.02)
    assert whole.form == {"pixels": "float32", "soft_labels": "logits", "learning_rate": 0.02}
    assert whole.soft_labels is not None
    torch.testing.assert_close(whole.soft_labels, torch.exp(unit["logits"] - 3))
    whole.images.fill_(7)  # as a faulty protocol might
    whole.discard_images()
    assert whole.images[:, 0, 0, 0].tolist() == [0, 51, 255, 255]
    part = whole.part(torch.tensor([1, 2]))
    assert part.soft_labels is not None
    assert torch.equal(part.soft_labels, whole.soft_labels[1:3])
    assert (part.learning_rate, part.pixels[:, 0, 0, 0].tolist()) == (0.02, values[1:3].flatten().tolist())
    plain = DistilledSet(digits, whole.labels, whole.weights, ("k",), stored=whole.images)
    assert plain.form == {}
    others = [
        assemble(digits, [{**unit, **change}], ("k",), "mine").digest
        for change in (
            {"images": unit["images"] + 1e-6},
            {"logits": unit["logits"].flip(0)},
            {"learning_rate": torch.tensor([0.03], dtype=torch.float64)},
        )
    ]
    assert len({whole.digest, plain.digest, *others}) == 5
    with pytest.raises(DDBenchError, match="different learning rates"):
        assemble(digits, [unit, {**unit, "learning_rate": unit["learning_rate"] * 2}], ("k", "l"), "mine")


@pytest.mark.parametrize("floats", [False, True])
def test_students_get_the_parts_of_a_set_with_a_decoder(digits: Dataset, floats: bool) -> None:
    """And bytes, digest, form and the picture are those of the stored images."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=draws)
    unit = {
        "images": images / 200 - 0.1 if floats else images,
        "labels": torch.tensor([0, 0, 1]),
        "weights": torch.tensor([3.0, 1.0, 2.0]),
        "probabilities": torch.softmax(torch.randn(3, 10, generator=draws), 1),
        "learning_rate": torch.tensor([0.02], dtype=torch.float64),
        "decode_factor": torch.tensor([2]),
    }
    stored = assemble(digits, [unit], ("k",), "mine")
    decoded = stored.decoded
    parts = enlarge_parts(unit["images"].double(), 2)
    assert decoded.pixels.dtype == unit["images"].dtype
    assert float((decoded.pixels.double() - parts).abs().max()) <= (1e-6 if floats else 0.5)
    assert decoded.labels.tolist() == [0] * 8 + [1] * 4
    assert decoded.weights.tolist() == [3 / 16] * 4 + [1 / 16] * 4 + [1 / 4] * 4
    assert decoded.soft_labels is not None
    assert torch.equal(decoded.soft_labels, unit["probabilities"].repeat_interleave(4, 0))
    assert (len(stored), len(decoded), decoded.learning_rate) == (3, 12, 0.02)
    assert decoded.decoded is decoded
    assert decoded.image_bytes == stored.image_bytes == 3 * 3 * 8 * 8 * (4 if floats else 1)
    assert decoded.part(torch.arange(8)).image_bytes * 3 == stored.image_bytes * 2
    assert stored.form.pop("decode_factor") == 2
    assert torch.equal(stored.head(1)[0], stored.images[[0, 2]])
    plain = assemble(digits, [{name: unit[name] for name in unit if name != "decode_factor"}], ("k",), "mine")
    assert plain.decoded is plain
    assert plain.digest != stored.digest


def test_a_factor_that_divides_nothing_is_refused(digits: Dataset) -> None:
    unit = {"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "labels": torch.tensor([0])}
    real = {"indices": digits.train.of_class(0)[:1], "labels": torch.tensor([0])}
    for body, factor, message in (
        (unit, torch.tensor([3]), "decode_factor 3, which does not divide images of 8 px"),
        (real, torch.tensor([2]), "decode_factor 2, which does not divide indices of real images"),
        (unit, torch.tensor([2.0]), "decode_factor that is not one whole number above 1"),
        (unit, torch.tensor([1]), "decode_factor that is not one whole number above 1"),
        (unit, torch.tensor([2, 2]), "decode_factor that is not one whole number above 1"),
    ):
        with pytest.raises(DDBenchError, match=f"method 'mine': a stored unit has (the|a) {message}"):
            assemble(digits, [{**body, "decode_factor": factor}], ("k",), "mine")
    units = [{**unit, "decode_factor": torch.tensor([factor])} for factor in (2, 4)]
    with pytest.raises(DDBenchError, match="different decode factors"):
        assemble(digits, units, ("k", "l"), "mine")


def test_a_set_of_real_images_is_their_evaluation_view(digits: Dataset) -> None:
    indices = torch.cat([digits.train.of_class(label)[:3] for label in range(10)])
    actual = DistilledSet(digits, digits.train.labels[indices], torch.full((30,), 1 / 3), ("k",), indices=indices)
    assert torch.equal(digits.normalise(actual.images), digits.evaluation_view("train", indices))
    pictures, labels = actual.head(2)
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert torch.equal(pictures, actual.images[torch.arange(30) % 3 < 2])


def test_the_head_of_a_set_in_any_order(digits: Dataset) -> None:
    labels = torch.tensor([1, 0, 1, 1, 0])
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 3, 8, 8)
    pictures, shown = DistilledSet(digits, labels, torch.ones(5), ("k",), stored=images).head(2)
    assert shown.tolist() == [1, 0, 1, 0]
    assert pictures[:, 0, 0, 0].tolist() == [0, 1, 2, 4]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.integers(1, 5))
def test_weights_of_a_set_that_was_exported_stay_as_they_are(values: list[float], classes: int) -> None:
    labels = torch.arange(len(values) + classes) % classes
    weights = class_weights(labels, torch.tensor([*values, *[0.5] * classes]))
    exact = exact_weights(labels, weights)
    assert torch.equal(class_weights(labels, exact), weights)
    assert bool((exact >= 0).all())
