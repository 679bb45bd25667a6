"""From what was asked for to cells: the grid's order, which recipe wins, what `--set` may say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, experiment_of, experiments
from ddbench.registry.registry import PluginRegistry


@pytest.fixture(scope="module")
def registry() -> PluginRegistry:
    return PluginRegistry()


def ask(registry: PluginRegistry, **options: Any) -> list[Experiment]:
    usual: dict[str, Any] = {"methods": ("wmdd",), "datasets": ("digits",), "ipcs": (1,), "recipes": ("smoke",)}
    return experiments(Request(**{**usual, **options}), registry)


def one(registry: PluginRegistry, **options: Any) -> Experiment:
    (cell,) = ask(registry, **options)
    return cell


def test_a_grid_is_every_cell_in_order(registry: PluginRegistry) -> None:
    cells = ask(
        registry,
        datasets=("digits", "cifar10"),
        methods=("wmdd", "full", "random"),
        ipcs=(5, 1),
        students=("convnet-d3", "resnet18"),
        seeds=2,
        repeats=3,
    )
    expected = [
        (dataset, method, ipc, repeat, student, seed)
        for dataset in ("digits", "cifar10")
        for method in ("wmdd", "full", "random")
        for ipc in ((5, 1) if method != "full" else (None,))
        for repeat in range(3 if method != "full" else 1)
        for student in ("convnet-d3", "resnet18")
        for seed in range(2)
    ]
    assert [(c.dataset, c.method_name, c.ipc, c.repeat, c.student, c.student_seed) for c in cells] == expected


def test_a_cell_named_twice_counts_once(registry: PluginRegistry) -> None:
    """Otherwise two copies of one number would be shown as two students without deviation."""
    once = ask(registry, students=("convnet-d3",))
    twice = ask(
        registry,
        methods=("wmdd", "wmdd"),
        datasets=("digits", "digits"),
        ipcs=(1, 1),
        students=("convnet-d3", "convnet-d3"),
    )
    assert twice == once


def test_a_protocol_is_the_methods_own_or_the_one_asked_for(registry: PluginRegistry) -> None:
    assert one(registry).evaluator_name == "fkd"
    assert one(registry, methods=("full",)).evaluator_name == "full-data"


def test_several_protocols_are_several_cells(registry: PluginRegistry) -> None:
    cells = ask(registry, methods=("wmdd", "random"), evaluators=("hard", "fkd", "hard"), repeats=2)
    assert [(cell.method_name, cell.evaluator_name, cell.repeat) for cell in cells] == [
        (method, evaluator, repeat)
        for method in ("wmdd", "random")
        for evaluator in ("hard", "fkd")
        for repeat in (0, 1)
    ]
    assert len({cell.name for cell in cells}) == len(cells)
    assert ask(registry, evaluators=("hard", "fkd")) == [one(registry, evaluators=(name,)) for name in ("hard", "fkd")]


def test_an_unknown_protocol_among_several_is_refused(registry: PluginRegistry) -> None:
    with pytest.raises(DDBenchError, match="unknown evaluator 'hrad'; did you mean 'hard'"):
        ask(registry, evaluators=("fkd", "hrad"))


def test_a_setting_of_one_protocol_concerns_its_cells_alone(registry: PluginRegistry) -> None:
    fkd, hard = ask(registry, evaluators=("fkd", "hard"), assignments=("hard.epochs=4",))
    assert (fkd.changed, hard.changed) == ((), ("evaluator.epochs",))
    assert hard.evaluator.model_dump()["epochs"] == 4


def test_a_distilled_set_is_not_evaluated_by_training_on_the_real_one(registry: PluginRegistry) -> None:
    with pytest.raises(DDBenchError, match="use it with --method full"):
        one(registry, methods=("random",), evaluators=("full-data",))


def test_set_is_remembered_and_may_name_the_method_or_the_protocol(registry: PluginRegistry) -> None:
    wmdd, full = ask(registry, methods=("wmdd", "full"), assignments=("wmdd.steps=7", "fkd.epochs=4"))
    assert wmdd.changed == ("method.steps", "evaluator.epochs")
    assert wmdd.evaluator.model_dump()["epochs"] == 4
    assert full.changed == ()
    with pytest.raises(DDBenchError, match="this run has no --evaluator hard"):
        one(registry, methods=("wmdd",), assignments=("hard.epochs=9",))


def test_one_budget_at_a_time(registry: PluginRegistry) -> None:
    with pytest.raises(DDBenchError, match="one budget at a time, not quick and smoke"):
        one(registry, recipes=("smoke", "quick"))


def test_an_own_recipe_cannot_pass_for_an_installed_one(registry: PluginRegistry, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("{name: paper, kind: budget, about: x, blocks: []}")
    with pytest.raises(DDBenchError, match="like an installed one: rename it"):
        one(registry, recipes=("smoke", str(own)))


@pytest.mark.parametrize("text", ["distill.jpeg_quality=true", "evaluator.cutmix_alpha=on", "teacher.checkpoint="])
def test_booleans_and_nothing_are_no_numbers_and_no_paths(registry: PluginRegistry, text: str) -> None:
    with pytest.raises(DDBenchError, match=r"a number is needed|there is no value"):
        one(registry, assignments=(text,))
    hard = one(registry, evaluators=("hard",))
    assert (hard.evaluator_name, type(hard.evaluator).__name__) == ("hard", "HardLabels")


def test_the_student_is_the_teachers_network_with_its_stem(registry: PluginRegistry) -> None:
    same = one(registry, datasets=("imagenette",), recipes=("quick",))
    assert (same.student, same.student_stem, same.teacher.stem) == ("resnet18", "imagenet", "imagenet")
    other = one(registry, datasets=("imagenette",), recipes=("quick",), students=("convnet-d3",))
    assert (other.student, other.student_stem, other.teacher.arch) == ("convnet-d3", "auto", "resnet18")


def write(path: Path, name: str, body: str, kind: str = "numerics") -> str:
    path.write_text(f"name: {name}\nkind: {kind}\nabout: a test\nblocks:\n{body}")
    return str(path)


def test_later_recipes_win_over_earlier_ones_and_set_over_all(registry: PluginRegistry, tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "first", "- {source: x, settings: {teacher: {epochs: 7, momentum: 0.5}}}\n")
    second = write(tmp_path / "second.yaml", "second", "- {source: x, settings: {teacher: {epochs: 8}}}\n")
    both = one(registry, recipes=("smoke", first, second))
    assert (both.teacher.epochs, both.teacher.momentum, both.teacher.batch_size) == (8, 0.5, 32)
    assert both.recipes == ("smoke", "first", "second")
    assert one(registry, recipes=("smoke", second, first)).teacher.epochs == 7
    assert one(registry, recipes=(first, "smoke")).teacher.epochs == 1
    assert one(registry, recipes=("smoke", first), assignments=("teacher.epochs=9",)).teacher.epochs == 9
    last = one(registry, assignments=("teacher.epochs=9", "teacher.epochs=10"))
    assert last.teacher.epochs == 10


def test_numerics_compose_with_any_budget(registry: PluginRegistry) -> None:
    plain, released = (one(registry, recipes=names) for names in (("smoke",), ("smoke", "released")))
    assert (plain.method.solver, released.method.solver) == ("paper", "released")  # type: ignore[attr-defined]
    assert released.method.steps == plain.method.steps == 20  # type: ignore[attr-defined]
    assert (released.statistics.variance, released.distill.jpeg_quality) == ("batch-mean", 75)
    assert released.teacher == plain.teacher


def test_a_recipe_of_another_method_changes_nothing(registry: PluginRegistry) -> None:
    plain, released = (one(registry, methods=("random",), recipes=names) for names in (("smoke",), ("smoke", "lloyd")))
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
    registry: PluginRegistry, dataset: str, chosen: tuple[str, ...], applied: tuple[str, ...]
) -> None:
    assert one(registry, datasets=(dataset,), recipes=chosen).recipes == applied


def test_another_image_size_keeps_the_ratio_of_the_stored_size(registry: PluginRegistry) -> None:
    """64 px of 72 stored: at 32 px, 36 are stored, so that crops see the same share of a picture."""
    data = one(registry, datasets=("imagenette",), recipes=("quick",), image_size=32).data
    assert (data.image_size, data.stored_size) == (32, 36)
    usual = one(registry, datasets=("imagenette",), recipes=("quick",), image_size=64).data
    assert (usual.image_size, usual.stored_size) == (64, 72)
    stored = one(registry, recipes=("quick",), image_size=32, assignments=("data.stored_size=40",)).data
    assert (stored.image_size, stored.stored_size) == (32, 40)


@given(size=st.integers(4, 800))
@settings(max_examples=30)
def test_every_image_size_fits_into_its_stored_size(registry: PluginRegistry, size: int) -> None:
    data = one(registry, datasets=("imagenette",), recipes=("paper",), image_size=size).data
    assert data.image_size == size
    assert abs(data.stored_size - size * 256 / 224) <= 0.5


def test_values_have_the_types_of_their_settings(registry: PluginRegistry) -> None:
    cell = one(
        registry,
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


def test_a_method_may_be_set_by_its_name_in_a_grid(registry: PluginRegistry) -> None:
    wmdd, random = ask(registry, methods=("wmdd", "random"), assignments=("wmdd.steps=7",))
    assert wmdd.method.steps == 7  # type: ignore[attr-defined]
    assert random.method_name == "random"
    with pytest.raises(DDBenchError, match=r"method \(random\) has no setting 'steps'"):
        ask(registry, methods=("wmdd", "random"), assignments=("method.steps=7",))


def test_options_say_the_same_as_set(registry: PluginRegistry) -> None:
    by_option = one(registry, arch="convnet-d3", device="cpu", precision="bf16")
    by_set = one(registry, assignments=("teacher.arch=convnet-d3", "runtime.device=cpu", "runtime.precision=bf16"))
    assert by_option == by_set.model_copy(update={"changed": ()})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("- {source: x, settings: {teachr: {epochs: 3}}}", "settings.teachr"),
        ("- {source: x, settings: {teacher: {epoch: 3}}}", "no setting 'epoch'; did you mean 'epochs'"),
        ("- {source: x, settings: {teacher: {epochs: soon}}}", "teacher.epochs"),
        ("- {source: x, settings: {data: {image_size: big}}}", "data.image_size"),
        ("- {settings: {teacher: {epochs: 3}}}", "source"),
        ("- {source: '', settings: {}}", "source"),
        ("- {source: x, applies: {datasets: [digits]}, settings: {}}", "applies.datasets"),
        ("- just text", "blocks.0"),
        ("- {source: x, settings: {teacher: [3}}", "is not plain YAML"),
        ("- !!python/object/apply:os.system ['true']", "is not plain YAML"),
    ],
)
def test_a_wrong_recipe_file_is_one_line(registry: PluginRegistry, tmp_path: Path, body: str, said: str) -> None:
    path = write(tmp_path / "mine.yaml", "mine", f"{body}\n")
    for size in (None, 32):
        with pytest.raises(DDBenchError) as caught:
            ask(registry, recipes=("smoke", path), image_size=size)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- a list", b"\xff\xfe", b"name: x"])
def test_a_file_that_is_no_recipe_is_one_line(registry: PluginRegistry, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(DDBenchError, match=r"mine\.yaml"):
        ask(registry, recipes=("smoke", str(path)))


def test_a_folder_is_no_recipe(registry: PluginRegistry, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(DDBenchError, match="cannot be read"):
        ask(registry, recipes=("smoke", str(tmp_path / "mine.yaml")))


def test_a_budget_of_ones_own(registry: PluginRegistry, tmp_path: Path) -> None:
    body = "- {source: mine, settings: {data: {image_size: 24, stored_size: 24}, teacher: {epochs: 2}}}\n"
    path = write(tmp_path / "mine.yaml", "mine", body, kind="budget")
    cell = one(registry, recipes=(path,))
    assert (cell.recipes, cell.data.image_size, cell.teacher.epochs) == (("mine",), 24, 2)


def test_a_wrong_cell_anywhere_in_the_grid_refuses_the_whole(registry: PluginRegistry) -> None:
    with pytest.raises(DDBenchError, match="--ipc 0"):
        ask(registry, ipcs=(10, 0))
    with pytest.raises(DDBenchError, match="unknown method 'randon'"):
        ask(registry, methods=("wmdd", "randon"))


def test_a_name_of_both_a_method_and_a_protocol_means_the_one_that_is_run(registry: PluginRegistry) -> None:
    protocol = one(registry, evaluators=("dsa",), assignments=("dsa.epochs=4",))
    assert protocol.evaluator.model_dump()["epochs"] == 4
    method = one(registry, methods=("dsa",), assignments=("dsa.iterations=5",))
    assert method.method.model_dump()["iterations"] == 5
    with pytest.raises(DDBenchError, match=r"'dsa' is a method and an evaluator here: write method\. or evaluator\."):
        one(registry, methods=("dsa",), evaluators=("dsa",), assignments=("dsa.iterations=5",))
    with pytest.raises(DDBenchError, match="this run has no --method dsa"):
        one(registry, assignments=("dsa.iterations=5",))


def test_an_experiment_comes_back_from_json() -> None:
    registry = PluginRegistry()
    request = Request(("wmdd",), ("digits",), (2,), ("smoke",), assignments=("evaluator.labels=stored",))
    (cell,) = experiments(request, registry)
    tree = json.loads(json.dumps(cell.model_dump(mode="json")))
    again = experiment_of(tree, registry)
    assert again == cell
    assert type(again.method) is type(cell.method)
