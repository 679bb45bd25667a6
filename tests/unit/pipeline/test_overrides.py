"""What `--set` and the options of a run may say, and what they change."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddbench.api.settings import Section
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.overrides import validated

Ask = Callable[..., list[Experiment]]
One = Callable[..., Experiment]


def test_a_setting_of_one_protocol_concerns_its_cells_alone(ask: Ask) -> None:
    fkd, hard = ask(evaluators=("fkd", "hard"), assignments=("hard.epochs=4",))
    assert (fkd.changed, hard.changed) == ((), ("evaluator.epochs",))
    assert hard.evaluator.model_dump()["epochs"] == 4


def test_set_is_remembered_and_may_name_the_method_or_the_protocol(ask: Ask, one: One) -> None:
    wmdd, full = ask(methods=("wmdd", "full"), assignments=("wmdd.steps=7", "fkd.epochs=4"))
    assert wmdd.changed == ("method.steps", "evaluator.epochs")
    assert wmdd.evaluator.model_dump()["epochs"] == 4
    assert full.changed == ()
    with pytest.raises(DDBenchError, match="this run has no --evaluator hard"):
        one(methods=("wmdd",), assignments=("hard.epochs=9",))


@pytest.mark.parametrize("text", ["distill.jpeg_quality=true", "evaluator.cutmix_alpha=on", "teacher.checkpoint="])
def test_booleans_and_nothing_are_no_numbers_and_no_paths(one: One, text: str) -> None:
    with pytest.raises(DDBenchError, match=r"a number is needed|there is no value"):
        one(assignments=(text,))
    with pytest.raises(DDBenchError, match=r"evaluator.augmentation \(fkd\): .* 'default' or 'none' \(got False\)"):
        one(assignments=("evaluator.augmentation=off",))
    hard = one(evaluators=("hard",))
    assert (hard.evaluator_name, type(hard.evaluator).__name__) == ("hard", "HardLabels")


def test_another_image_size_keeps_the_ratio_of_the_stored_size(one: One) -> None:
    """64 px of 72 stored: at 32 px, 36 are stored, so that crops see the same share of a picture."""
    data = one(datasets=("imagenette",), recipes=("quick",), image_size=32).data
    assert (data.image_size, data.stored_size) == (32, 36)
    usual = one(datasets=("imagenette",), recipes=("quick",), image_size=64).data
    assert (usual.image_size, usual.stored_size) == (64, 72)
    stored = one(recipes=("quick",), image_size=32, assignments=("data.stored_size=40",)).data
    assert (stored.image_size, stored.stored_size) == (32, 40)


@given(size=st.integers(4, 800))
@settings(max_examples=30)
def test_every_image_size_fits_into_its_stored_size(one: One, size: int) -> None:
    data = one(datasets=("imagenette",), recipes=("paper",), image_size=size).data
    assert data.image_size == size
    assert abs(data.stored_size - size * 256 / 224) <= 0.5


def test_values_have_the_types_of_their_settings(one: One) -> None:
    cell = one(
        assignments=(
            "teacher.learning_rate=1e-3",
            "teacher.epochs=3",
            "teacher.decay_vectors=false",
            "method.betas=[0.1, 0.2]",
            "evaluator.cutmix_alpha=null",
            "distill.jpeg_quality=75",
            "teacher.checkpoint=weights.pt",
            " data.skip_corrupt = yes",
        ),
    )
    assert (cell.teacher.learning_rate, cell.teacher.epochs, cell.teacher.decay_vectors) == (0.001, 3, False)
    assert cell.method.betas == (0.1, 0.2)  # type: ignore[attr-defined]
    assert cell.evaluator.cutmix_alpha is None  # type: ignore[attr-defined]
    assert (cell.distill.jpeg_quality, cell.teacher.checkpoint) == (75, Path("weights.pt"))
    assert cell.data.skip_corrupt is True


class Paths(Section):
    """Settings of a plugin."""

    images: Path
    more: tuple[Path, ...] = ()


def test_the_home_directory_is_filled_in_in_every_path(
    one: One, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    teacher = one(assignments=("teacher.checkpoint=~/a.pth", "teacher.classes=~/b.txt")).teacher
    assert (teacher.checkpoint, teacher.classes) == (tmp_path / "a.pth", tmp_path / "b.txt")
    own = validated(Paths, "method", {"method": {"images": "~", "more": ["~/c", "d/~", "~nobody-of-this-name/e"]}})
    assert own == Paths(images=tmp_path, more=(tmp_path / "c", Path("d/~"), Path("~nobody-of-this-name/e")))


def test_a_method_may_be_set_by_its_name_in_a_grid(ask: Ask) -> None:
    wmdd, random = ask(methods=("wmdd", "random"), assignments=("wmdd.steps=7",))
    assert wmdd.method.steps == 7  # type: ignore[attr-defined]
    assert random.method_name == "random"
    with pytest.raises(DDBenchError, match=r"method \(random\) has no setting 'steps'"):
        ask(methods=("wmdd", "random"), assignments=("method.steps=7",))


def test_options_say_the_same_as_set(one: One) -> None:
    by_option = one(arch="convnet-d3", device="cpu", precision="bf16")
    by_set = one(assignments=("teacher.arch=convnet-d3", "runtime.device=cpu", "runtime.precision=bf16"))
    assert by_option == by_set.model_copy(update={"changed": ()})


def test_a_name_of_both_a_method_and_a_protocol_means_the_one_that_is_run(one: One) -> None:
    protocol = one(evaluators=("dsa",), assignments=("dsa.epochs=4",))
    assert protocol.evaluator.model_dump()["epochs"] == 4
    method = one(methods=("dsa",), assignments=("dsa.iterations=5",))
    assert method.method.model_dump()["iterations"] == 5
    with pytest.raises(DDBenchError, match=r"'dsa' is a method and an evaluator here: write method\. or evaluator\."):
        one(methods=("dsa",), evaluators=("dsa",), assignments=("dsa.iterations=5",))
    with pytest.raises(DDBenchError, match="this run has no --method dsa"):
        one(assignments=("dsa.iterations=5",))
