"""Runs with teachers of the user: class orders, subsets of ImageNet, gray images, and what a record says of them."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddbench.nn.build import build_network
from ddbench.nn.class_order import ilsvrc_wnids

if TYPE_CHECKING:
    from conftest import Shell

SIZE, ARCH = 16, "convnet-bn-d1"
NUMBERS = tuple(str(number) for number in range(12))
HALF = (0.5, 0.5, 0.5)
Colour = Callable[[float], tuple[float, float, float]]


def hue(share: float) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(share, 1.0, 0.9)


def brightness(share: float) -> tuple[float, float, float]:
    return share, share, share


def images(folder: Path, classes: Sequence[str], colour: Colour = hue, train: int = 4, val: int = 4) -> Path:
    """A folder of plain images with a little noise, each class of its own colour."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                plain = 255 * np.array(colour(number / len(classes))) + random.integers(-3, 4, (SIZE, SIZE, 1))
                pixels = Image.fromarray(plain.clip(0, 255).astype(np.uint8))
                pixels.save(folder / split / name / f"{index}.png")
    return folder


def pixels_of(folder: Path, outputs: Sequence[str], mean: Any, std: Any) -> tuple[Tensor, Tensor]:
    paths = sorted(folder.glob("train/*/*.png"))
    loaded = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths]).permute(0, 3, 1, 2)
    wanted = torch.tensor([list(outputs).index(path.parent.name) for path in paths])
    return (loaded / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1), wanted


def teacher_of(folder: Path, outputs: Sequence[str], mean: Any = None, std: Any = None) -> dict[str, Tensor]:
    """Weights that know every image: random convolutions under a classifier that is solved for, in this class order."""
    network = build_network(ARCH, len(outputs), SIZE, seed=3).eval()
    inputs, wanted = pixels_of(folder, outputs, mean or (0.485, 0.456, 0.406), std or (0.229, 0.224, 0.225))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        features = network.features(inputs).flatten(1).double()  # type: ignore[operator,union-attr]
    targets = torch.nn.functional.one_hot(wanted, len(outputs)).double()
    features = torch.cat([features, torch.ones(len(features), 1).double()], 1)
    gram = features @ features.T + 1e-3 * torch.eye(len(features)).double()
    solution = (features.T @ torch.linalg.solve(gram, targets)).T.float()
    return {
        **state,
        "classifier.weight": solution[:, :-1].contiguous(),
        "classifier.bias": solution[:, -1].contiguous(),
    }


def command(folder: Path, teacher: Path, *settings: str) -> tuple[str, ...]:
    options = ("--method", "random", "--ipc", "1", "--recipe", "smoke", "--image-size", str(SIZE), "--arch", ARCH)
    assignments = [f"teacher.checkpoint={teacher}", *settings]
    sets = [word for text in assignments for word in ("--set", text)]
    return ("run", "--dataset", f"imagefolder:{folder}", *options, "--device", "cpu", "--precision", "fp32", *sets)


def record_of(shell: Shell) -> dict[str, Any]:
    (path,) = (shell.results / "records").iterdir()
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_classes_in_numeric_order_are_refused_before_anything_is_distilled(shell: Shell, tmp_path: Path) -> None:
    folder, teacher = images(tmp_path / "numbers", NUMBERS), tmp_path / "numeric.pth"
    torch.save({"model": teacher_of(folder, NUMBERS), "epoch": 3}, teacher)
    outcome = shell(*command(folder, teacher))
    outcome.refused("numeric.pth) has its classes in another order", "16.67 %, but 100.00 %", "'10' is '2'")
    outcome.refused("--set teacher.classes=FILE")
    assert not {path.parts[0] for path in map(Path, shell.files("cache"))} & {"teacher", "distill", "evaluate"}


@pytest.mark.parametrize("given", ["a file", "class_to_idx"])
def test_an_order_by_names_is_followed_and_the_record_names_the_classes(
    shell: Shell, tmp_path: Path, given: str
) -> None:
    folder, teacher = images(tmp_path / "numbers", NUMBERS), tmp_path / "numeric.pth"
    names: dict[str, Any] = {
        "a file": {},
        "class_to_idx": {"class_to_idx": {name: number for number, name in enumerate(NUMBERS)}},
    }[given]
    torch.save({"model": teacher_of(folder, NUMBERS), **names}, teacher)
    (tmp_path / "order.txt").write_text("\n".join(NUMBERS))
    settings = [f"teacher.classes={tmp_path / 'order.txt'}"] if given == "a file" else []
    outcome = shell(*command(folder, teacher, *settings))
    assert outcome.code == 0, outcome.err
    assert "teacher: numeric.pth: its outputs are put in the order of the dataset's classes" in outcome.err
    record = record_of(shell)
    assert record["teacher"]["top1"] == 100
    assert dict(zip(record["data"]["class_names"], record["teacher"]["per_class"], strict=True)) == dict.fromkeys(
        NUMBERS, 100.0
    )
    assert record["configuration"]["teacher"].get("classes") == ("order.txt" if settings else None)
    shown = shell("show")
    assert "teacher by class" in shown.out
    assert "0 100, 1 100, 10 100, 11 100, 2 100" in shown.out


def test_a_teacher_of_imagenet_serves_a_subset(shell: Shell, tmp_path: Path) -> None:
    folder = images(tmp_path / "few", ("n01440764", "n02102040", "n02979186"))
    torch.save(teacher_of(folder, ilsvrc_wnids()), tmp_path / "imagenet.pth")
    outcome = shell(*command(folder, tmp_path / "imagenet.pth"))
    assert outcome.code == 0, outcome.err
    assert record_of(shell)["teacher"]["top1"] == 100


def test_mean_and_deviation_of_own_images_are_settings(shell: Shell, tmp_path: Path) -> None:
    folder, mean, std = images(tmp_path / "own", ("a", "b", "c")), (0.9, 0.1, 0.5), (0.1, 0.9, 0.5)
    torch.save(teacher_of(folder, ("a", "b", "c"), mean, std), tmp_path / "own.pth")
    outcome = shell(*command(folder, tmp_path / "own.pth", "data.mean=[0.9,0.1,0.5]", "data.std=[0.1,0.9,0.5]"))
    assert outcome.code == 0, outcome.err
    record = record_of(shell)
    assert record["teacher"]["top1"] == 100
    assert (record["configuration"]["data"]["mean"], record["configuration"]["data"]["std"]) == ([*mean], [*std])


def test_a_teacher_of_gray_images_works_once_they_are_normalised_as_gray(shell: Shell, tmp_path: Path) -> None:
    folder, teacher = images(tmp_path / "gray", ("a", "b", "c"), brightness), tmp_path / "gray.pth"
    weights = teacher_of(folder, ("a", "b", "c"), HALF, HALF)
    weights["features.0.weight"] = weights["features.0.weight"].sum(1, keepdim=True)
    torch.save(weights, teacher)
    outcome = shell(*command(folder, teacher))
    outcome.refused("gray.pth' takes gray images", "--set data.mean=[0.5,0.5,0.5] --set data.std=[0.5,0.5,0.5]")
    outcome = shell(*command(folder, teacher, "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"))
    assert outcome.code == 0, outcome.err
    assert record_of(shell)["teacher"]["top1"] == 100


def test_a_teacher_near_chance_is_used_with_a_note(shell: Shell, tmp_path: Path) -> None:
    folder = images(tmp_path / "own", ("a", "b", "c"))
    torch.save(
        build_network(ARCH, 3, SIZE, seed=1).state_dict() | {"classifier.bias": torch.eye(3)[1]}, tmp_path / "new.pth"
    )
    outcome = shell(*command(folder, tmp_path / "new.pth"))
    assert outcome.code == 0, outcome.err
    assert "new.pth) is near chance (33.33 %): do its image size, data.mean" in outcome.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.mean=[123.7,116.3,103.5]",), ("data.mean", "less than or equal to 1")),
        (("data.std=[0,0,0]",), ("data.std", "greater than 0")),
        (("data.mean=[0.5]",), ("data.mean",)),
        (("teacher.classes=order.txt",), ("teacher.classes names the outputs of teacher.checkpoint",)),
    ],
)
def test_settings_of_teachers_and_normalisation_are_checked(
    shell: Shell, settings: tuple[str, ...], message: tuple[str, ...]
) -> None:
    digits = ("run", "--method", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke")
    shell(*digits, *(word for text in settings for word in ("--set", text))).refused(*message)


def test_the_name_of_the_papers_code_says_which_stem_it_means(shell: Shell) -> None:
    digits = ("run", "--method", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke")
    shell(*digits, "--arch", "resnet18_modified").refused("give resnet18 and --set teacher.stem=small")
