"""The recipes of a run: which are applied, which one wins, which are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.composition import compose, load_recipes, recipe_names
from ddbench.registry.registry import PluginRegistry

Ask = Callable[..., list[Experiment]]
One = Callable[..., Experiment]


def test_one_budget_at_a_time(one: One) -> None:
    with pytest.raises(DDBenchError, match="one budget at a time, not quick and smoke"):
        one(recipes=("smoke", "quick"))


def test_an_own_recipe_cannot_pass_for_an_installed_one(one: One, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("{name: paper, kind: budget, about: x, blocks: []}")
    with pytest.raises(DDBenchError, match="like an installed one: rename it"):
        one(recipes=("smoke", str(own)))


def write(path: Path, name: str, body: str, kind: str = "numerics") -> str:
    path.write_text(f"name: {name}\nkind: {kind}\nabout: a test\nblocks:\n{body}")
    return str(path)


def test_later_recipes_win_over_earlier_ones_and_set_over_all(one: One, tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "first", "- {source: x, settings: {teacher: {epochs: 7, momentum: 0.5}}}\n")
    second = write(tmp_path / "second.yaml", "second", "- {source: x, settings: {teacher: {epochs: 8}}}\n")
    both = one(recipes=("smoke", first, second))
    assert (both.teacher.epochs, both.teacher.momentum, both.teacher.batch_size) == (8, 0.5, 32)
    assert both.recipes == ("smoke", "first", "second")
    assert one(recipes=("smoke", second, first)).teacher.epochs == 7
    assert one(recipes=(first, "smoke")).teacher.epochs == 1
    assert one(recipes=("smoke", first), assignments=("teacher.epochs=9",)).teacher.epochs == 9
    last = one(assignments=("teacher.epochs=9", "teacher.epochs=10"))
    assert last.teacher.epochs == 10


def test_a_block_for_an_ipc_applies_to_its_cells_only(ask: Ask, tmp_path: Path) -> None:
    own = write(
        tmp_path / "own.yaml",
        "own",
        "- {source: x, settings: {teacher: {epochs: 7}}}\n"
        "- {source: x, applies: {ipc: [1, '3']}, settings: {teacher: {epochs: 8}}}\n",
    )
    cells = ask(ipcs=(1, 2, 3, 10), recipes=("smoke", own))
    assert [cell.teacher.epochs for cell in cells] == [8, 7, 8, 7]
    (full,) = ask(methods=("full",), ipcs=(), recipes=("smoke", own))
    assert full.teacher.epochs == 7


def test_numerics_compose_with_any_budget(one: One) -> None:
    plain, released = (one(recipes=names) for names in (("smoke",), ("smoke", "released")))
    assert (plain.method.solver, released.method.solver) == ("paper", "released")  # type: ignore[attr-defined]
    assert released.method.steps == plain.method.steps == 20  # type: ignore[attr-defined]
    assert (released.statistics.variance, released.distill.jpeg_quality) == ("batch-mean", 75)
    assert released.teacher == plain.teacher


def test_a_recipe_of_another_method_changes_nothing(one: One) -> None:
    plain, released = (one(methods=("random",), recipes=names) for names in (("smoke",), ("smoke", "lloyd")))
    assert released.model_copy(update={"recipes": plain.recipes}) == plain


@pytest.mark.parametrize(
    ("dataset", "chosen", "applied"),
    [
        ("imagenette", (), ("paper",)),
        ("tiny-imagenet", (), ("paper",)),
        ("imagenet-1k", (), ("paper",)),
        ("digits", (), ("quick",)),
        ("cifar10", (), ("quick",)),
        ("imagefolder:/anywhere", (), ("quick",)),
        ("imagenette", ("released",), ("paper", "released")),
        ("digits", ("released",), ("quick", "released")),
        ("imagenette", ("quick", "released"), ("quick", "released")),
        ("imagenette", ("released", "smoke"), ("released", "smoke")),
    ],
)
def test_the_budget_is_the_papers_where_there_is_one(
    one: One, dataset: str, chosen: tuple[str, ...], applied: tuple[str, ...]
) -> None:
    assert one(datasets=(dataset,), recipes=chosen).recipes == applied


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("- {source: x, settings: {teachr: {epochs: 3}}}", "settings.teachr"),
        ("- {source: x, settings: {teacher: {epoch: 3}}}", "no setting 'epoch'; did you mean 'epochs'"),
        ("- {source: x, settings: {teacher: {epochs: soon}}}", "teacher.epochs"),
        ("- {source: x, settings: {data: {image_size: big}}}", "data.image_size"),
        ("- {settings: {teacher: {epochs: 3}}}", "source"),
        ("- {source: '', settings: {}}", "source"),
        ("- {source: x, applies: {datasets: [digits]}, settings: {}}", "applies.datasets"),
        ("- {source: x, applies: {ipc: [ten]}, settings: {}}", "ipc 'ten' is not a number of images per class"),
        ("- {source: x, applies: {ipc: [0]}, settings: {}}", "ipc '0' is not a number of images per class"),
        ("- {source: x, applies: {ipc: [true]}, settings: {}}", "applies.ipc"),
        ("- just text", "blocks.0"),
        ("- {source: x, settings: {teacher: [3}}", "is not plain YAML"),
        ("- !!python/object/apply:os.system ['true']", "is not plain YAML"),
    ],
)
def test_a_wrong_recipe_file_is_one_line(ask: Ask, tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path / "mine.yaml", "mine", f"{body}\n")
    for size in (None, 32):
        with pytest.raises(DDBenchError) as caught:
            ask(recipes=("smoke", path), image_size=size)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- a list", b"\xff\xfe", b"name: x"])
def test_a_file_that_is_no_recipe_is_one_line(ask: Ask, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(DDBenchError, match=r"mine\.yaml"):
        ask(recipes=("smoke", str(path)))


def test_a_folder_is_no_recipe(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(DDBenchError, match="cannot be read"):
        ask(recipes=("smoke", str(tmp_path / "mine.yaml")))


def test_a_budget_of_ones_own(one: One, tmp_path: Path) -> None:
    body = "- {source: mine, settings: {data: {image_size: 24, stored_size: 24}, teacher: {epochs: 2}}}\n"
    path = write(tmp_path / "mine.yaml", "mine", body, kind="budget")
    cell = one(recipes=(path,))
    assert (cell.recipes, cell.data.image_size, cell.teacher.epochs) == (("mine",), 24, 2)


CONDENSATION = {
    "cifar10": (32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": (32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": (32, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "fashion-mnist": (28, (0.2861,) * 3, (0.3530,) * 3),
}
"""Size, mean and deviation in `utils.py: get_dataset` of VICO-UoE/DatasetCondensation."""


@pytest.mark.parametrize("dataset", CONDENSATION)
def test_paper_has_the_sizes_of_dc_dsa_and_dm_under_their_protocol_only(ask: Ask, dataset: str) -> None:
    def paper(method: str, *evaluators: str) -> list[Experiment]:
        return ask(methods=(method,), datasets=(dataset,), recipes=("paper",), evaluators=evaluators)

    size, mean, std = CONDENSATION[dataset]
    for method in ("dm", "dm-rbf", "dc", "dsa", "random"):
        (cell,) = paper(method, "dsa")
        assert (cell.data.image_size, cell.data.stored_size) == (size, size)
        assert (cell.data.mean, cell.data.std) == (mean, std)
        assert cell.student == "convnet-d3"
    for method, evaluator in (
        ("dm", "fkd"),
        ("random", "hard"),
        ("wmdd", "fkd"),
        ("wmdd", "dsa"),
        ("full", "full-data"),
    ):
        message = (
            f"'paper' has no sizes for dataset '{dataset}' with method '{method}' and evaluator '{evaluator}'; "
            "choose one of: "
        )
        with pytest.raises(DDBenchError, match=message):
            paper(method, evaluator)


def test_paper_covers_given_sets_as_random_images() -> None:
    known = load_recipes((), PluginRegistry())
    cell = ("cifar10", "given:mtt@0123456789abcdef")
    assert recipe_names(("paper",), known, *cell, "dsa") == ("paper",)
    settings = compose(known, ("paper",), *cell, 1, "dsa")
    assert settings["data"] == compose(known, ("paper",), "cifar10", "random", 1, "dsa")["data"]
    assert settings["data"]["image_size"] == 32


def test_the_default_budget_of_a_dataset_is_that_of_every_method(ask: Ask) -> None:
    cells = ask(methods=("dm", "wmdd"), datasets=("cifar10", "tiny-imagenet"), recipes=())
    assert [cell.recipes for cell in cells] == [("quick",), ("quick",), ("paper",), ("paper",)]
