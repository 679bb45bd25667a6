"""Settings that methods and protocols share."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ddbench.api.settings import (
    DSA_STRATEGY,
    OPERATIONS,
    CommitteeSettings,
    RecoverSettings,
    Strategy,
    TrainingSettings,
    operations_of,
)
from ddbench.core.errors import DDBenchError


class Augmented(BaseModel):
    strategy: Strategy = DSA_STRATEGY


@given(st.lists(st.sampled_from(OPERATIONS), min_size=1))
def test_a_strategy_is_split_into_its_operations(operations: list[str]) -> None:
    strategy = "_".join(operations)
    assert operations_of(strategy) == operations
    assert Augmented(strategy=strategy).strategy == strategy


def test_unknown_operations_are_refused_with_a_suggestion() -> None:
    with pytest.raises(DDBenchError, match="did you mean 'flip'"):
        operations_of("crop_flop")
    with pytest.raises(ValidationError, match="did you mean 'flip'"):
        Augmented(strategy="flop")
    assert Augmented(strategy=None).strategy is None
    assert sorted(operations_of(DSA_STRATEGY)) == sorted(OPERATIONS)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (-0.1, 0.9), (0.5, 1.0)])
def test_betas_lie_below_one(betas: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="both must be at least 0 and below 1"):
        RecoverSettings(betas=betas)


def test_recover_defaults() -> None:
    settings = RecoverSettings(steps=7, crop_scale_min=0.3)
    assert settings.recover_steps() == 7
    assert {settings.crop_scale(step) for step in range(7)} == {(0.3, 1.0)}


def test_training_settings_refuse_infinity() -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(learning_rate=float("inf"))


def test_a_committee_has_a_prior_for_each_teacher_or_none() -> None:
    assert CommitteeSettings(teachers=("a", "b")).vote_weights(0, 1) == (0.5, 0.5)
    assert CommitteeSettings(teachers=(), priors=(60,)).vote_weights(0) == (1.0,)
    for teachers, count in (((), 1), (("a", "b"), 2)):
        with pytest.raises(ValidationError, match=rf"3 numbers for {count} teachers: .* \[\] for equal weights"):
            CommitteeSettings(teachers=teachers, priors=(60, 50, 40))


@given(st.integers(1, 100), st.integers(4, 256), st.integers(0, 200))
def test_images_grow_to_their_size_by_the_last_quarter(epochs: int, start: int, growth: int) -> None:
    sizes = TrainingSettings(epochs=epochs, start_size=start).sizes(start + growth)
    assert len(sizes) == epochs
    assert sizes == sorted(sizes)
    assert sizes[0] == start
    assert set(sizes[math.ceil(0.75 * epochs) :]) <= {start + growth}
    assert all((size - start) % 16 == 0 or size == start + growth for size in sizes)


@given(st.integers(1, 100), st.integers(4, 256))
def test_without_a_start_size_every_epoch_has_full_images(epochs: int, image_size: int) -> None:
    settings = TrainingSettings(epochs=epochs)
    assert settings.sizes(image_size) == [image_size] * epochs
    assert settings.full_size_epochs(image_size) == epochs
    assert settings.model_dump().keys() == {
        "optimizer", "learning_rate", "momentum", "weight_decay", "decay_vectors", "batch_size", "epochs"
    }  # fmt: skip  # keys of trainings without the other settings stay the same
